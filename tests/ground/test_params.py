"""Parameters are read strictly: what YAML would forgive is an error that names file, line, key and remedy."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from dontblink import params, paths
from dontblink.errors import NamedError
from dontblink.publish import claims
from dontblink.questions.subset import task_type_of

TESTBED = paths.params_file("testbed").read_text()


def load(folder: Path, text: str, name: str = "testbed") -> params.Sections:
    """Load a text as params/<name>.yaml."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return params.load(file)[1]


def edit(old: str, new: str) -> str:
    """Return the testbed's parameters with one text replaced, the first of its kind."""
    assert f"{old}\n" in TESTBED, f"{old!r} stands nowhere"
    return TESTBED.replace(f"{old}\n", f"{new}\n", 1)


def test_the_shipped_files_say_what_they_hold_and_those_on_real_models_only_what_differs() -> None:
    found, sections = params.load(paths.params_file("testbed"))
    assert {"profile": found, **sections} == yaml.safe_load(TESTBED)
    for profile in ("paper", "boxed"):
        own = yaml.safe_load(paths.params_file(profile).read_text())
        assert (own.pop("profile"), own.pop("based_on")) == (profile, "testbed")
        expected = {name: values | own.get(name, {}) for name, values in sections.items()}
        assert params.load(paths.params_file(profile)) == (profile, expected)
        assert not [key for name, values in own.items() for key in values if values[key] == sections[name][key]]


def test_every_key_says_what_it_means() -> None:
    for section, values in params.load(paths.params_file("testbed"))[1].items():
        assert list(params.describe(section)) == list(values)
        assert all(params.describe(section).values()), section


