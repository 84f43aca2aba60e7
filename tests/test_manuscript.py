"""The paper's language: numbers by key, sentences by verdict, and an error for whatever nobody accounts for."""

import json
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.publish import manuscript
from dontblink.publish.manuscript import ManuscriptError, check_digits, check_figures, fill
from dontblink.publish.numbers import Numbers

CELLS = {
    "glm": {"easy_one": {"estimate": 0.5731, "ci_low": -0.0004, "ci_high": 0.62}},
    "qwen": {"easy_one": {"estimate": 1.0, "ci_low": 0.9, "ci_high": 1.1}},
}
CLAIM = {"verdict": "same direction", "tested": False, "title": "t"}


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Return made-up numbers of a temporary project."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "testbed"
    folder.mkdir(parents=True)
    content = {"cells": CELLS, "n": 12345, "p": 0.0002, "small": 2.4e-6, "zero": 0.0, "word": "seven"}
    (folder / "02_collapse.json").write_text(json.dumps(content))
    (folder / "08_claims.json").write_text(json.dumps({"claims": {"C1": CLAIM}}))
    return Numbers("testbed")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{02_collapse.n | count}}", "12,345"),
        ("{{ 02_collapse.p|p }}", "p < 0.001"),
        ("{{02_collapse.p | p_value}}", "< 0.001"),
        ("{{02_collapse.small | small}}", r"$2.4 \times 10^{-6}$"),
        ("{{02_collapse.cells.glm.<easy>.estimate | percent}}", "57\N{NO-BREAK SPACE}%"),
        ("{{02_collapse.cells.glm.<easy>.ci_low | three}}", "0.000"),
        ("{{02_collapse.cells.glm.<easy> | interval two}}", "0.57\N{NO-BREAK SPACE}[0.00,\N{NO-BREAK SPACE}0.62]"),
        ("{{#each 02_collapse.cells.*.*}}{{@1 | name}}/{{@2 | name}} {{.estimate | one}};{{/each}}",
         "glm/easy one 0.6;qwen/easy one 1.0;"),
        ("{{#each 02_collapse.cells.*}}{{02_collapse.cells.@1.easy_one.ci_high | one}} {{/each}}", "0.6 1.1 "),
        ("{{#if 02_collapse.n above 12344}}yes{{:else}}no{{/if}}", "yes"),
        ("{{#if 02_collapse.zero at_least 02_collapse.p}}yes{{:else}}no{{/if}}", "no"),
        ("{{#case profile}}{{:testbed}}t{{#if 02_collapse.n below 1}}x{{:else}}y{{/if}}{{:paper}}p{{/case}}", "ty"),
    ],
)  # fmt: skip
def test_a_tag_becomes_its_number_or_its_alternative(numbers: Numbers, source: str, text: str) -> None:
    assert fill(source, numbers, {"easy": "easy_one"}) == text


def test_a_sentence_is_the_one_of_the_verdict(numbers: Numbers) -> None:
    parts = {verdict: f"It is {verdict}." for verdict in manuscript.VERDICTS}
    source = "{{#case C1}}" + "".join(f"{{{{:{key}}}}}{part}" for key, part in parts.items()) + "{{/case}}"
    assert fill(source, numbers, {}) == "It is same direction."
    with pytest.raises(ManuscriptError, match="expected exactly"):
        fill(source.replace("{{:not testable}}It is not testable.", ""), numbers, {})
    with pytest.raises(ManuscriptError, match="no such claim"):
        fill(source.replace("C1", "C7"), numbers, {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{02_collapse.m | count}}", "no key 'm'"),
        ("{{03_entropy.m | count}}", "03_entropy.json: not there"),
        ("{{02_collapse.n}}", "key | format"),
        ("{{02_collapse.n | miles}}", "key | format"),
        ("{{02_collapse.cells | count}}", "holds several values"),
        ("{{02_collapse.n | interval two}}", "02_collapse.n"),
        ("{{02_collapse.word | count}}", "02_collapse.word"),
        ("{{.estimate | two}}", "outside of an #each"),
        ("{{@1 | name}}", "no such star"),
        ("{{#each 02_collapse.cells.*}}{{@2 | name}}{{/each}}", "no such star"),
        ("{{#each 02_collapse.cells.*.*}}{{.mean | two}}{{/each}}", "no such field"),
        ("{{#if 02_collapse.n above 1}}yes{{/if}}", ":else"),
        ("{{#if 02_collapse.n over 1}}yes{{:else}}no{{/if}}", "a comparison"),
        ("{{#when x}}{{/when}}", "expected #case, #if or #each"),
        ("{{#if 02_collapse.n above 1}}yes{{:else}}no", "never closed"),
        ("no{{/if}}", "not open"),
        ("{{:else}}", "in none"),
    ],
)
def test_a_wrong_tag_stops_the_build_and_is_named(numbers: Numbers, source: str, message: str) -> None:
    with pytest.raises(ManuscriptError, match=message) as caught:
        fill(source, numbers, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["falls by 57 %", "in 9 of nine cells", "about 0.5", "see [12]", "n=300", "- 3 models", "| a | 4.2 |", "x2 y"],
)
def test_a_digit_typed_by_hand_stops_the_build(source: str) -> None:
    with pytest.raises(ManuscriptError, match="digits typed by hand"):
        check_digits(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "falls by {{02_collapse.n | count}}", "$x_1 + 2$", "$$\n\\frac{1}{2}\n$$", "[@raghu2026dontblink, -@x2019]",
        "## Results in 3 parts\n\ntext", "![c](02_collapse){#fig:c1}", "<!-- 12 -->",
        "{{#if a.b above 0.5}}x{{:else}}y{{/if}}",
    ],
)  # fmt: skip
def test_digits_of_placeholders_equations_citations_labels_and_headings_are_accounted_for(source: str) -> None:
    check_digits(source, {})


def test_an_allowed_digit_passes_and_an_idle_allowance_does_not() -> None:
    check_digits("the claims (C1, C2) and Qwen3-VL.", {"C1": "a", "C2": "b", "Qwen3-VL": "c"})
    with pytest.raises(ManuscriptError, match="does not have: C2"):
        check_digits("C1 alone", {"C1": "a", "C2": "b"})


def test_a_heading_hides_no_digit_of_the_text_below_it() -> None:
    with pytest.raises(ManuscriptError, match="7"):
        check_digits("# Heading 1\n\nand 7 more", {})


def test_figures_are_shown_or_left_out_with_a_reason() -> None:
    source = "![one](02_collapse){#fig:a} and ![two](05_veto)"
    there = ["02_collapse", "02_collapse_steps", "05_veto"]
    assert check_figures(source, there, {"02_collapse_*": "r"}) == ["02_collapse", "05_veto"]
    with pytest.raises(ManuscriptError, match="unused figures: 02_collapse_steps"):
        check_figures(source, there, {})
    with pytest.raises(ManuscriptError, match="no notebook made: 05_veto"):
        check_figures(source, there[:2], {"02_collapse_*": "r"})
    with pytest.raises(ManuscriptError, match=r"shown or not there: 03_\*"):
        check_figures(source, there, {"02_collapse_*": "r", "03_*": "r"})
    with pytest.raises(ManuscriptError, match="shown or not there: 05_veto"):
        check_figures(source, there, {"02_collapse_*": "r", "05_veto": "r"})
