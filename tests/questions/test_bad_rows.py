"""Bad questions and answers: JSONL files with columns lost, renamed and replaced, broken lines, texts to be scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from bad_input import HOSTILE, LINES, NUMBERS, TEXTS, VALUES, Rows, attack, make_picture
from hypothesis import strategies as st

from dontblink import params, paths
from dontblink.boxes.annotations import attach_boxes
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item
from dontblink.questions.sources import Row

SETTINGS = params.load(paths.params_file("testbed"))[1]["questions"]
N_ROWS = 4
ROWS: dict[str, list[dict[str, Any]]] = {
    "mathvista": [
        {"pid": str(k), "question": f"Which is {k}?", "image": f"images/{k}.png", "choices": ["one", "two"],
        "unit": None,
         "precision": 1.0, "answer": "one", "question_type": "multi_choice", "answer_type": "text",
         "metadata": {"category": "general-vqa", "task": "t", "context": "c", "grade": "g", "language": "english",
                      "source": "s", "skills": ["arithmetic"]}}
        for k in range(N_ROWS)
    ],
    "mmmu_pro": [
        {"id": f"test_{k}", "question": "What is in <image 1>?", "options": "['a', 'b', 'c']", "answer": "B",
         "subject": "Art", "topic_difficulty": "Easy", "img_type": "['Photos']", "image_1": f"images/{k}.png"}
        for k in range(N_ROWS)
    ],
    "hallusionbench": [
        {"category": "VD", "subcategory": "illusion", "set_id": str(k), "figure_id": "1", "question_id": "0",
         "visual_input": "1", "question": "Is it red?", "gt_answer": "1", "filename": f"images/{k}.png"}
        for k in range(N_ROWS)
    ],
}  # fmt: skip
SPLITS = {"mathvista": "testmini", "mmmu_pro": "test", "hallusionbench": "image"}
PATHS = [
    "../secret.png", "/etc/passwd", "images/../../x.png", "images", "", "images/\0.png", "x" * 300 + ".png",
    "images/0.png/x",
    "C:\\x.png", "images/loop.png", "images/text.png", "images/empty.png", "~/x.png", "http://127.0.0.1/x.png",
    "images/\ud800.png",
]  # fmt: skip
COLUMNS = sorted({column for rows in ROWS.values() for column in rows[0]})
Edits = list[tuple[int, str, Any]]


def lay_out(folder: Path, benchmark: str, lines: list[bytes]) -> Path:
    """Write pictures, good and odd, and the file of a split; return it."""
    images = folder / "images"
    if not images.is_dir():
        images.mkdir(parents=True)
        for number in range(N_ROWS):
            (images / f"{number}.png").write_bytes(make_picture(number))
        (images / "text.png").write_text("no picture")
        (images / "empty.png").touch()
        (images / "loop.png").symlink_to(images / "loop.png")
        (folder.parent / "secret.png").write_bytes(make_picture(5))
    file = folder / f"{SPLITS[benchmark]}.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def use(value: tuple[str, Edits, list[bytes]], folder: Path) -> Rows:
    """Load a benchmark whose rows were edited, and use its items as a run does: hash, list, attach, score."""
    benchmark, edits, extra = value
    rows = [dict(row) for row in ROWS[benchmark]]
    for place, column, content in edits:
        if content is ...:
            rows[place % N_ROWS].pop(column, None)
        elif column.startswith("metadata.") and isinstance(rows[place % N_ROWS].get("metadata"), dict):
            metadata = rows[place % N_ROWS]["metadata"]
            rows[place % N_ROWS]["metadata"] = {**metadata, column.partition(".")[2]: content}
        else:
            rows[place % N_ROWS][column] = content
    lines = [json.dumps(row).encode() for row in rows] + extra
    file = lay_out(folder / "set", benchmark, lines)
    settings = SETTINGS | {f"{benchmark}_source": str(file), f"{benchmark}_config": "", "n_test_items": N_ROWS * 5}
    questions = registry.load_questions(benchmark, {}, settings | {"n_calibration_items": 1})
    items = [item for part in questions.items.values() for item in part]
    for item in items:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", item.id), f"{item.id!r} cannot be a part of a file name"
        assert isinstance(item.question, str) and item.question.strip()
        assert len(item.content_hash) == len(item.prompt_hash) == 64
        for image in item.images:
            inside = image.resolve().is_relative_to((folder / "set").resolve()) if isinstance(image, Path) else True
            assert inside, f"{image} leaves the data set"
        for response in ("", "</think>Answer: A", "</think>\\boxed{yes}"):
            registry.score(item, response, response, True, SETTINGS["generator"])
    attached, lacking = attach_boxes(items, [])
    assert not attached and len(lacking) == len(items)
    table = pd.DataFrame([{"item_id": item.id, "stratum": questions.strata[item.id], "lacks": ""} for item in items])
    table.to_csv(folder / "questions.csv", index=False)
    (folder / "texts.txt").write_text("".join(item.question + item.answer + item.source for item in items))
    n_lines = sum(bool(line.decode("utf-8", "replace").strip()) for line in b"\n".join(lines).split(b"\n"))
    return Rows(n_lines, len(items), [reason for _, reason in questions.rejected])


def edit() -> st.SearchStrategy[tuple[int, str, Any]]:
    """Draw one change of one row: a column lost, or with another value."""
    columns = (
        st.sampled_from([*COLUMNS, "config", "query", "decoded_image", "image", "image_2", "metadata.category"]) | TEXTS
    )
    columns |= st.sampled_from(["metadata.skills", "metadata.task", "metadata.context"])
    contents = VALUES | NUMBERS | st.sampled_from(PATHS) | st.just(...) | st.builds(dict, bytes=st.none(), path=TEXTS)
    return st.tuples(st.integers(0, N_ROWS - 1), columns, contents)


def list_edits() -> list[tuple[str, Edits, list[bytes]]]:
    """Return every column lost, empty, of another type; every hostile text as a question, a path and an answer."""
    made: list[tuple[str, Edits, list[bytes]]] = []
    odd = [..., None, "", 0, -1.5, True, [], {}, ["x"], {"a": 1}, float("nan"), 10**400, "\ud800", [[]], [None, None]]
    for benchmark, rows in ROWS.items():
        made += [(benchmark, [(0, column, content)], []) for column in rows[0] for content in odd]
        picture = {"mathvista": "image", "mmmu_pro": "image_1", "hallusionbench": "filename"}[benchmark]
        made += [(benchmark, [(0, picture, path)], []) for path in PATHS]
        made += [(benchmark, [], [line]) for line in LINES]
        made += [(benchmark, [(0, "question", text), (1, picture, text)], []) for text in HOSTILE]
        identity = {"mathvista": "pid", "mmmu_pro": "id", "hallusionbench": "set_id"}[benchmark]
        made += [
            (benchmark, [(1, identity, text), (2, identity, text)], [])
            for text in ("a/b", "..", "1", "$(x)", "x" * 400)
        ]
    made += [("mathvista", [(0, "choices", [text, "b"]), (0, "answer", text)], []) for text in HOSTILE]
    made += [("mmmu_pro", [(0, "options", text)], []) for text in HOSTILE]
    made += [
        ("mathvista", [(0, f"metadata.{name}", content)], []) for name in ("skills", "category") for content in odd
    ]
    return made


def draw_rows() -> st.SearchStrategy[tuple[str, Edits, list[bytes]]]:
    """Draw up to three changes of the rows of a benchmark, sometimes with a broken line."""
    extra = st.lists(st.sampled_from(LINES) | st.binary(max_size=30), max_size=1)
    return st.tuples(st.sampled_from(sorted(ROWS)), st.lists(edit(), max_size=3), extra)


test_rows_of_a_benchmark = attack("benchmark rows", use, draw_rows(), list_edits())

MARKERS = ["<|end|>", "<|image_pad|>", "</think>", "<think>", "<|begin_of_box|>", "<|end_of_box|>", "word ", "Answer:",
           " B", ".", "\n"]  # fmt: skip
LONG = [
    "<think>" * 1000, "</think>" * 1000, "Answer: " * 2000, "\\boxed{" * 3000, "9" * 100_000, "9," * 30_000,
    "-" * 50_000, "(A) " * 20_000, "1/" * 20_000, "a" * 100_000, "word " * 100_000, "the answer is " * 5000,
    "yes no " * 20_000, "\n" * 100_000, " " * 100_000, "[1, " * 10_000, "<" * 50_000, "**" * 50_000, "{" * 50_000,
    "1e" * 20_000, "٣٤", "１２", "²", "½", "1e400", "9" * 5000 + "." + "9" * 5000, "-inf", "NaN", "0x10", "1_0", "𝟗",
]  # fmt: skip


def make_items() -> list[Item]:
    """Return an item for each way of scoring."""
    items = []
    kinds = [("free_form", "integer", "3"), ("free_form", "float", "0.5"), ("free_form", "list", "[1, 2]")]
    for name, rows in ROWS.items():
        fields = rows[0]
        edits: list[dict[str, Any]] = [{}]
        if name == "mathvista":
            edits += [{"question_type": q, "answer_type": a, "answer": g, "choices": None} for q, a, g in kinds]
        for number, edit in enumerate(edits):
            picture = {"mathvista": "image", "mmmu_pro": "image_1", "hallusionbench": "filename"}[name]
            row = Row("row 1", {**fields, **edit, "config": "", "pid": f"{number}"}, {picture: make_picture(1)})
            items.append(registry.REAL[name].build_item(row))
    gold = (GoldStep("$x$ is <b>", "read", ()),)
    testbed = Item("q1", "symbolic", "test", (make_picture(1),), HOSTILE[10], "7", "other", ("a",), gold_steps=gold)
    for name, covariates in (("treebench", {}), ("vstar", {}), ("gqa", {"stratum": "query"}), ("refchartqa", {}),
                             ("gqa", {"stratum": "verify/logical"}), ("visual_cot", {})):  # fmt: skip
        choices = ("one", "two") if name in ("treebench", "vstar") else ()
        right = "A" if choices else "1900"
        items.append(Item("q2", name, "test", (make_picture(1),), "?", right, "other", choices, covariates=covariates))
    return [*items, testbed]


ITEMS = make_items()


def use_text(text: str, folder: Path) -> None:
    """Score a text for every kind of question, as a response, behind its reasoning, and as an answer."""
    forms = (text, f"so{text}</think>\n{text}", f"</think>Answer: {text}", f"<|begin_of_box|>{text}<|end_of_box|>")
    for item in ITEMS:
        for response in forms[: 4 if len(text) < 3000 else 1]:
            for closed in (True, False):
                scores = registry.score(item, response, text, closed, SETTINGS["generator"])
                assert "strict" in scores
                for name, score in scores.items():
                    assert (
                        isinstance(score.correct, bool)
                        and isinstance(score.parsed, bool)
                        and isinstance(score.prediction, str)
                    )
                    assert not score.correct or score.parsed or name.startswith("official"), (name, score)


test_texts_of_a_response = attack(
    "response texts",
    use_text,
    TEXTS | st.lists(st.sampled_from(MARKERS) | TEXTS, max_size=8).map("".join),
    [*HOSTILE, *LONG],
)
