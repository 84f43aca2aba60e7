"""The paper's language: numbers by key, sentences by verdict, and an error for whatever nobody accounts for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.publish import manuscript
from dontblink.publish.manuscript import check_digits, check_figures, fill
from dontblink.publish.numbers import Numbers

CELLS = {
    "glm": {"easy_one": {"estimate": 0.5731, "ci_low": -0.0004, "ci_high": 0.62}},
    "qwen": {"easy_one": {"estimate": 1.0, "ci_low": 0.9, "ci_high": 1.1}},
}
CLAIM = {"verdict": "same direction", "tested": False, "title": "t"}
VERDICTS = (
    "{% if C1 is reproduced %}A{% elif C1 is same_direction %}B{% elif C1 is not_reproduced %}C"
    "{% elif C1 is not_testable %}D{% endif %}"
)
PLANTED = "{{ collapse.word | text }}{% raw %}"


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Return made-up numbers of a temporary project."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "testbed"
    folder.mkdir(parents=True)
    content = {"cells": CELLS, "n": 12345, "p": 0.0002, "small": 2.4e-6, "zero": 0.0, "word": "seven", "items": 3}
    content |= {"planted": PLANTED, "rows": {PLANTED: 1}}
    (folder / "02_collapse.json").write_text(json.dumps(content))
    (folder / "08_claims.json").write_text(json.dumps({"claims": {"C1": CLAIM}}))
    return Numbers("testbed")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ collapse.n | count }}", "12,345"),
        ("{{collapse.p|p}}", "p < 0.001"),
        ("{{ collapse.p | p_value }}", "< 0.001"),
        ("{{ collapse.items | count }}", "3"),  # no method of a mapping hides a key
        ("{{ collapse.small | small }}", r"$2.4 \times 10^{-6}$"),
        ("{{ collapse.cells.glm[visual].estimate | percent }}", "57\N{NO-BREAK SPACE}%"),
        ("{{ collapse.cells.glm[visual].ci_low | three }}", "0.000"),
        ('{{ collapse.cells.glm[visual] | interval("two") }}',
         "0.57\N{NO-BREAK SPACE}[0.00,\N{NO-BREAK SPACE}0.62]"),
        ("{% for m in collapse.cells %}{% for b in collapse.cells[m] %}{{ m | name }}/{{ b | name }} "
         "{{ collapse.cells[m][b].estimate | one }};{% endfor %}{% endfor %}", "glm/easy one 0.6;qwen/easy one 1.0;"),
        ("{% if collapse.n > 12344 %}yes{% else %}no{% endif %}", "yes"),
        ("{% if collapse.zero >= collapse.p %}yes{% else %}no{% endif %}", "no"),
        ('{% if profile == "testbed" %}t{% else %}p{% endif %}{% if profile == "paper" %}x{% endif %}', "t"),
        (VERDICTS, "B"),
        ("a {#fig:label} $x_{1}^{2}$\n", "a {#fig:label} $x_{1}^{2}$\n"),
    ],
)  # fmt: skip
def test_a_tag_becomes_its_number_or_its_alternative(numbers: Numbers, source: str, text: str) -> None:
    assert fill(source, numbers, {"visual": "easy_one"}) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ collapse.m | count }}", r"figures/testbed/02_collapse.json: top level has no key 'm'; there stands cells"),
        ("{{ collapse.cells.glm.hard_one.estimate | two }}", "cells.glm has no key 'hard_one'"),
        ("{{ entropy.m | count }}", "'entropy' is undefined; known are collapse, claims, C1, profile"),
        ("{{ collapse.n }}", r"12345: expected `key \| format`; formats are percent"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ collapse.n | miles }}", "No filter named 'miles'"),
        ("{{ collapse.n | two | three }}x{{ collapse.word | count }}", "'seven' is nothing for the format count"),
        ("{{ collapse.cells | count }}", "holds several values, glm, qwen; name one"),
        ('{{ collapse.n | interval("two") }}', "nothing for the format interval"),
        ('{{ collapse.cells.glm.easy_one | interval("miles") }}', "nothing for the format interval: 'miles'"),
        ("{{ 57 | percent }}", "a value typed by hand"),
        ("{% if collapse.n > 1 %}yes{% endif %}", "lacks its {% else %}"),
        (VERDICTS.replace("{% elif C1 is not_testable %}D", ""), "expected exactly reproduced, same_direction"),
        (VERDICTS.replace("C1", "C7"), "'C7' is undefined"),
        ("{% if collapse.n > 1 %}yes{% else %}no", "'endif'"),
        ("{% frobnicate %}", "unknown tag 'frobnicate'"),
        ("{{ collapse.n.__class__.__mro__ | text }}", "unsafe"),
        ("{{ collapse._numbers.folder | text }}", "unsafe"),
        ("{% include '/etc/hostname' %}", "no loader"),
    ],
)
def test_a_wrong_tag_stops_the_build_and_its_line_and_key_are_named(
    numbers: Numbers, source: str, message: str
) -> None:
    with pytest.raises(NamedError, match=message) as caught:
        fill(f"one\n\nthree {source}", numbers, {})
    assert str(caught.value).startswith("line 3: ")


def test_a_recorded_text_is_shown_and_neither_filled_nor_read_as_markdown(numbers: Numbers) -> None:
    source = "{{ collapse.planted | text }}{% for row in collapse.rows %}; {{ row | text }}{% endfor %}"
    shown = manuscript.escape(PLANTED)
    assert not re.search(r"(?<!\\)[{}|]", shown)
    assert fill(source, numbers, {}) == f"{shown}; {shown}"


@pytest.mark.parametrize(
    "source",
    ["falls by 57 %", "in 9 of nine cells", "about 0.5", "see [12]", "n=300", "- 3 models", "| a | 4.2 |", "x2 y"],
)
def test_a_digit_typed_by_hand_stops_the_build(source: str) -> None:
    with pytest.raises(NamedError, match="digits typed by hand"):
        check_digits(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "falls by {{ collapse.n | count }}", "$x_1 + 2$", "$$\n\\frac{1}{2}\n$$", "[@raghu2026dontblink, -@x2019]",
        "## Results in 3 parts\n\ntext", "![c](02_collapse){#fig:c1}", "<!-- 12 -->",
        "{% if a.b > 0.5 %}x{% else %}y{% endif %}",
    ],
)  # fmt: skip
def test_digits_of_placeholders_equations_citations_labels_and_headings_are_accounted_for(source: str) -> None:
    check_digits(source, {})


def test_an_allowed_digit_passes_and_an_idle_allowance_does_not() -> None:
    check_digits("the claims (C1, C2) and Qwen3-VL.", {"C1": "a", "C2": "b", "Qwen3-VL": "c"})
    with pytest.raises(NamedError, match="does not have: C2"):
        check_digits("C1 alone", {"C1": "a", "C2": "b"})


def test_a_heading_hides_no_digit_of_the_text_below_it() -> None:
    with pytest.raises(NamedError, match="7"):
        check_digits("# Heading 1\n\nand 7 more", {})


def test_figures_are_shown_or_left_out_with_a_reason() -> None:
    source = "![one](02_collapse){#fig:a} and ![two](05_veto)"
    there = ["02_collapse", "02_collapse_steps", "05_veto"]
    assert check_figures(source, there, {"02_collapse_*": "r"}) == ["02_collapse", "05_veto"]
    with pytest.raises(NamedError, match="unused figures: 02_collapse_steps"):
        check_figures(source, there, {})
    with pytest.raises(NamedError, match="no notebook made: 05_veto"):
        check_figures(source, there[:2], {"02_collapse_*": "r"})
    with pytest.raises(NamedError, match=r"shown or not there: 03_\*"):
        check_figures(source, there, {"02_collapse_*": "r", "03_*": "r"})
    with pytest.raises(NamedError, match="shown or not there: 05_veto"):
        check_figures(source, there, {"02_collapse_*": "r", "05_veto": "r"})


@pytest.mark.parametrize(
    ("simulated", "shown"),
    [
        ({"n_at_80": 300.4}, ("300", "300")),  # of the claim's test, whatever the rule
        ({"n_at_80": 400.0, "n_at_80_by_rule": {"same_direction": 400.0}}, ("400", manuscript.DASH)),
        ({}, (manuscript.DASH, manuscript.DASH)),
    ],
)
def test_a_rule_shows_the_items_that_its_own_word_needs(simulated: dict[str, object], shown: tuple[str, str]) -> None:
    claim = {"simulated": simulated}
    found = tuple(manuscript.make_format("claim_power")(claim, rule) for rule in ("same_direction", "reproduced"))
    assert found == shown
