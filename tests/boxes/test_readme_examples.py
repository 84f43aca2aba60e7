"""Claims about data/evidence/README.md: every example in it runs, and every name in it exists."""

from __future__ import annotations

import json
import re
import shlex
import string
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from small_items import noise, png

from dontblink import params, paths
from dontblink.boxes import annotations, exchange
from dontblink.boxes.__main__ import build_parser, main

README = (paths.ROOT / "data" / "evidence" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMAND = "python -m dontblink.boxes"


def list_blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small checkout: a few rows in MathVista's layout, parameters of a study that asks them, a checkpoint."""
    rng, rows = np.random.default_rng(0), []
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(noise(rng, 64, 48)))
        rows.append({
            "pid": str(k), "question": "Which is it?", "image": f"{k}.png", "choices": ["one", "two"], "unit": None,
            "precision": None, "answer": "one", "question_type": "multi_choice", "answer_type": "text",
            "metadata": {"category": "general-vqa"},
        })  # fmt: skip
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    _, sections = params.load(paths.ROOT / "params" / "paper.yaml")
    sections["extraction"]["benchmarks"] = ["mathvista"]
    sections["questions"] |= {
        "mathvista_source": str(tmp_path / "testmini.json"), "n_test_items": 2, "n_calibration_items": 1,
    }  # fmt: skip
    checkpoint = paths.ROOT / "models" / "testbed" / "qwen3vl-tiny-s"
    (tmp_path / "models" / "paper").mkdir(parents=True)
    (tmp_path / "models" / "paper" / "Qwen3-VL-8B-Instruct").symlink_to(checkpoint)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    params.write_sections(sections, paths.section_file("paper", "extraction").parent)
    return tmp_path


def run_shell(line: str, variables: dict[str, str]) -> int:
    """Run a line of the shell examples: variables, `touch`, and this package's own command in this process."""
    words = shlex.split(string.Template(line).substitute(variables), comments=True)
    if words and all(re.fullmatch(r"[A-Z]=.*", word) for word in words):
        variables.update(word.split("=", 1) for word in words)
        return 0
    if words[:1] == ["touch"]:
        Path(words[1]).touch()
        return 0
    assert " ".join(words[:3]) == COMMAND, line
    return main(words[3:])


def test_the_line_that_is_shown_can_be_read() -> None:
    (line,) = list_blocks("json")
    assert annotations.format_line(annotations.Annotation.model_validate_json(line)) == line
    assert set(re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)[0].split("`")) >= {"item_id", "image"}


def test_the_python_examples_run_one_after_another_on_a_small_study(desk: Path, capsys: Any) -> None:
    pytest.importorskip("jupyter_bbox_widget")
    (desk / "data" / "evidence").mkdir(parents=True)
    names: dict[str, Any] = {}
    for text in list_blocks("python"):  # a model of random words would use up all the tokens that it may
        exec(compile(text.replace("max_new_tokens=2048", "max_new_tokens=8"), "README", "exec"), names)
    assert len(names["items"]) == 3 and names["study"].evidence_file("mathvista").is_relative_to(desk)
    assert capsys.readouterr().out.count("mathvista-") >= 3  # a model that cannot ground gives a reason an image


def test_the_shell_examples_run_one_after_another_on_a_small_study(desk: Path, capsys: Any) -> None:
    (desk / "data" / "evidence").mkdir(parents=True)
    variables: dict[str, str] = {}
    codes = {}
    for line in (line for text in list_blocks("bash") for line in text.splitlines()):
        if "project-export.json" in line:  # what Label Studio does between export and import
            tasks = json.loads((desk / "tasks.json").read_text())
            assert [task["data"]["item_id"] for task in tasks] == [f"mathvista-{k}" for k in range(3)]
            for task in tasks:
                task["annotations"] = [{"completed_by": {"email": "ana"}, "result": []}]
            (desk / "project-export.json").write_text(json.dumps(tasks))
        codes[line.split("#")[0].strip()] = run_shell(line, variables)
    assert set(codes.values()) == {0}
    shown = capsys.readouterr()
    assert "3 of 3 items annotated (3 of them as without evidence)" in shown.out and shown.err == ""
    assert "one annotator or none" in shown.out


def test_the_labelling_configuration_names_what_the_tasks_hold() -> None:
    (text,) = list_blocks("xml")
    names = {node.get("name"): node.get("toName") for node in ElementTree.fromstring(text)}
    assert names[exchange.LABEL] == names["reason"] == "image" and {"image", "question"} <= names.keys()


def test_every_name_and_option_between_backticks_exists() -> None:
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
    for text in inline:
        if dotted := re.match(r"dontblink(?:\.\w+)+", text):
            module, _, name = dotted[0].rpartition(".")
            assert hasattr(import_module(module), name), text
        elif call := re.match(r"(\w+)\(", text):
            assert hasattr(annotations, call[1]), text
    (commands,) = (action for action in build_parser()._actions if action.choices)
    parsers = dict(commands.choices)  # type: ignore[arg-type]
    options = {option for parser in parsers.values() for action in parser._actions for option in action.option_strings}
    named = {word for text in inline for word in re.findall(r"--[a-z-]+", text)}
    assert named and named <= options and "cvat" not in README
