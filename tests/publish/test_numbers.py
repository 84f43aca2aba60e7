"""A recorded number is found by its key, and a key that leads nowhere says so."""

import json
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.publish.numbers import Numbers

CONTENT = {
    "n": 3,
    "cells": {"glm-4.6": {"a": {"x": 1.5}, "b": {"x": 2.5}}, "qwen": {"a": {"x": 3.5}, "b": {"x": 4.5}}},
    "pairs": {"a": {"a": {"x": 0.0}, "b": {"x": 1.0}}, "b": {"a": {"x": 2.0}, "b": {"x": 3.0}}},
    "listed": [{"k": 7}],
}


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Return the numbers of a temporary project."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "testbed"
    folder.mkdir(parents=True)
    (folder / "02_collapse.json").write_text(json.dumps(CONTENT))
    return Numbers("testbed")


def test_a_value_has_every_digit_that_was_recorded(numbers: Numbers) -> None:
    assert numbers.get("02_collapse.n") == 3
    assert numbers.get("02_collapse.listed.0.k") == 7
    assert numbers.get(("02_collapse", "cells", "glm-4.6", "a", "x")) == 1.5


def test_a_star_names_every_key_and_tells_which_also_with_a_dot_in_it(numbers: Numbers) -> None:
    rows = numbers.select("02_collapse.cells.*.a")
    assert [(row.stars, row.fields["x"]) for row in rows] == [(("glm-4.6",), 1.5), (("qwen",), 3.5)]


def test_the_other_star_leaves_out_what_an_earlier_star_took(numbers: Numbers) -> None:
    assert [row.stars for row in numbers.select("02_collapse.pairs.*.*other")] == [("a", "b"), ("b", "a")]
    assert len(numbers.select("02_collapse.pairs.*.*")) == 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("02_collapse.m", r"02_collapse.json: top level has no key 'm'; there stands cells, listed, n, pairs"),
        ("02_collapse.n.x", "has no key 'x'; there stands a int"),
        ("02_collapse.listed.1", "has no key '1'"),
        ("03_entropy.n", r"03_entropy.json: not there; run `make figures"),
        ("02_collapse.n.*", "holds no keys"),
    ],
)
def test_an_unknown_key_is_an_error_that_says_what_stands_there(numbers: Numbers, path: str, message: str) -> None:
    with pytest.raises(NamedError, match=message):
        numbers.select(path)
