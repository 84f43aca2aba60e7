"""Parameters are read strictly: what YAML would forgive is an error that names file, line, key and remedy."""

import json
import os
from pathlib import Path

import pytest
import yaml

from dontblink import params, paths
from dontblink.params import ParamsError
from dontblink.questions.subset import task_type_of

TESTBED = paths.params_file("testbed").read_text()


def load(folder: Path, text: str, name: str = "testbed") -> dict[str, dict[str, object]]:
    """Load a text as params/<name>.yaml."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return params.load(file)[1]


def edit(old: str, new: str) -> str:
    """Return the testbed's parameters with one text replaced."""
    assert TESTBED.count(old) == 1, f"{old!r} stands {TESTBED.count(old)} times"
    return TESTBED.replace(old, new)


@pytest.mark.parametrize("profile", ["testbed", "paper"])
def test_the_shipped_files_are_valid_and_have_the_schemas_keys(profile: str) -> None:
    found, sections = params.load(paths.params_file(profile))
    assert found == profile
    assert {name: set(values) for name, values in sections.items()} == {
        k: set(v) for k, v in params.SCHEMA.items()
    }


def test_checked_values_are_those_of_the_file() -> None:
    _, sections = params.load(paths.params_file("testbed"))
    assert {"profile": "testbed", **sections} == yaml.safe_load(TESTBED)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_risk: 0.1", "max_risk: 1e-3", r"max_risk: found '1e-3' \(text\).*write 1.0e-3"),
        ("max_risk: 0.1", "max_risk: 5E-1", "write 5.0e-1"),
        ("max_risk: 0.1", "max_risk: 1.5e1", r"write 1.5e\+1"),
        ("  bins: 10", "  binns: 10", "collapse.binns: unknown key; expected one of bins, bootstrap_replicates"),
        ("  bins: 10", "  # bins: 10", "collapse.bins: missing; add it"),
        ("  bins: 10", "  bins: 10\n  bins: 12", r":\d+: bins: stands here and in line \d+; remove one"),
        ("  bins: 10", "  bins: 10.0", r"collapse.bins: found 10.0 \(number\), expected a whole number from 2 to inf"),
        ("  bins: 10", "  bins: ten", r"found 'ten' \(text\)"),
        ("  bins: 10", "  bins: 1", "expected a whole number from 2"),
        ("  bins: 10", "  bins: true", r"found True \(true or false\)"),
        ("  bins: 10", "  bins:", "found nothing"),
        ("max_risk: 0.1", "max_risk: 1", r"from 0 to 1 \(ends excluded\)"),
        ("max_risk: 0.1", "max_risk: .nan", "found nan"),
        ("top_p: 1.0", "top_p: 0", r"extraction.top_p: found 0 .*, expected a number from 0 to 1 \(0 excluded\)"),
        ("top_p: 1.0", "top_p: 1.1", r"from 0 to 1 \(0 excluded\)"),
        ("device: cpu", "device: no", r"extraction.device: found False \(true or false\).*quote it"),
        ("device: cpu", "device: tpu", r"expected a text matching cpu\|cuda"),
        ("benchmarks: [symbolic, visual_reference, hallucination]", "benchmarks: []", "expected a list"),
        ("benchmarks: [symbolic, visual_reference, hallucination]", "benchmarks: symbolic", "expected a list"),
        ("benchmarks: [symbolic, visual_reference, hallucination]", "benchmarks: [a, a]", "remove the repetition"),
        ("benchmarks: [symbolic, visual_reference, hallucination]", "benchmarks: [a, 3]", r"found 3 \(whole number\)"),
        ("picture_quantiles: [0.1, 0.9]", "picture_quantiles: [0.9, 0.1]", "two entries, the smaller first"),
        ("picture_quantiles: [0.1, 0.9]", "picture_quantiles: [0.1]", "two entries, the smaller first"),
        ("picture_quantiles: [0.1, 0.9]", "picture_quantiles: [0.1, 1e-1]", "write 1.0e-1"),
        ("profile: testbed", "profile: paper", "profile: found 'paper' .*write testbed"),
        ("collapse:\n", "collapse: 3\nother:\n", "other: unknown key"),
        ("profile: testbed", "profile: [", "not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_key_found_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ParamsError, match=expected) as error:
        load(tmp_path, edit(old, new))
    assert str(error.value).startswith(f"{tmp_path}/testbed.yaml:")
    assert "\n" not in str(error.value)


def test_the_line_of_a_mistake_is_given(tmp_path: Path) -> None:
    text = edit("max_risk: 0.1", "max_risk: 1e-3")
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "max_risk: 1e-3" in row)
    with pytest.raises(ParamsError, match=rf"testbed\.yaml:{line}: veto\.max_risk"):
        load(tmp_path, text)


