"""What a result depends on is found in the sources: held against another reader of imports, and by changed lines."""

from __future__ import annotations

import ast
import functools
import random
import shutil
from collections.abc import Callable
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from dontblink import lineage, params, paths
from dontblink.errors import NamedError

ENTRIES = {
    lineage.EXTRACTION: "lib/dontblink/extraction/run.py",
    lineage.PAPER: "paper/build.py",
    lineage.PAGES: "lib/dontblink/publish/pages.py",
}
PARTS = ("lib", "notebooks", "paper", "params", "models", "data")


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, object]]:
    """Return the parameters of the testbed."""
    return params.load(paths.params_file("testbed"))[1]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of what stages read, as the root."""
    for part in PARTS:
        shutil.copytree(paths.ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(paths.ROOT / "requirements.lock", tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def find_by_bytecode(entry: Path, generator: str) -> set[str]:
    """Return our modules that a source imports, late imports included: by the standard library's reader of bytecode."""
    library = paths.ROOT / "lib"
    entries, seen = [entry, lineage.find_module("dontblink.publish.notebook")], set[str]()
    if entry.parent.name != "notebooks":
        entries = entries[:1]
    loads = lineage.find_module("dontblink.questions.registry")
    while entries:
        finder = ModuleFinder(path=[str(library)])
        finder.run_script(str(entries.pop()))
        files = {Path(module.__file__).resolve() for module in finder.modules.values() if module.__file__}
        if loads in files and generator not in seen:
            entries.append(lineage.find_module(generator))
            seen.add(generator)
        seen |= {lineage.relative(file) for file in files if library in file.parents}
    return seen - {generator}


