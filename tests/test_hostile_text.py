"""Nothing that a data set or a model writes runs code, or breaks out of a folder, page, figure, PDF, table or shell.

The property, for every text of `bad_input.HOSTILE` and for drawn ones: an id is a safe part of a file name or its item
is left out; a page, a figure and the paper show the text as the text that it is; a printed line stays one line; what
make is told reaches no shell as anything but one argument.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bad_input import HOSTILE, SHORT, TEXTS, find_fault, make_picture
from hypothesis import example, given
from test_makefile import Tree

from dontblink import paths
from dontblink.boxes.annotations import save_images
from dontblink.extraction import run
from dontblink.figures import picture
from dontblink.publish import manuscript, record, viewer
from dontblink.publish.record import describe_figure
from dontblink.questions.items import Item, ItemError, validate
from dontblink.questions.registry import Questions
from dontblink.questions.sources import name_item

ROOT = Path(__file__).resolve().parents[1]


def make_item(**fields: Any) -> Item:
    """Return a usable item with some fields replaced."""
    whole: dict[str, Any] = dict(id="q1", benchmark="demo", split="test", images=(make_picture(0),))
    return Item(**(whole | dict(question="q", answer="a", task_type="other") | fields))


@given(TEXTS)
@example("../../etc/passwd")
@example("..")
@example("a\nb")
@example("$(touch canary); `x` | y")
def test_an_item_id_from_a_row_is_one_safe_name(text: str) -> None:
    name = name_item("mathvista", text)
    folder = Path("/results/testbed/responses")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name) and (folder / name).parent == folder and name not in (".", "..")


@given(TEXTS)
def test_an_item_with_an_id_that_is_no_safe_name_is_left_out(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", text):
        return validate(make_item(id=text))
    with pytest.raises(ItemError) as found:
        validate(make_item(id=text))
    assert not find_fault(str(found.value))
    return None


@pytest.mark.parametrize("text", HOSTILE)
def test_no_picture_is_written_outside_its_folder(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pictures"
    with contextlib.suppress(ItemError):
        save_images([make_item(id=text)], folder)
    assert all(file.parent == folder for file in tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["..", ".", "/etc", "a/b", "../../etc", "a\\b", "~", "$HOME", "a b", ""])
def test_an_id_that_leads_out_of_its_folder_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ItemError):
        save_images([make_item(id=name)], tmp_path / "pictures")
    assert not list(tmp_path.rglob("*.png"))


@given(TEXTS)
@example("</script>")
@example("<!--")
@example("\u2028\u2029")
@example("\ud800")
def test_a_script_of_the_viewer_holds_its_data_and_nothing_else(text: str) -> None:
    script = viewer.to_script("show", {"question": text, text: [text]})
    assert script.isascii() and not set("<>&") & set(script) and script.count("\n") == 1
    assert json.loads(script.removeprefix("dontblink.show(").removesuffix(");\n")) == {"question": text, text: [text]}


def test_no_script_of_ours_takes_a_text_for_markup() -> None:
    hazards = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setTimeout\(['\"]"
    scripts = list((ROOT / "lib").rglob("*.js"))
    assert scripts and [file for file in scripts if re.search(hazards, file.read_text())] == []


DRAWN = [text for text in HOSTILE if len(text) < 1000]


@pytest.mark.parametrize("texts", [DRAWN[k : k + 6] for k in range(0, len(DRAWN), 6)])
def test_a_figure_shows_hostile_steps_as_they_stand(texts: list[str], tmp_path: Path) -> None:
    figure = plt.figure(figsize=(3 * len(texts), 2))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(Glyph|Matplotlib currently does not support|constrained_layout)")
            picture.evidence_strip(figure, np.zeros((8, 8, 3)), [], np.full((len(texts), 4), 0.2), texts, (2, 2))
            for ax, text in zip(figure.axes, texts, strict=False):
                ax.set_title(picture.wrap(text, 20))
            figure.savefig(tmp_path / "x.pdf")
            figure.savefig(tmp_path / "x.png")
        labels = [label for ax in figure.axes for label in (ax.xaxis.label, ax.title)]
        assert not any(label._preprocess_math(label.get_text())[1] for label in labels), "read as a formula"
        said = describe_figure(figure)
        assert not find_fault(said)
        assert sum(text.count("$") for text in texts) <= said.count("$")
    finally:
        plt.close(figure)


def test_a_recorded_figure_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.set_title(picture.wrap("\x1b[2Jcleared $\\frac{", 40))
    record.save_figure(figure, "02_collapse", "testbed")
    plt.close(figure)
    assert capsys.readouterr().out == "02_collapse: 1 panel. titles: \\x1b[2Jcleared $\\frac{\n"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """Return paper/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "paper" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_paper_shows_hostile_names_and_texts_and_obeys_none(build: ModuleType) -> None:
    """Through the whole chain: placeholders, pandoc, typst."""
    hostile = [text for text in SHORT if text.strip()] + [
        '`#panic("hacked")`{=typst}',
        "```{=typst}\n#panic()\n```",
        "@fig:none",
        "$#panic()$",
    ]
    rows = "\n\n".join(f"x {manuscript.FORMATS[kind](text)} y" for text in hostile for kind in ("name", "text"))
    document = build.convert(
        f"# Title\n\n{rows}\n\n| a |\n|---|\n| {manuscript.escape('a | b')} |\n", "typst", "/figures", {}
    )
    body = document[document.index("Title") :]
    assert not re.search(r"(?<!\\)#(?:panic|read|image|link|eval|include|import)\b", body), body
    assert not re.search(r"(?<!\\)@\w", body) and not re.search(r"(?<!\\)\$", body)
    assert build.compile_pdf(document).startswith(b"%PDF")
    latex = build.convert(f"x {manuscript.escape(chr(92) + 'input{/etc/passwd}')} y", "latex", ".", {})
    assert "\\input{/etc" not in latex and "textbackslash" in latex