BENCHMARKS, QUANTILES = "  benchmarks: [symbolic, visual_reference, hallucination]", "  picture_quantiles: [0.1, 0.9]"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  max_risk: 0.1", '  max_risk: "0.1"', r"found '0.1' \(text\); .*should be a valid number"),
        ("  max_risk: 0.1", "  max_risk: 1", r"found 1 \(whole number\); Input should be less than 1 \(of an acc"),
        ("  max_risk: 0.1", "  max_risk: 0", "should be greater than 0 "),
        ("  max_risk: 0.1", "  max_risk: .nan", "differ in '.nan'"),
        ("  bins: 10", "  binns: 10", "collapse.binns: unknown key; expected one of bins, bootstrap_replicates"),
        ("  bins: 10", "  # bins: 10", r"testbed.yaml: collapse.bins: missing; add it"),
        ("  bins: 10", "  bins: 10\n  bins: 12", r":\d+: bins: stands here and in line \d+; remove one"),
        ("  bins: 10", "  3: 10", r":\d+: a key is 3 \(whole number\); expected text"),
        ("  bins: 10", "  bins: 10.0", r"collapse.bins: found 10.0 \(number\); Input should be a valid integer"),
        ("  bins: 10", "  bins: ten", r"found 'ten' \(text\)"),
        ("  bins: 10", "  bins: 1", "should be greater than or equal to 2 "),
        ("  bins: 10", "  bins: 9223372036854775808", "should be less than 9223372036854775808"),
        ("  bins: 10", "  bins: true", r"found True \(true or false\)"),
        ("  bins: 10", "  bins:", "found nothing"),
        ("  top_p: 1.0", "  top_p: 0", r"extraction.top_p: found 0 .*should be greater than 0 "),
        ("  top_p: 1.0", "  top_p: 1.1", "should be less than or equal to 1 "),
        ("  engine: local", "  engine: false", r"engine: found False .*should be 'local' or 'server' .*; quote it"),
        ("  device: cpu", "  device: 3", r"extraction.device: found 3 \(whole number\).*quote it"),
        ("  device: cpu", "  device: tpu", r"should match pattern '.*cpu\|cuda"),
        (BENCHMARKS, "  benchmarks: []", "List should have at least 1 item"),
        (BENCHMARKS, "  benchmarks: symbolic", "should be a valid list"),
        (BENCHMARKS, "  benchmarks: [a, a]", "remove the repetition"),
        (BENCHMARKS, "  benchmarks: [a, 3]", r"found 3 \(whole number\)"),
        (QUANTILES, "  picture_quantiles: [0.9, 0.1]", "two entries, the smaller first"),
        (QUANTILES, "  picture_quantiles: [0.1]", "two entries, the smaller first"),
        (QUANTILES, "  picture_quantiles: [0.1, 1e-1]", "differ in '1e-1'"),
        ("profile: testbed", "profile: paper", r":\d: profile: found 'paper' .*write testbed"),
        ("profile: testbed", "", "profile: missing; add `profile: testbed`"),
        ("profile: testbed", "profile: testbed\nbased_on: ../x", r":\d: based_on: found '../x' .*another profile"),
        ("profile: testbed", "profile: testbed\nbased_on: none", "none.yaml: cannot be read"),
        ("collapse:", "collapse: 3\nother:", "other: unknown key; expected one of arithmetic, testbed, extraction"),
        ("pages:", "collapses:", "collapses: unknown key"),
        ("profile: testbed", "profile: [", "not YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_found_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(NamedError, match=expected) as error:
        load(tmp_path, edit(old, new))
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "3", "profile: testbed\ncollapse: 3\n", "- a\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(NamedError, match=r"testbed\.yaml.*(expected the keys|missing)"):
        load(tmp_path, text)


UNSURE = {  # what YAML 1.1 and 1.2, or people, read differently: what the message says to write
    "write 10, or quote it": ["010", "0_10"],
    "write 8, or quote it": ["08"],
    "write a number as 10 or 1.0e-3, true or false, or quote it": [
        *("1:30", "1:30.5", "2:00:00", "-007", "0o17", "-.5", ".5e3", "1e-3", "1E-03", "1.5e1", "5E-1", "nan", ".inf"),
        *("yes", "No", "on", "OFF", "2001-01-01", "2001-01-01t10:00:00Z", "2001-99-99", "=", "<<", "10_"),
    ],
}
ALIKE = {"1_000": 1000, "64": 64, "1.0e-3": 0.001, "0x10": 16, "0b11": 3, "00": 0, "1.": 1.0, ".5": 0.5, "010.50": 10.5}
ALIKE |= {"1.0.1": "1.0.1", "y": "y", "n": "n", "a:b": "a:b", "_1": "_1", "True": True, "~": None, "": None, "+1": 1}


@pytest.mark.parametrize(("remedy", "value"), [(remedy, value) for remedy in UNSURE for value in UNSURE[remedy]])
def test_a_value_that_two_versions_of_yaml_read_differently_is_refused(tmp_path: Path, remedy: str, value: str) -> None:
    line = TESTBED.splitlines().index("  batch_size: 64") + 1
    found = rf"readers of YAML differ in '{re.escape(value)}'; {re.escape(remedy)}$"
    with pytest.raises(NamedError, match=rf"testbed\.yaml:{line}: 'batch_size: {re.escape(value)}': {found}"):
        load(tmp_path, edit("  batch_size: 64", f"  batch_size: {value}"))
    for text in (f"a: [b, {{c: {value}}}]", f"? {value}\n: 3"):
        with pytest.raises(NamedError, match=rf"^x:1: '.*': {found}"):
            params.parse(text, "x")
    for quoted in (f"'{value}'", f'"{value}"', f"|-\n  {value}"):
        assert params.parse(f"a: {quoted}", "x") == {"a": value}


def test_a_value_that_every_reader_takes_for_the_same_thing_is_taken_for_it() -> None:
    for value, expected in ALIKE.items():
        assert params.parse(f"a: {value}", "x") == {"a": expected}, value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na:\t2", r"x:2: not YAML: found character '\\t'"),
        ("a: 1\x85b: 2", r"x: found the letter '\\x85', which ends a line unseen; remove it"),
        ("# a\u2028b: 2", r"x: found the letter '\\u2028'"),
        ("a:\n  b: !!int 010", "x:2: found the tag '.*int'; remove it"),
        ("a: ! b", "x:1: found the tag '!'; remove it"),
        ("a: 1\n---\nb: 2", "x:2: not YAML: .*another document"),
        ("%YAML 1.2\n---\na: 010", "x:3: 'a: 010': readers"),
        ("a: &b 1\nc: *d", "x:2: not YAML: found undefined alias 'd'"),
    ],
)
def test_what_yaml_allows_and_few_know_is_refused(text: str, expected: str) -> None:
    with pytest.raises(NamedError, match=expected):
        params.parse(text, "x")


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "testbed.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + TESTBED.replace("\n", "\r\n").encode())
    assert params.load(file)[1] == load(tmp_path, TESTBED)


