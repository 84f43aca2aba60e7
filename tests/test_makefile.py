"""The Makefile: what runs again after a change, and what never starts by itself.

Each test works on a copy of the tree's skeleton in which the interpreter is a stand-in: it logs each call, really
splits parameters, and writes the files that extraction and notebooks would write. Nothing long runs.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_readme import read_imports

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
NOTEBOOKS = tuple(sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")))
STAND_IN = """\
#!{python} -S
import sys
from pathlib import Path

command = sys.argv[2] if sys.argv[1] == "-m" else sys.argv[1]
if command == "paper/build.py":
    paper = Path("paper") if sys.argv[-1] == "testbed" else Path("results/paper/paper")
    paper.mkdir(parents=True, exist_ok=True)
    (paper / "paper.pdf").write_text("made here")
stem = Path(sys.argv[3]).stem if command in ("dontblink.params", "dontblink.publish.notebook") else ""
with open("calls.txt", "a") as log:
    print(command, stem, file=log)
results = Path("results") / sys.argv[-1]
if command == "dontblink.params":
    sys.path += ["lib", {packages!r}]
    from dontblink.params import main
    sys.exit(main(sys.argv[3:]))
if command == "dontblink.extraction.run":
    shards = [results / "responses" / f"shard-{{i}}.parquet" for i in range(3)]
    for shard in shards:
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.touch()
    (results / "shards.txt").write_text("".join(f"{{shard}}\\n" for shard in shards))
    if not (results / "extraction.json").exists() or Path("changed").exists():
        (results / "extraction.json").write_text("{{}}")
if command == "dontblink.publish.pages":
    (results / "pages").mkdir(parents=True, exist_ok=True)
    (results / "pages" / "index.html").write_text(" ".join(sys.argv[3:-2]))
if command == "dontblink.publish.verify":
    (Path("figures") / sys.argv[-1] / "manifest.json").write_text("made here")
if command == "dontblink.publish.notebook":
    figures = Path("figures") / sys.argv[-1]
    figures.mkdir(parents=True, exist_ok=True)
    for suffix in ("json", "pdf", "png"):
        (figures / f"{{stem}}.{{suffix}}").write_text("made here")
    (results / "notebooks" / f"{{stem}}.unfinished").unlink(missing_ok=True)