@pytest.fixture(scope="module")
def reached(sections: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """Return, by stage, our modules that its code imports, as bytecode says."""
    entries = ENTRIES | {stem: lineage.relative(file) for stem, file in lineage.list_notebooks().items()}
    generator = sections["questions"]["generator"]
    return {stage: find_by_bytecode(paths.ROOT / entry, generator) for stage, entry in entries.items()}


def test_every_stage_reaches_exactly_the_modules_that_its_bytecode_imports(
    sections: dict[str, dict[str, object]], reached: dict[str, set[str]]
) -> None:
    stages = lineage.list_stages("testbed", sections)
    assert stages.keys() == reached.keys() and len(reached[lineage.EXTRACTION]) > 20
    for name, stage in stages.items():
        modules = {file for file in stage.files if file.startswith("lib/") and file.endswith(".py")}
        assert modules == reached[name], name


def change_code(source: str, rng: random.Random) -> str:
    """Return the source with one more statement in one of its functions (or, without any, at its end)."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    functions = [node for node in functions if node.body[-1].lineno > node.lineno]  # a protocol's stand on one line
    if not functions:
        return source + "\nadded = 1\n"
    last = rng.choice(functions).body[-1]
    lines.insert(last.lineno - 1, " " * last.col_offset + "added = 1")
    return "\n".join(lines) + "\n"


def find_stale(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the stages whose fingerprint changed."""
    return {name for name in before | after if before.get(name) != after.get(name)}


def name_entries() -> dict[str, tuple[str, ...]]:
    """Return the modules whose code is in the keys of shards and of blocks of simulated studies."""
    from dontblink.extraction import study
    from dontblink_simulation.register import STATISTICS

    entries = {"responses": study.MADE_BY["local"], "traces": study.MEASURED_BY}
    return entries | {f"simulated {name}": (found.study.__module__,) for name, found in STATISTICS.items()}


def list_keys() -> dict[str, str]:
    """Return the keys of code that shards and blocks of simulated studies carry, by the entries behind them."""
    return {name: lineage.hash_code(*modules) for name, modules in name_entries().items()}


def reach_of_keys() -> dict[str, set[str]]:
    """Return the modules behind these keys, as bytecode says."""
    return {
        name: set[str]().union(*(find_by_bytecode(lineage.find_module(module), "") for module in modules))
        for name, modules in name_entries().items()
    }


def test_a_changed_line_makes_exactly_the_stages_and_shards_stale_that_reach_it(
    checkout: Path,
    sections: dict[str, dict[str, object]],
    reached: dict[str, set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lineage, "find_module", functools.cache(lineage.find_module))  # no file comes or goes here
    rng = random.Random(12)
    modules = sorted(checkout.glob("lib/dontblink*/**/*.py"))
    drawn = rng.sample(modules, 60)
    expected, keys = reached | reach_of_keys(), list_keys()
    before = lineage.describe_stages("testbed", sections) | keys
    for file in drawn:
        source = file.read_text()
        file.write_text(change_code(source, rng))
        after = lineage.describe_stages("testbed", sections) | list_keys()
        file.write_text(source)
        name = lineage.relative(file)
        assert find_stale(before, after) == {stage for stage, behind in expected.items() if name in behind}, name
    assert lineage.describe_stages("testbed", sections) == {name: before[name] for name in reached}


NOTEBOOKS = sorted(lineage.list_notebooks())
# data by hand, because no second reader of it exists: who must run again when a byte of it changes
DATA = {
    "models/testbed/difficulty.json": None,
    "models/testbed/glm4v-tiny/model.safetensors": None,
    "models/testbed/qwen3vl-tiny-s/training.json": None,
    "models/testbed/glm4v-tiny/README.md": set(),
    "paper/claims.yaml": {lineage.LEDGER, lineage.PAPER, lineage.PAGES},  # text goes to pandoc by one module
    "paper/refs.bib": {lineage.PAPER},
    "paper/paper.md": {lineage.PAPER},
    "requirements.lock": {*NOTEBOOKS, *ENTRIES},
    "lib/dontblink/figures/dontblink.mplstyle": {*NOTEBOOKS, *ENTRIES} - {lineage.EXTRACTION},
    "params/testbed.yaml": set(),  # its values count
}


@pytest.mark.parametrize("name", DATA)
def test_a_changed_byte_of_data_makes_its_readers_stale(
    checkout: Path, sections: dict[str, dict[str, object]], name: str
) -> None:
    before = lineage.describe_stages("testbed", sections)
    with (checkout / name).open("ab") as file:
        file.write(b" ")
    stale = find_stale(before, lineage.describe_stages("testbed", sections))
    if DATA[name] is None:  # the checkpoints: who reads the section that names their folder, and what 00 shows
        assert stale >= {lineage.EXTRACTION, "00_testbed", "01_extraction"} and lineage.PAPER not in stale
    elif name.endswith(".mplstyle"):
        assert stale >= set(NOTEBOOKS) and stale <= DATA[name]
    else:
        assert stale == DATA[name]


@pytest.mark.parametrize(("profile", "is_stale"), [("testbed", False), ("paper", True)])
def test_new_boxes_make_the_extraction_of_the_profile_stale_that_asks_their_benchmark(
    checkout: Path, profile: str, is_stale: bool
) -> None:
    _, values = params.load(paths.params_file(profile))
    before = lineage.describe_stages(profile, values)
    (checkout / "data" / "evidence" / "mathvista.jsonl").write_text("{}")
    assert (lineage.EXTRACTION in find_stale(before, lineage.describe_stages(profile, values))) is is_stale


def test_the_manifest_of_one_machines_extraction_is_no_source_of_shipped_models(checkout: Path) -> None:
    for profile, listed in (("testbed", False), ("paper", True)):
        _, values = params.load(paths.params_file(profile))
        files = lineage.list_stages(profile, values)[lineage.EXTRACTION].files
        assert (f"results/{profile}/extraction.json" in files) is listed


def test_a_source_that_is_no_python_is_named(checkout: Path, sections: dict[str, dict[str, object]]) -> None:
    (checkout / "notebooks" / "02_collapse.py").write_text("def f(:\n")
    with pytest.raises(NamedError, match="notebooks/02_collapse.py: not Python"):
        lineage.list_stages("testbed", sections)


def test_a_changed_value_makes_the_readers_of_its_section_stale(sections: dict[str, dict[str, object]]) -> None:
    before = lineage.describe_stages("testbed", sections)

    def stale(section: str) -> set[str]:
        key = sorted(sections[section])[0]
        changed = sections | {section: {**sections[section], key: 9}}
        return find_stale(before, lineage.describe_stages("testbed", changed))

    for section, stem in (("collapse", "02_collapse"), ("veto", "05_veto"), ("claims", "08_claims")):
        assert stale(section) - {lineage.PAGES} == {stem}
    assert stale("pages") == {lineage.PAGES}
    assert stale("extraction") >= {lineage.EXTRACTION, "01_extraction"}


@pytest.mark.parametrize(
    ("edit", "is_stale"),
    [
        (lambda text: text + "# a comment\n", False),
        (lambda text: text.replace('"""', '"""Another first sentence. ', 1), False),
        (lambda text: text.replace("\n\n\n", "\n\n\n\n"), False),
        (lambda text: text + "x = 'a # no comment'\n", True),
        (lambda text: text + "x = '''a\n\n  b'''\n", True),
        (lambda text: text + "import sys\n", True),
    ],
)
def test_comments_and_docstrings_of_a_module_do_not_count_and_its_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[str], str], is_stale: bool
) -> None:
    source = paths.ROOT / "lib" / "dontblink" / "errors.py"
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    file = tmp_path / "lib" / "m.py"
    file.parent.mkdir()
    file.write_text(source.read_text())
    before = lineage.hash_source(file)
    file.write_text(edit(file.read_text()))
    assert (lineage.hash_source(file) != before) is is_stale