def test_the_papers_rules_are_read_as_strictly_and_say_what_they_said(tmp_path: Path) -> None:
    for name in ("claims", "allowed"):
        file = paths.ROOT / "paper" / f"{name}.yaml"
        assert params.read_yaml(file) == yaml.safe_load(file.read_text())
    file = tmp_path / "claims.yaml"
    file.write_text((paths.ROOT / "paper" / "claims.yaml").read_text().replace("n_cells: 9", "n_cells: 09"))
    with pytest.raises(
        NamedError, match=r"claims\.yaml:\d+: '.*n_cells: 09}': readers of YAML differ in '09'; write 9"
    ):
        claims.read_ledger(file)


def test_a_mistake_is_placed_where_it_stands_in_the_file_or_in_the_one_below(tmp_path: Path) -> None:
    def line_of(row: str, text: str) -> int:
        return text.splitlines().index(row) + 1

    broken = edit("  max_risk: 0.1", "  max_risk: 2")
    above = "profile: mine\nbased_on: testbed\nveto:\n  delta: 7\n"
    with pytest.raises(NamedError, match=rf"testbed\.yaml:{line_of('  max_risk: 2', broken)}: veto\.max_risk"):
        load(tmp_path, broken)
    with pytest.raises(NamedError, match=r"testbed\.yaml:\d+: veto\.max_risk"):
        load(tmp_path, above, "mine")
    load(tmp_path, TESTBED)
    with pytest.raises(NamedError, match=r"mine\.yaml:4: veto\.delta: found 7"):
        load(tmp_path, above, "mine")
    with pytest.raises(NamedError, match=r"mine\.yaml:3: pages: found 3 .*expected keys with values"):
        load(tmp_path, "profile: mine\nbased_on: testbed\npages: 3\n", "mine")
    load(tmp_path, "profile: mine\nbased_on: testbed\n", "mine")
    with pytest.raises(NamedError, match=r"mine\.yaml:2: based_on: other is based on mine; remove one"):
        load(tmp_path, "profile: other\nbased_on: mine\n", "other")


def test_a_whole_number_counts_as_the_number_it_is_and_closed_bounds_belong_to_the_values(tmp_path: Path) -> None:
    for old, given in [("temperature: 0.0", "1"), ("temperature: 0.0", "1.0e-3"), ("temperature: 0.0", "0")]:
        value = load(tmp_path, edit(f"  {old}", f"  temperature: {given}"))["extraction"]["temperature"]
        assert value == float(given) and isinstance(value, float)
    assert load(tmp_path, edit("  top_p: 1.0", "  top_p: 1"))["extraction"]["top_p"] == 1.0


def test_a_task_rule_may_ask_for_a_value_of_several_words(tmp_path: Path) -> None:
    rules = ["mathvista.task=figure question answering:symbolic", "mathvista.*:other"]
    given = yaml.safe_load(TESTBED)
    given["questions"]["task_types"] = rules
    found = load(tmp_path, yaml.safe_dump(given))["questions"]["task_types"]
    assert found == rules
    for task, kind in (("figure question answering", "symbolic"), ("geometry problem solving", "other")):
        assert task_type_of({"task": task}, "mathvista", found) == kind
    for wrong in ("mathvista: symbolic", "mathvista.task=a b:Symbolic", "mathvista.:other"):
        given["questions"]["task_types"] = [wrong]
        with pytest.raises(NamedError, match="questions.task_types"):
            load(tmp_path, yaml.safe_dump(given))


def test_a_section_is_written_only_if_its_content_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    params.write_sections(load(tmp_path, TESTBED), out)
    assert {file.stem for file in out.iterdir()} == {*params.SECTIONS}
    for file in out.iterdir():
        os.utime(file, (1000, 1000))
    params.write_sections(load(tmp_path, TESTBED.replace("# 02:", "#")), out)
    assert all(file.stat().st_mtime == 1000 for file in out.iterdir())
    params.write_sections(load(tmp_path, edit("  bins: 10", "  bins: 12")), out)
    ages = {file.stem: file.stat().st_mtime == 1000 for file in out.iterdir()}
    assert ages == {section: section != "collapse" for section in params.SECTIONS}
    assert json.loads((out / "collapse.json").read_text())["bins"] == 12