def test_the_list_of_questions_holds_no_cell_that_a_spreadsheet_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    items = [make_item(id=f"mathvista-{k}", benchmark="mathvista") for k in range(3)]
    strata = dict(zip((item.id for item in items), ('=HYPERLINK("http://x")', "@SUM(A1)", 'a\n=1,"b'), strict=True))
    found = Questions({"test": items, "calibration": []}, [], strata)
    study: Any = SimpleNamespace(
        profile="testbed", questions={"mathvista": found}, lacking_boxes={items[0].id: "-1+cmd"}
    )
    run.write_questions(study)
    table = pd.read_csv(paths.questions("testbed") / "mathvista.csv", keep_default_na=False)
    assert len(table) == len(items), "a line break in a cell made a row"
    assert table["stratum"].tolist() == ['\'=HYPERLINK("http://x")', "'@SUM(A1)", 'a\n=1,"b']
    assert not table.astype(str).apply(lambda column: column.str.match(r"[=+@\t\r-]")).to_numpy().any()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return a copy of the skeleton in which parameters are really split."""
    return Tree(tmp_path_factory.mktemp("tree"))


@pytest.mark.parametrize(
    "value",
    [
        "$(shell touch canary)", "a.b=$(shell touch canary)", "`touch canary`", "$$(touch canary)",
        "$(eval X:=$(shell touch canary))",
        "; touch canary", "' ; touch canary ; '", '" ; touch canary ; "', "'\ntouch canary\n'", "x\n\ttouch canary",
        "\\'; touch canary; \\'",
        "| touch canary", "&& touch canary", "> canary", "a,b,$(shell touch canary)", "veto.coverage=0.8 $(error x)",
        "\\\ntouch canary",
    ],
)  # fmt: skip
def test_what_set_holds_reaches_no_shell_and_is_refused_in_one_line(tree: Tree, value: str) -> None:
    done = tree.make("params", f"SET={value}")
    assert done.returncode != 0 and not list(tree.folder.rglob("canary"))
    own = [line for line in done.stderr.splitlines() if not line.startswith(("make: ***", "Makefile:"))]
    assert len(own) == 1 and own[0].startswith("SET: ") and not find_fault(own[0]), done.stderr


def test_a_list_a_quote_and_several_values_still_reach_the_parameters(tree: Tree) -> None:
    done = tree.make("params", "SET=veto.coverage=0.8  collapse.bins=12 veto.targets=[a,b]")
    assert done.returncode == 0, done.stderr
    values = json.loads((tree.folder / "results" / "testbed" / "params" / "veto.json").read_text())
    assert values["coverage"] == 0.8 and values["targets"] == ["a", "b"]
