"""Bad responses: token ids that no model should write, and texts that a scorer, a table or a page may stumble over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from bad_input import HOSTILE, TEXTS, VALUES, Kind
from bad_input_images import load_processor
from bad_input_rows import ROWS, make_picture
from hypothesis import strategies as st

from dontblink import store
from dontblink.attention.replay import SetTrace
from dontblink.attention.traces import TraceRecord, pack_responses, pack_traces, unpack_responses, unpack_traces
from dontblink.extraction import tables
from dontblink.models.generate import Response, build_response
from dontblink.models.server import read_reply
from dontblink.models.spans import Markers, segment
from dontblink.models.vlm import Prompt
from dontblink.publish import viewer
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item
from dontblink.questions.sources import Row
from dontblink.schema import HEAD_SETS, REGIONS

EOS, IMAGE, CLOSE, OPEN, BOX, END_BOX = range(6)
VOCABULARY = [
    "<|end|>", "<|image_pad|>", "</think>", "<think>", "<|begin_of_box|>", "<|end_of_box|>", "word ", "Answer:",
    " B", ".", "\n", "",
    *(text for text in HOSTILE if text.isascii() or text.encode("utf-8", "ignore").decode() == text), "\ufffd",
]  # fmt: skip
GRID, N_PROMPT = (2, 3), 9


def token_texts(ids: Sequence[int]) -> list[str]:
    """Return the text of each id alone."""
    return [VOCABULARY[i] for i in ids]


VLM: Any = SimpleNamespace(
    name="m",
    model=None,
    n_vocabulary=len(VOCABULARY),
    eos_ids=(EOS,),
    suppressed_ids=(IMAGE,),
    decode=lambda ids: "".join(token_texts(ids)),
)
PROMPT = Prompt("q1", np.arange(N_PROMPT), np.zeros((1, 1), np.float32), np.array([[1, 4, 6]]), ((40, 30),), (0,))


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
            items.append(registry.REAL[name].build_item(row, "test", "other"))
    gold = (GoldStep("$x$ is <b>", "read", ()),)
    testbed = Item("q1", "symbolic", "test", (make_picture(1),), HOSTILE[10], "7", "other", ("a",), gold_steps=gold)
    return [*items, testbed]


ITEMS = make_items()


def use_text(text: str, folder: Path) -> None:
    """Score a text for every kind of question, as a response, behind its reasoning, and as an answer."""
    forms = (text, f"so{text}</think>\n{text}", f"</think>Answer: {text}", f"<|begin_of_box|>{text}<|end_of_box|>")
    for item in ITEMS:
        for response in forms[: 4 if len(text) < 3000 else 1]:
            for closed in (True, False):
                scores = registry.score(item, response, text, closed)
                assert "strict" in scores
                for name, score in scores.items():
                    assert (
                        isinstance(score.correct, bool)
                        and isinstance(score.parsed, bool)
                        and isinstance(score.prediction, str)
                    )
                    assert not score.correct or score.parsed or name == "official", (name, score)


def trace_of(response: Response, steps: int) -> SetTrace:
    """Return measures of the right shapes."""
    n, sets, m = len(response.response_ids), len(HEAD_SETS), GRID[0] * GRID[1]
    mass = np.full((sets, n, len(REGIONS)), 0.2, np.float32)
    return SetTrace("q1", "m", np.ones(n, np.float32), -np.ones(n, np.float32), np.full((2, 2, 2), 0.1, np.float32),
    mass,
                    np.full((steps, sets, m), 0.05, np.float32))  # fmt: skip


def use_ids(ids: list[int], folder: Path) -> None:
    """Take ids from an engine to shards, tables and the viewer, and find them unchanged in each."""
    response = build_response(VLM, PROMPT, ids)
    if not response.response_ids:
        return
    for thinks, opens in ((True, True), (True, False), (False, False)):
        markers = Markers(frozenset([EOS]), CLOSE, OPEN, BOX, END_BOX, opens, thinks)
        spans = segment(response.response_ids, markers, token_texts, "")
    store.write_table(folder / "responses.parquet", pack_responses([response]), {})
    [again] = unpack_responses(store.read_table(folder / "responses.parquet"))
    assert again == response
    texts = tuple(token_texts(response.response_ids))
    coverage = np.array([0, 0, 1, 0, 0.5, 0], np.float32)
    record = TraceRecord(
        trace_of(response, len(spans.steps)), spans, texts, tuple("".join(texts[a:b]) for a, b in spans.steps),
        "".join(texts[slice(*spans.answer)]), coverage, coverage[::-1], (GRID,), (0,),
    )  # fmt: skip
    store.write_table(folder / "traces.parquet", pack_traces([record]), {})
    [found] = unpack_traces(store.read_table(folder / "traces.parquet"))
    assert found.spans == spans and found.token_texts == texts and found.step_texts == record.step_texts
    assert found.trace.mass.shape == record.trace.mass.shape
    item = ITEMS[-1]
    scores = registry.score(item, response.text, found.answer_text, spans.closed)
    measured = tables.Measured(
        item, response, found.trace, spans, found.token_texts, found.step_texts, found.coverage, found.grids, scores
    )
    blocks = tables.build_blocks([measured], sink_rule="first")
    assert blocks["tokens"].num_rows == len(texts) and blocks["items"].num_rows == 1
    assert blocks["tokens"]["token_text"].to_pylist() == list(texts)
    if len(texts) < 1000:
        row = blocks["items"].to_pylist()[0] | {"collapse": 0.1, "quantile": 0.5}
        script = viewer.to_script("show", viewer.describe_response(item, found, row, [0]))
        assert script.isascii() and not set("<>&") & set(script) and "\n" not in script[:-1]
        assert json.loads(script.removeprefix("dontblink.show(").removesuffix(");\n"))["tokens"] == list(texts)


def use_reply(reply: Any, folder: Path) -> None:
    """Read a server's reply."""
    vlm = load_processor()
    item = Item("q1", "demo", "test", (make_picture(1),), "what is a1 + b2 ?", "3", "other")
    prompt = vlm.encode(item)
    if isinstance(reply, dict) and reply.get("prompt_token_ids") == "own":
        reply = reply | {"prompt_token_ids": prompt.ids.tolist()}
    for retokenise in (False, True):
        read_reply(vlm, prompt, reply, max_new_tokens=3, engine="server", retokenise=retokenise)