"""


class Tree:
    """A copy of the skeleton with a stand-in interpreter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, folder / name)
        shutil.copytree(ROOT / "params", folder / "params")
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        (folder / "paper").mkdir()
        for name in ("claims.yaml", "paper.md"):
            shutil.copy(ROOT / "paper" / name, folder / "paper" / name)
        package = folder / "lib" / "dontblink"
        package.mkdir(parents=True)
        for name in ("__init__", "messages", "paths", "params", "params_schema"):
            shutil.copy(ROOT / "lib" / "dontblink" / f"{name}.py", package)
        for name in (
            "extract",
            "replay",
            "tables",
            "record",
            "crosscheck",
            "collapse",
            "benchmarks/testbed/train",
            "pages",
        ):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / f"{name}.py").write_text("# stand-in\n")
        (folder / "notebooks").mkdir()
        for stem in NOTEBOOKS:
            (folder / "notebooks" / f"{stem}.py").write_text("# stand-in\n")
        python = folder / "env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN.format(python=sys.executable, packages=str(Path(yaml.__file__).parents[1])))
        python.chmod(0o755)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        for key in ("PROFILE", "PYTHONPATH", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"):
            self.environment.pop(key, None)
        self.environment["VIRTUAL_ENV"] = str(folder / "env")
        self.make("env")

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make in the copy and return what it printed."""
        command = ["make", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def calls(self, *arguments: str) -> list[str]:
        """Run make and return the python calls that it made, in order."""
        log = self.folder / "calls.txt"
        log.write_text("")
        done = self.make(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line.strip().removeprefix("dontblink.") for line in log.read_text().splitlines()]

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace one text in a file of the copy."""
        file = self.folder / name
        content = file.read_text()
        assert content.count(old) == 1, f"{name}: {old!r} stands {content.count(old)} times"
        file.write_text(content.replace(old, new))

    def age(self) -> None:
        """Make every file of the copy an hour older: file systems stamp in steps of milliseconds."""
        for file in self.folder.rglob("*"):
            then = file.stat().st_mtime_ns - 3600 * 10**9
            os.utime(file, ns=(then, then))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a fresh copy."""
    return Tree(tmp_path)


@pytest.fixture
def built(tree: Tree) -> Tree:
    """Return a copy in which `make all` has run."""
    tree.calls("all")
    tree.age()
    return tree


LAST = ["notebook 08_claims", "claims", "paper/build.py", "verify"]  # whatever number moved
ALL = [*(f"notebook {stem}" for stem in NOTEBOOKS[:-1]), *LAST]


INTERNAL = {
    "again",  # a prerequisite that is never made, so that what depends on it is always too old
    "dry-run",  # what `make extract DRY=1` stands for, which the line of `extract` names
}


def test_help_lists_every_target_with_a_line(tree: Tree) -> None:
    printed = tree.make("help").stdout
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.M)[1].split())
    assert set(re.findall(r"^  make ([a-z-]+) +\S", printed, flags=re.M)) == phony - INTERNAL
    assert phony >= INTERNAL and "DRY=1" in printed
    assert tree.make().stdout == printed


def test_makefile_is_at_most_150_lines() -> None:
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 150


def read_variable(name: str) -> list[str]:
    """Return the words of a variable of the Makefile."""
    printed = subprocess.run(["make", "-np", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    return re.search(rf"^{name} := (.*)$", printed, flags=re.M)[1].split()


def import_all(names: set[str]) -> set[str]:
    """Return modules of the package with everything that they import, directly or not."""
    files = {path.stem: path for path in (ROOT / "lib" / "dontblink").rglob("*.py")}
    found, todo = set(), names
    while todo:
        found |= todo
        todo = set().union(*(read_imports(files[name]) for name in todo if name in files)) - found
    return found


def test_a_notebook_runs_again_when_any_module_changes_that_it_imports_even_indirectly() -> None:
    assert tuple(read_variable("NOTEBOOKS")) == NOTEBOOKS
    own = {Path(path).stem for path in read_variable("OWN")}
    for stem in NOTEBOOKS:
        needed = import_all(read_imports(ROOT / "notebooks" / f"{stem}.py")) & own
        uses = {name.split("/")[-1] for name in read_variable(f"uses_{stem}")} if needed else set()
        assert needed <= uses, f"{stem}: {needed - uses} are missing in its uses_ line"
        assert uses <= needed, f"{stem}: {uses - needed} are in its uses_ line and not imported"


def test_an_old_make_is_refused_in_one_line(tree: Tree) -> None:
    done = tree.make("help", ".FEATURES=order-only")
    assert done.returncode == 2
    assert "GNU make >= 4.3" in done.stderr


def test_a_fresh_clone_splits_extracts_and_runs_every_notebook_in_order(tree: Tree) -> None:
    figures = tree.folder / "figures" / "testbed"
    figures.mkdir(parents=True)
    for stem in NOTEBOOKS:  # tracked figures, younger than every source
        for suffix in ("json", "pdf", "png"):
            (figures / f"{stem}.{suffix}").write_text("tracked")
    assert tree.calls("all") == ["params testbed", "extract", *ALL]
    assert (figures / "02_collapse.json").read_text() == "made here"


def test_a_second_make_all_does_nothing_within_two_seconds(built: Tree) -> None:
    start = time.perf_counter()
    assert built.calls("all") == []
    assert time.perf_counter() - start < 2
    assert built.make("-q", "all").returncode == 0


def test_a_source_that_changes_while_make_runs_is_not_signed(tree: Tree) -> None:
    tree.edit(
        "env/bin/python",
        'if command == "dontblink.publish.notebook":',
        """\
if stem == "05_veto" and Path("meddle").exists():
    Path("lib/dontblink/collapse.py").write_text("# changed after 02 ran")
    Path("meddle").unlink()
if command == "dontblink.publish.notebook":""",
    )
    (tree.folder / "meddle").touch()
    done = tree.make("all")
    assert done.returncode == 2 and "a source changed while make ran" in done.stderr
    assert not (tree.folder / "figures" / "testbed" / "manifest.json").exists()
    assert tree.calls("all") == ["notebook 02_collapse", *LAST]
    assert tree.calls("all") == []


def test_touched_sources_rerun_nothing(built: Tree) -> None:
    for folder in ("notebooks", "lib/dontblink", "params"):
        for file in (built.folder / folder).iterdir():
            file.touch()
    assert built.calls("all") == []


def test_editing_a_key_of_one_section_reruns_its_notebook_only(built: Tree) -> None:
    built.edit("params/testbed.yaml", "bins: 10 ", "bins: 12 ")
    assert built.calls("all") == ["params testbed", "notebook 02_collapse", *LAST]
    assert built.calls("all") == []


def test_overrides_rerun_exactly_what_depends_on_them_and_so_does_going_back(built: Tree) -> None:
    assert built.calls("all", "SET=collapse.bins=12") == ["params testbed", "notebook 02_collapse", *LAST]
    assert built.calls("all", "SET=collapse.bins=12") == []
    assert built.calls("all", "SET=extraction.grounding_heads=2 collapse.bins=12") == [
        "params testbed", "extract", "notebook 00_testbed", "notebook 01_extraction", *LAST,
    ]  # fmt: skip
    back = ["notebook 00_testbed", "notebook 01_extraction", "notebook 02_collapse", *LAST]
    assert built.calls("all") == ["params testbed", "extract", *back]
    assert built.calls("all") == []


def test_an_override_of_the_same_value_reruns_no_notebook(built: Tree) -> None:
    assert built.calls("all", "SET=collapse.bins=10") == ["params testbed", "verify"]
    assert built.calls("all") == ["params testbed", "verify"]


@pytest.mark.parametrize(
    "override", ["collapse.binns=12", "'; touch stolen; '", '"; touch stolen; "', "`touch stolen`"]
)
def test_a_mistaken_override_stops_in_one_line_and_is_forgotten(built: Tree, override: str) -> None:
    done = built.make("all", f"SET={override}")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("make")][0].startswith("SET: ")
    assert not (built.folder / "stolen").exists()
    assert built.calls("all") == ["params testbed", "verify"]


def test_only_the_command_line_overrides(built: Tree) -> None:
    built.environment["SET"] = "collapse.bins=12"
    assert built.calls("all") == []


def test_pages_are_built_from_all_notebooks_and_again_only_after_a_change(built: Tree) -> None:
    index = built.folder / "results" / "testbed" / "pages" / "index.html"
    assert built.calls("pages") == ["pages"]
    assert index.read_text() == " ".join(NOTEBOOKS)
    assert built.calls("pages") == []
    built.edit("lib/dontblink/pages.py", "# stand-in", "# changed")
    assert built.calls("all") == ["verify"]
    assert built.calls("pages") == ["pages"]
    built.edit("notebooks/01_extraction.py", "# stand-in", "# changed")
    assert built.calls("pages") == ["notebook 01_extraction", LAST[0], "pages"]
    assert built.calls("pages", "SET=pages.item_quantiles=[0.5]") == ["params testbed", "pages"]


def test_pages_of_a_fresh_clone_run_everything_first(tree: Tree) -> None:
    notebooks = [call for call in ALL if call.startswith("notebook")]
    assert tree.calls("pages") == ["params testbed", "extract", *notebooks, "pages"]


def test_editing_a_comment_of_the_parameters_reruns_no_notebook(built: Tree) -> None:
    built.edit("params/testbed.yaml", "# 0 is greedy", "# zero is greedy")
    assert built.calls("all") == ["params testbed", "verify"]
    assert built.calls("all") == []


def test_editing_an_extraction_key_runs_extract_and_what_reads_that_section(built: Tree) -> None:
    built.edit("params/testbed.yaml", "max_new_tokens: 160", "max_new_tokens: 80")
    assert built.calls("all") == ["params testbed", "extract", "notebook 00_testbed", "notebook 01_extraction", *LAST]


def test_a_new_module_counts_as_part_of_the_extraction(built: Tree) -> None:
    (built.folder / "lib" / "dontblink" / "spans.py").write_text("# new")
    assert built.calls("all")[0] == "extract"


def test_changed_extraction_results_rerun_every_notebook(built: Tree) -> None:
    built.edit("lib/dontblink/replay.py", "# stand-in", "# changed")
    (built.folder / "changed").touch()
    assert built.calls("all") == ["extract", *ALL]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("notebooks/01_extraction.py", ["notebook 01_extraction", *LAST]),
        ("lib/dontblink/collapse.py", ["notebook 02_collapse", *LAST]),
        ("lib/dontblink/crosscheck.py", ["notebook 01_extraction", *LAST]),
        ("lib/dontblink/benchmarks/testbed/train.py", ["verify"]),
        ("lib/dontblink/tables.py", ["extract", *ALL]),
        ("lib/dontblink/record.py", ALL),
    ],
)
def test_editing_a_source_reruns_what_uses_it(built: Tree, file: str, expected: list[str]) -> None:
    built.edit(file, "# stand-in", "# changed")
    assert built.calls("all") == expected


def test_an_edited_verdict_rule_decides_again_and_an_edited_text_builds_the_paper_only(built: Tree) -> None:
    built.edit("paper/claims.yaml", "at_least: 0.57", "at_least: 0.5")
    assert built.calls("all") == LAST
    (built.folder / "paper" / "paper.md").write_text("another text")
    assert built.calls("all") == ["claims", "paper/build.py", "verify"]
    assert built.calls("all") == []


def test_make_diff_reads_numbers_and_starts_nothing(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "# stand-in", "# changed")
    assert built.calls("diff") == ["changes"]


@pytest.mark.parametrize("lost", ["responses/shard-1.parquet", "extraction.json", "shards.txt"])
def test_a_lost_shard_or_manifest_runs_extract_again(built: Tree, lost: str) -> None:
    (built.folder / "results" / "testbed" / lost).unlink()
    assert "extract" in built.calls("all")
    assert built.calls("all") == []


@pytest.mark.parametrize("suffix", ["json", "pdf", "png"])
def test_a_lost_figure_file_runs_its_notebook_again(built: Tree, suffix: str) -> None:
    (built.folder / "figures" / "testbed" / f"02_collapse.{suffix}").unlink()
    assert built.calls("all") == ["notebook 02_collapse", *LAST]


@pytest.mark.skipif("unfinished" not in MAKEFILE, reason="the Makefile does not look for unfinished notebooks")
def test_a_notebook_that_was_killed_before_its_end_runs_again_although_its_figures_are_there(built: Tree) -> None:
    mark = built.folder / "results" / "testbed" / "notebooks" / "02_collapse.unfinished"
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    assert built.calls("all")[:1] == ["notebook 02_collapse"]
    assert built.calls("all") == []


@pytest.mark.skipif(".now" not in MAKEFILE, reason="the Makefile does not look for files from the future")
def test_files_that_a_wrong_clock_dated_into_the_future_hide_no_change_and_cause_no_endless_work(built: Tree) -> None:
    tomorrow = time.time() + 86400
    for folder in ("results", "figures", "paper"):
        for file in (built.folder / folder).rglob("*"):
            if file.is_file():
                os.utime(file, (tomorrow, tomorrow))
    built.edit("params/testbed.yaml", "bins: 10    ", "bins: 12    ")
    calls = built.calls("all")
    assert "params testbed" in calls and "notebook 02_collapse" in calls and "paper/build.py" in calls
    assert built.calls("all") == []
    os.utime(built.folder / "figures" / "testbed" / "02_collapse.json", (tomorrow, tomorrow))
    built.edit("notebooks/02_collapse.py", "# stand-in", "# changed")
    assert "notebook 02_collapse" in built.calls("all")


def test_lost_parameters_are_split_again(built: Tree) -> None:
    (built.folder / "results" / "testbed" / "params" / "collapse.json").unlink()
    assert built.calls("all")[0] == "params testbed"
    assert built.calls("all") == []


def test_pulled_figures_do_not_hide_that_their_notebook_changed(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "# stand-in", "# changed upstream")
    (built.folder / "figures" / "testbed" / "02_collapse.json").write_text("pulled with it")
    assert built.calls("all") == ["notebook 02_collapse", *LAST]


def test_make_all_never_extracts_real_models(tree: Tree) -> None:
    assert "dontblink.extraction.run" not in tree.make("-n", "all", "PROFILE=paper").stdout
    done = tree.make("all", "PROFILE=paper")
    assert done.returncode == 2
    assert "make extract PROFILE=paper" in done.stderr
    assert "extract" not in (tree.folder / "calls.txt").read_text()


def test_make_extract_extracts_real_models_and_make_all_then_draws_them(tree: Tree) -> None:
    assert tree.calls("extract", "PROFILE=paper") == ["params paper", "extract"]
    assert tree.calls("extract", "PROFILE=paper") == ["extract"]  # whatever checkpoints and boxes it finds
    assert tree.calls("all", "PROFILE=paper") == [call for call in ALL if call != "claims"]
    tree.edit("lib/dontblink/replay.py", "# stand-in", "# changed")
    assert "extract" not in tree.calls("all", "PROFILE=paper")


def test_clean_removes_the_results_and_keeps_figures_and_training(built: Tree) -> None:
    (built.folder / "results" / "training").mkdir()
    built.make("clean")
    assert [folder.name for folder in (built.folder / "results").iterdir()] == ["training"]
    assert (built.folder / "figures" / "testbed" / "02_collapse.json").exists()


def test_a_changed_lock_prepares_the_environment_again(tree: Tree) -> None:
    assert tree.calls("env") == []
    tree.edit("requirements.lock", "# Every version behind", "# All versions behind")
    assert tree.calls("env")[-2:] == ["pip", "pip"]


def test_a_conda_base_environment_is_left_alone(tree: Tree) -> None:
    del tree.environment["VIRTUAL_ENV"]
    tree.environment |= {"CONDA_PREFIX": str(tree.folder / "env"), "CONDA_DEFAULT_ENV": "base"}
    assert ".ci/install .venv " in tree.make("-n", "env").stdout
    tree.environment["CONDA_DEFAULT_ENV"] = "dontblink"
    assert tree.calls("env") == []