def test_texts_of_several_lines_keep_every_byte() -> None:
    texts = [f'x = """a{between}b"""\n' for between in ("\n\n", "\n", "  \n", "\n# c\n")]
    assert len({lineage.strip_prose(text) for text in texts}) == len(texts)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of a few lines: modules a to d, of which one notebook reaches a, b, c and data."""
    package = tmp_path / "lib" / "dontblink"
    for name, text in {
        "__init__": "", "extraction/run": "from dontblink.params import read_section\nread_section('p', 'questions')",
        "params": "", "publish/notebook": "", "a": "import dontblink.deep.b", "deep/__init__": "",
        "deep/b": "def late():\n    from dontblink import c", "c": "here = FILE.with_name('c.css')", "d": "",
    }.items():  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    (package / "c.css").write_text("x")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "02_collapse.py").write_text("from dontblink.a import thing")
    (tmp_path / "figures" / "small").mkdir(parents=True)
    (tmp_path / "data" / "boxes").mkdir(parents=True)
    (tmp_path / "data" / "boxes" / "symbolic.jsonl").write_text("")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


SECTIONS = {
    "extraction": {"checkpoints_folder": "models/paper", "benchmarks": ["symbolic"]},
    "questions": {"evidence_folder": "data/boxes"}, "collapse": {},
}  # fmt: skip


def test_imports_are_followed_through_packages_late_imports_and_data_beside_a_module(small: Path) -> None:
    stages = lineage.list_stages("small", SECTIONS)
    inside = {file.removeprefix("lib/dontblink/") for file in stages["02_collapse"].files}
    assert inside == {
        "__init__.py", "a.py", "deep/__init__.py", "deep/b.py", "c.py", "c.css", "publish/notebook.py",
        "notebooks/02_collapse.py", "requirements.lock",
    }  # fmt: skip
    assert stages["extraction"].files == [
        "data/boxes/symbolic.jsonl", "lib/dontblink/__init__.py", "lib/dontblink/extraction/run.py",
        "lib/dontblink/params.py", "requirements.lock", "results/small/extraction.json",
    ]  # fmt: skip
    assert stages["02_collapse"].after == ["extraction"] and stages["02_collapse"].parameters == ["collapse"]


def test_the_ledger_stands_behind_all_notebooks_before_it_and_the_paper_behind_all(
    sections: dict[str, dict[str, object]],
) -> None:
    stages = lineage.list_stages("testbed", sections)
    made = [file for stage in stages.values() for file in stage.made]
    there = {lineage.relative(f) for f in paths.figures("testbed").glob("*.*") if f.name != "manifest.json"}
    assert len(made) == len(set(made)) and set(made) == there | {"paper/paper.pdf"}
    assert stages[lineage.LEDGER].after == NOTEBOOKS[:-1] and stages[lineage.PAPER].after == NOTEBOOKS
    assert all(stages[stem].after == [lineage.EXTRACTION] for stem in NOTEBOOKS[:-1])


def test_a_figure_that_no_notebook_makes_is_named(small: Path) -> None:
    (small / "figures" / "small" / "07_other.png").write_text("")
    with pytest.raises(NamedError, match="figures/small/07_other.png: no notebook of this name makes it"):
        lineage.list_stages("small", SECTIONS)


def test_a_key_of_code_that_is_not_there_is_refused(small: Path) -> None:
    with pytest.raises(NamedError, match=r"dontblink\.z: no module of lib/"):
        lineage.hash_code("dontblink.a", "dontblink.z")