REPLY = {
    "choices": [{"finish_reason": "stop", "token_ids": [9, 8], "message": {"content": "a1"}, "stop_reason": None}],
    "prompt_token_ids": "own", "usage": {"completion_tokens": 2},
}  # fmt: skip


def edit_reply(choice: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a good reply with fields replaced."""
    return {**REPLY, "choices": [{**REPLY["choices"][0], **choice}], **whole}  # type: ignore[dict-item]


CHOICE = ["finish_reason", "token_ids", "message", "stop_reason", "matched_stop", "prompt_token_ids"]
WHOLE = ["usage", "prompt_token_ids", "choices"]
ODD = [
    None, 0, -1, True, "", "x", [], {}, [None], [-1], [2**70], ["1"], [1.0], [True], {"content": 3}, {"content": []},
    {"reasoning": 1}, float("nan"), [[1]], {"completion_tokens": "2"}, [0] * 5,
]  # fmt: skip
LONG = [
    "<think>" * 1000, "</think>" * 1000, "Answer: " * 2000, "\\boxed{" * 3000, "9" * 100_000, "9," * 30_000,
    "-" * 50_000, "(A) " * 20_000, "1/" * 20_000, "a" * 100_000, "word " * 100_000, "the answer is " * 5000,
    "yes no " * 20_000, "\n" * 100_000, " " * 100_000, "[1, " * 10_000, "<" * 50_000, "**" * 50_000, "{" * 50_000,
    "1e" * 20_000, "٣٤", "１２", "²", "½", "1e400", "9" * 5000 + "." + "9" * 5000, "-inf", "NaN", "0x10", "1_0", "𝟗",
]  # fmt: skip
ANY_ID = range(11, len(VOCABULARY))
ID_LISTS = [
    [], [EOS], [EOS, EOS], [CLOSE], [OPEN], [OPEN, 6, 6], [OPEN, 6, CLOSE], [6, 6, 6], [CLOSE, EOS], [IMAGE],
    [6, IMAGE, EOS], [-1], [10**6], [2**63], [-(2**70)], [BOX], [END_BOX, BOX], [CLOSE, BOX, END_BOX], [CLOSE] * 50,
    [BOX] * 50, [10] * 50, [11] * 50, [6] * 100_000, [6, 9] * 20_000 + [CLOSE, 7, 8, EOS],
    *([6, k, 9, CLOSE, 7, k, EOS] for k in ANY_ID),
]  # fmt: skip
IDS = st.integers(0, len(VOCABULARY) - 1)
KINDS = [
    Kind(
        "response texts",
        use_text,
        TEXTS | st.lists(st.sampled_from(VOCABULARY) | TEXTS, max_size=8).map("".join),
        [*HOSTILE, *LONG],
    ),
    Kind(
        "response ids",
        use_ids,
        st.lists(IDS | st.integers(-3, len(VOCABULARY) + 3), max_size=30) | st.lists(IDS, max_size=40),
        ID_LISTS,
    ),
    Kind(
        "server replies",
        use_reply,
        VALUES
        | st.builds(
            edit_reply,
            st.dictionaries(st.sampled_from(CHOICE), VALUES | st.sampled_from(ODD), max_size=2),
            st.dictionaries(st.sampled_from(WHOLE), VALUES | st.sampled_from(ODD), max_size=1),
        ),
        [
            *ODD,
            *(edit_reply({name: value}, {}) for name in CHOICE[:4] for value in ODD),
            *(edit_reply({}, {name: value}) for name in WHOLE for value in ODD),
            *(edit_reply({"token_ids": None, "finish_reason": "length", "message": value}, {}) for value in ODD),
        ],
    ),
]