def test_overrides_are_typed_and_take_the_place_of_the_values() -> None:
    _, sections = params.load(paths.params_file("testbed"))
    before = json.loads(json.dumps(sections))
    params.override(sections, " veto.coverage=1  collapse.bins=12\tveto.targets=[a,b] extraction.device=cuda:1 ")
    assert sections["veto"]["coverage"] == 1.0 and isinstance(sections["veto"]["coverage"], float)
    assert sections["collapse"]["bins"] == 12
    assert sections["veto"]["targets"] == ["a", "b"] and sections["extraction"]["device"] == "cuda:1"
    params.override(sections, "veto.coverage=0.9 collapse.bins=10 extraction.device=cpu")
    sections["veto"]["targets"] = before["veto"]["targets"]
    assert sections == before
    for nothing in ("", "  "):
        params.override(sections, nothing)
    assert sections == before


def test_the_value_of_an_override_may_have_spaces() -> None:
    _, sections = params.load(paths.params_file("testbed"))
    rules = '["mathvista.category=a b:symbolic", "mathvista.*:other"]'
    given = f"veto.targets=[a, b] questions.mathvista_source=/my data/für uns  questions.task_types={rules}"
    params.override(sections, f"{given} veto.delta=0.2")
    assert sections["veto"]["targets"] == ["a", "b"] and sections["veto"]["delta"] == 0.2
    assert sections["questions"]["mathvista_source"] == "/my data/für uns"
    assert sections["questions"]["task_types"] == json.loads(rules)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("veto.coverge=0.8", "SET: veto.coverge: unknown key; expected one of coverage, curve_coverages"),
        ("vetoo.coverage=0.8", "SET: vetoo: unknown key; expected one of arithmetic, testbed, extraction"),
        ("profile=paper", "SET: found 'profile=paper', expected section.key=value"),
        ("veto.coverage", "SET: entropy.min_items: found '30 veto.coverage' .*a valid integer"),
        ("veto.coverage = 0.8", "SET: entropy.min_items: found '30 veto.coverage = 0.8' "),
        ("veto.coverage =0.8", "SET: entropy.min_items: found '30 veto.coverage =0.8' "),
        ("veto.=0.8", "SET: found 'veto.=0.8', expected section.key=value"),
        ("veto.coverage=", "SET: veto.coverage: found nothing"),
        ("veto.coverage=1e-1", r"SET: veto.coverage:1: .*differ in '1e-1'; write a number as 10 or 1.0e-3"),
        ("veto.coverage=2", "SET: veto.coverage: found 2 .*should be less than or equal to 1"),
        ("collapse.bins=12.5", "SET: collapse.bins: found 12.5 .*a valid integer"),
        ("extraction.batch_size=010", "SET: extraction.batch_size:1: .*differ in '010'; write 10, or quote it"),
        ("veto.targets=[no]", r"SET: veto.targets:1: '\[no\]': readers of YAML differ in 'no'; write .*, or quote it"),
        ("veto.targets=[a, b", "SET: veto.targets:1: not YAML: .*; correct it"),
        ("veto.targets=a", "SET: veto.targets: found 'a' .*should be a valid list"),
        ("collapse.bins=12 collapse.bins=14", "SET: collapse.bins: given twice; remove one"),
        ("veto.coverage={a:1,a:2}", "SET: veto.coverage"),
    ],
)
def test_a_mistaken_override_is_one_line_and_changes_nothing(overrides: str, expected: str) -> None:
    _, sections = params.load(paths.params_file("testbed"))
    before = json.loads(json.dumps(sections))
    with pytest.raises(NamedError, match=expected) as error:
        params.override(sections, f"entropy.min_items=30 {overrides}")
    assert "\n" not in str(error.value)
    assert sections == before


def test_files_that_are_not_there_are_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(NamedError, match="none.yaml: cannot be read"):
        params.load(tmp_path / "none.yaml")
    with pytest.raises(NamedError, match="results/testbed/params/veto.json: not there; run `make params`"):
        params.read_section("testbed", "veto")


@pytest.mark.parametrize("content", [b"", b'{"bins": 1', b"[]", b"\xff"])
def test_a_damaged_section_file_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "collapse.json"
    file.write_bytes(content)
    with pytest.raises(NamedError, match=r"collapse\.json: .*; delete it and run `make params`"):
        params.read_values(file)