@pytest.mark.parametrize("text", ["", "3", "profile: testbed\ncollapse: 3\n", "- a\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ParamsError, match=r"testbed\.yaml: .*(expected the keys|missing)"):
        load(tmp_path, text)


def test_a_section_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"testbed\.yaml: pages\.: found 3"):
        load(tmp_path, TESTBED[: TESTBED.index("pages:\n")] + "pages: 3\n")


def test_a_whole_number_counts_as_the_number_it_is(tmp_path: Path) -> None:
    value = load(tmp_path, edit("temperature: 0.0", "temperature: 1"))["extraction"]["temperature"]
    assert value == 1.0 and isinstance(value, float)
    assert load(tmp_path, edit("temperature: 0.0", "temperature: 1.0e-3"))["extraction"]["temperature"] == 0.001


def test_a_bound_that_is_not_excluded_belongs_to_the_values(tmp_path: Path) -> None:
    assert load(tmp_path, edit("top_p: 1.0", "top_p: 1"))["extraction"]["top_p"] == 1.0
    assert load(tmp_path, edit("temperature: 0.0", "temperature: 0"))["extraction"]["temperature"] == 0.0


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
        with pytest.raises(ParamsError, match="questions.task_types"):
            load(tmp_path, yaml.safe_dump(given))


def test_a_section_is_written_only_if_its_content_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert params.write_sections(load(tmp_path, TESTBED), out) == list(params.SCHEMA)
    for file in out.iterdir():
        os.utime(file, (1000, 1000))
    assert params.write_sections(load(tmp_path, TESTBED.replace("# 0 is greedy", "")), out) == []
    assert params.write_sections(load(tmp_path, edit("  bins: 10", "  bins: 12")), out) == ["collapse"]
    ages = {file.stem: file.stat().st_mtime == 1000 for file in out.iterdir()}
    assert ages == {section: section != "collapse" for section in params.SCHEMA}
    assert json.loads((out / "collapse.json").read_text())["bins"] == 12


def test_the_command_splits_a_file_and_reports_a_mistake_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    file = tmp_path / "testbed.yaml"
    file.write_text(TESTBED)
    assert params.main([str(file), "--out", str(tmp_path / "results/testbed/params")]) == 0
    assert params.read_section("testbed", "collapse")["bins"] == 10
    file.write_text(edit("  bins: 10", "  bins: 1e1"))
    assert params.main([str(file), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"parameters: {', '.join(params.SCHEMA)} changed\n"
    assert printed.err.count("\n") == 1 and "write 1.0e+1" in printed.err
    assert not (tmp_path / "out").exists()


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
    params.override(sections, "")
    assert sections == before


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("veto.coverge=0.8", "SET: veto.coverge: unknown key; expected one of coverage, curve_coverages"),
        ("vetoo.coverage=0.8", "SET: vetoo: unknown key; expected one of testbed, extraction"),
        ("profile=paper", "SET: found 'profile=paper', expected section.key=value"),
        ("veto.coverage", "SET: found 'veto.coverage', expected section.key=value"),
        ("veto.coverage = 0.8", "SET: found 'veto.coverage', expected section.key=value"),
        ("veto.coverage=", "SET: veto.coverage: found nothing"),
        ("veto.coverage=1e-1", r"SET: veto.coverage: found '1e-1' \(text\).*write 1.0e-1"),
        ("veto.coverage=2", "SET: veto.coverage: found 2 .*from 0.01 to 1"),
        ("collapse.bins=12.5", "SET: collapse.bins: found 12.5 .*whole number"),
        ("veto.targets=[a, b]", r"SET: veto.targets: '\[a,' is not YAML; lists are written as \[a,b\]"),
        ("veto.targets=a", "SET: veto.targets: found 'a' .*expected a list"),
        ("collapse.bins=12 collapse.bins=14", "SET: collapse.bins: given twice; remove one"),
        ("veto.coverage={a:1,a:2}", "SET: veto.coverage: "),
    ],
)
def test_a_mistaken_override_is_one_line_and_changes_nothing(overrides: str, expected: str) -> None:
    _, sections = params.load(paths.params_file("testbed"))
    before = json.loads(json.dumps(sections))
    with pytest.raises(ParamsError, match=expected) as error:
        params.override(sections, f"entropy.min_items=30 {overrides}")
    assert "\n" not in str(error.value)
    assert sections == before


def test_the_command_takes_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(paths.params_file("testbed")), "--out", str(tmp_path), "--set"]
    assert params.main([*command, ""]) == 0
    assert params.main([*command, "collapse.bins=12 veto.coverage=0.8"]) == 0
    assert params.main([*command, ""]) == 0
    assert params.main([*command, "collapse.bins=ten"]) == 1
    printed = capsys.readouterr()
    changed = "parameters: collapse, veto changed\n"
    assert printed.out == f"parameters: {', '.join(params.SCHEMA)} changed\n" + 2 * changed
    assert printed.err.startswith("SET: collapse.bins: found 'ten'") and printed.err.count("\n") == 1


def test_files_that_are_not_there_are_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match="none.yaml: cannot be read"):
        params.load(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match="results/testbed/params/veto.json: not there; run `make params`"):
        params.read_section("testbed", "veto")


@pytest.mark.parametrize("content", [b"", b'{"bins": 1', b"[]", b"\xff"])
def test_a_damaged_section_file_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "collapse.json"
    file.write_bytes(content)
    with pytest.raises(ParamsError, match=r"collapse\.json: .*; delete it and run `make params`"):
        params.read_values(file)
