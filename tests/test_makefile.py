"""The Makefile: what runs again after a change, and what never starts by itself.

Each test works on a copy of the tree in which the interpreter is a stand-in: it logs each call, really looks at the
sources (`dontblink.lineage`), and writes the files that extraction and notebooks would write. Nothing long runs.
The folder of the copy has a space, an apostrophe and letters beyond ASCII in its name, and so has its environment's.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from dontblink import lineage, params, paths

ROOT = paths.ROOT
MAKEFILE = (ROOT / "Makefile").read_text()
NOTEBOOKS = tuple(lineage.list_notebooks())
STAND_IN = """\
#!{python} -S
import sys
from pathlib import Path

command = sys.argv[2] if sys.argv[1] == "-m" else sys.argv[1]
if command == "dontblink.lineage":
    sys.path += ["lib", {packages!r}]
    from dontblink.lineage import main
    sys.exit(main(sys.argv[3:]))
stem = Path(sys.argv[3]).stem if command == "dontblink.publish.notebook" else ""
with open("calls.txt", "a") as log:
    print(command, stem, file=log)
results = Path("results") / sys.argv[-1]
if command == "dontblink.extraction":
    shards = [results / "responses" / f"shard-{{i}}.parquet" for i in range(3)]
    for shard in shards:
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.touch()
    (results / "shards.txt").write_text("".join(f"{{shard}}\\n" for shard in shards))
    if not (results / "extraction.json").exists() or Path("changed").exists():
        (results / "extraction.json").write_text("{{}}")
made = {{
    "paper/build.py": Path("paper" if sys.argv[-1] == "testbed" else "results/paper/paper") / "paper.pdf",
    "dontblink.publish.pages": results / "pages" / "index.html",
}}
files = [made[command]] if command in made else []
if stem:
    if Path("fail").exists():
        sys.exit(1)
    files = [results / "figures" / f"{{stem}}.{{suffix}}" for suffix in ("json", "pdf", "png")]
for file in files:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(" ".join(["made here", *sys.argv[3:-2]]))
"""


FOLDER = "Ana's Prüfung 試し"


class Tree:
    """A copy of the checkout with a stand-in interpreter."""

    def __init__(self, folder: Path, built: Path | None = None) -> None:
        self.folder = folder = folder / FOLDER
        if built:
            shutil.copytree(built, folder)
        else:
            self.copy_sources()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        for key in ("PROFILE", "PYTHONPATH", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"):
            self.environment.pop(key, None)
        self.environment["VIRTUAL_ENV"] = str(folder / "env")
        self.make("env")  # whose mark carries the folder's name

    def copy_sources(self) -> None:
        """Copy what the checkout holds and put the stand-in into its environment."""
        self.folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.folder / name)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pdf", "*.safetensors")
        for name in ("params", ".ci", "paper", "lib", "notebooks", "models"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        python = self.folder / "env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN.format(python=sys.executable, packages=str(Path(yaml.__file__).parents[1])))
        python.chmod(0o755)

    def make(self, *arguments: str, jobs: str = "-j1") -> subprocess.CompletedProcess[str]:
        """Run make in the copy, stages one after the other, and return what it printed."""
        command = ["make", *filter(None, [jobs]), *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def calls(self, *arguments: str, jobs: str = "-j1") -> list[str]:
        """Run make and return the python calls that it made, in order."""
        log = self.folder / "calls.txt"
        log.write_text("")
        done = self.make(*arguments, jobs=jobs)
        assert done.returncode == 0, done.stdout + done.stderr
        return [
            line.strip().removeprefix("dontblink.").removeprefix("publish.") for line in log.read_text().splitlines()
        ]

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace one text in a file of the copy; without `old`, add `new` at its end."""
        file = self.folder / name
        content = file.read_text() if file.exists() else ""
        assert not old or content.count(old) == 1, f"{name}: {old!r} stands {content.count(old)} times"
        file.write_text(content.replace(old, new) if old else content + new)

    def age(self) -> None:
        """Make every file of the copy an hour older: file systems stamp in steps of milliseconds."""
        for file in self.folder.rglob("*"):
            then = file.stat().st_mtime_ns - 3600 * 10**9
            os.utime(file, ns=(then, then))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy in which `make all` has run, an hour ago."""
    tree = Tree(tmp_path_factory.mktemp("kept"))
    tree.calls("all")
    tree.age()
    return tree.folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a fresh copy."""
    return Tree(tmp_path)


@pytest.fixture
def built(kept: Path, tmp_path: Path) -> Tree:
    """Return a copy in which `make all` has run."""
    tree = Tree(tmp_path, kept)
    assert tree.calls("all") == ALWAYS
    return tree


ALWAYS = ["verdict", "verify", "verdict"]  # take, sign, say: held against the last commit, which may be another
PRINT = ["verdict", "claims", "paper/build.py", "verify", "verdict"]
LAST = ["notebook 08_claims", *PRINT]  # whatever number moved
FIRST = [f"notebook {stem}" for stem in NOTEBOOKS[:-1]]
ALL = [*FIRST, *LAST]


def reach(*names: str) -> set[str]:
    """Return the calls of the notebooks behind which a module or section stands, as lineage says (it has tests)."""
    stages = lineage.list_stages("testbed", params.load(paths.params_file("testbed"))[1])
    return {f"notebook {stem}" for stem in NOTEBOOKS if {*names} & {*stages[stem].files, *stages[stem].parameters}}


INTERNAL = {
    "again",  # a prerequisite that is never made, so that what depends on it is always too old
    "install",  # what `make env` and all else do where the environment is not ready
    "taken",  # what every `make all` does with the figures
    "dry-run",  # what `make extract DRY=1` stands for, which the line of `extract` names
}


def test_help_lists_every_target_with_a_line(tree: Tree) -> None:
    printed = tree.make("help").stdout
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.M)[1].split())
    assert set(re.findall(r"^  make ([a-z-]+) +\S", printed, flags=re.M)) == phony - INTERNAL
    assert phony >= INTERNAL and "DRY=1" in printed
    assert tree.make().stdout == printed


def test_the_makefile_is_a_map_of_at_most_118_lines_and_names_no_module_list() -> None:
    assert len(MAKEFILE.splitlines()) <= 118


def test_an_old_make_is_refused_in_one_line(tree: Tree) -> None:
    done = tree.make("help", ".FEATURES=order-only")
    assert done.returncode == 2
    assert "GNU make >= 4.3" in done.stderr


def test_a_fresh_clone_extracts_and_runs_every_notebook_in_order(tree: Tree) -> None:
    figures = tree.folder / "figures" / "testbed"
    figures.mkdir(parents=True)
    for stem in NOTEBOOKS:  # tracked figures, younger than every source
        for suffix in ("json", "pdf", "png"):
            (figures / f"{stem}.{suffix}").write_text("tracked")
    assert tree.calls("all") == ["extraction", *ALL]
    assert (tree.folder / "results" / "testbed" / "figures" / "02_collapse.json").read_text().startswith("made here")


@pytest.mark.parametrize("jobs", ["", "-j8"])
def test_notebooks_run_side_by_side_and_nothing_starts_before_what_it_reads_is_whole(tree: Tree, jobs: str) -> None:
    end = "import time\ntime.sleep(0.3)\nprint(f'{command} {stem}'.strip(), 'ended', file=open('calls.txt', 'a'))\n"
    tree.edit("env/bin/python", "for file in files:\n", f"{end}for file in files:\n")
    calls = tree.calls("all", "pages", jobs=jobs)

    def at(name: str, nth: int = 0) -> int:
        return [place for place, call in enumerate(calls) if call == name][nth]

    ledger, take, *others, say = LAST
    assert sorted(call for call in calls if not call.endswith(" ended")) == sorted(["extraction", "pages", *ALL])
    assert at("extraction ended") < min(map(at, FIRST)) and max(at(f"{name} ended") for name in FIRST) < at(ledger)
    for before, after in pairwise([ledger, take, *others]):
        assert at(f"{before} ended") < at(after), f"{after} began too early"
    assert at(f"{others[-1]} ended") < at(say, -1) and at(f"{ledger} ended") < at("pages")
    assert not jobs or max(map(at, FIRST)) < min(at(f"{name} ended") for name in FIRST)


def test_a_second_make_all_runs_nothing_within_two_seconds(built: Tree) -> None:
    start = time.perf_counter()
    assert built.calls("all") == ALWAYS
    assert time.perf_counter() - start < 2


def edit_value(key: str, value: str) -> tuple[str, str, str]:
    """Return the edit that gives a key of the testbed's parameters another value."""
    line = re.search(rf"^  {key}: .*$", paths.params_file("testbed").read_text(), flags=re.M)[0]
    return "params/testbed.yaml", line, f"  {key}: {value}"


CASES = {  # a change of X: (file, old, new) reruns exactly Y; {} stands for what reaches a module
    "a section's value": (edit_value("bins", "12"), ["notebook 02_collapse", *LAST]),
    "a comment of the parameters": (("params/testbed.yaml", "", "# a word\n"), ALWAYS),
    "a tolerance": (edit_value("tolerance", "0.02"), ALWAYS),
    "a notebook": (("notebooks/03_entropy.py", "", "# a word\n"), ["notebook 03_entropy", *LAST]),
    "a comment of a module": (("lib/dontblink/extraction/run.py", "", "# a word\n"), ALWAYS),
    "a verdict rule": (("paper/claims.yaml", "", "# a word\n"), LAST),
    "the paper's text": (("paper/paper.md", "", "a word\n"), PRINT),
    "the training": (("lib/dontblink_testbed/train.py", "", "added = 1\n"), ALWAYS),
    "the pages": (("lib/dontblink/publish/pages.py", "", "added = 1\n"), ALWAYS),
    "a module that nothing imports": (("lib/dontblink/studies/new.py", "", "added = 1\n"), ALWAYS),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_reruns_exactly_what_depends_on_it(built: Tree, case: str) -> None:
    edit, expected = CASES[case]
    built.edit(*edit)
    assert built.calls("all") == expected
    assert built.calls("all") == ALWAYS


@pytest.mark.parametrize(
    "module", ["studies/collapse", "studies/interaction", "figures/charts", "publish/record", "attention/replay"]
)
def test_a_changed_module_reruns_exactly_the_notebooks_that_reach_it(built: Tree, module: str) -> None:
    built.edit(f"lib/dontblink/{module}.py", "", "added = 1\n")
    calls = built.calls("all")
    expected = reach(f"lib/dontblink/{module}.py")
    assert {call for call in calls if call.startswith("notebook")} == expected | {LAST[0]}
    assert ("extraction" in calls) is (module == "attention/replay") and calls[-2:] == ALWAYS[1:]


def test_changed_extraction_results_rerun_every_notebook(built: Tree) -> None:
    built.edit("lib/dontblink/attention/replay.py", "", "added = 1\n")
    (built.folder / "changed").touch()
    assert built.calls("all") == ["extraction", *ALL]


def test_touched_sources_rerun_nothing(built: Tree) -> None:
    for folder in ("notebooks", "lib", "params", "models", "paper"):
        for file in (built.folder / folder).rglob("*"):
            file.touch()
    assert built.calls("all") == ALWAYS


def test_a_source_that_changes_while_make_runs_is_not_signed(tree: Tree) -> None:
    tree.edit(
        "env/bin/python",
        "results = Path",
        'if stem == "05_veto":\n    with open("lib/dontblink/studies/collapse.py", "a") as file:\n'
        '        file.write("added = 1\\n")\nresults = Path',
    )
    tree.calls("all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", tree.folder)
        moved = lineage.find_moved("testbed", params.load(paths.params_file("testbed"))[1])
    assert "02_collapse" in moved and "03_entropy" not in moved  # what `verify --write` refuses to sign


def test_overrides_rerun_exactly_what_depends_on_them_and_so_does_going_back(built: Tree) -> None:
    assert built.calls("all", "SET=collapse.bins=12") == ["notebook 02_collapse", *LAST]
    assert built.calls("all", "SET=collapse.bins=12") == ALWAYS
    calls = built.calls("all", "SET=extraction.grounding_heads=2 collapse.bins=12")
    assert calls[0] == "extraction" and {*calls[1 : -len(LAST)]} | {LAST[0]} == reach("extraction") | {LAST[0]}
    assert built.calls("all")[0] == "extraction"
    assert built.calls("all") == ALWAYS


def test_an_override_of_the_same_value_reruns_nothing(built: Tree) -> None:
    assert built.calls("all", "SET=collapse.bins=10") == ALWAYS


@pytest.mark.parametrize(
    "override", ["collapse.binns=12", "'; touch stolen; '", '"; touch stolen; "', "`touch stolen`"]
)
def test_a_mistaken_override_stops_in_one_line_and_is_forgotten(built: Tree, override: str) -> None:
    done = built.make("all", f"SET={override}")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("make")][0].startswith("SET: ")
    assert not (built.folder / "stolen").exists()
    assert built.calls("all") == ALWAYS


def test_only_the_command_line_overrides(built: Tree) -> None:
    built.environment["SET"] = "collapse.bins=12"
    assert built.calls("all") == ALWAYS


def test_pages_are_built_from_all_notebooks_and_again_only_after_a_change(built: Tree) -> None:
    index = built.folder / "results" / "testbed" / "pages" / "index.html"
    assert built.calls("pages") == ["pages"]
    assert index.read_text().split()[2:] == [*NOTEBOOKS]
    assert built.calls("pages") == []
    built.edit("notebooks/01_extraction.py", "", "# changed\n")
    assert built.calls("pages") == ["notebook 01_extraction", LAST[0], "pages"]
    assert built.calls("pages", "SET=pages.item_quantiles=[0.5]") == ["pages"]
    index.unlink()
    assert built.calls("pages", "SET=pages.item_quantiles=[0.5]") == ["pages"]


def test_pages_of_a_fresh_clone_run_everything_first(tree: Tree) -> None:
    assert tree.calls("pages") == ["extraction", *FIRST, LAST[0], "pages"]


def test_make_diff_reads_numbers_and_starts_nothing(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "", "# changed\n")
    assert built.calls("diff") == ["verdict"]


LOST = {
    "results/testbed/responses/shard-1.parquet": "extraction",
    "results/testbed/extraction.json": "extraction",
    "results/testbed/shards.txt": "extraction",
    "results/testbed/figures/02_collapse.json": "notebook 02_collapse",
    "results/testbed/figures/02_collapse.png": "notebook 02_collapse",
    "paper/paper.pdf": "verdict",
}


@pytest.mark.parametrize("lost", LOST)
def test_what_is_lost_is_made_again(built: Tree, lost: str) -> None:
    (built.folder / lost).unlink()
    assert built.calls("all")[0] == LOST[lost]
    assert built.calls("all") == ALWAYS


def test_lost_parameters_are_written_again(built: Tree) -> None:
    file = built.folder / "results" / "testbed" / "params" / "collapse.json"
    content = file.read_text()
    file.unlink()
    assert built.calls("all") == ALWAYS and file.read_text() == content


def test_a_notebook_that_did_not_come_to_its_end_runs_again_although_its_figures_are_there(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "", "# changed\n")
    (built.folder / "fail").touch()
    assert built.make("all").returncode == 2
    (built.folder / "fail").unlink()
    assert built.calls("all") == ["notebook 02_collapse", *LAST]


def test_files_that_a_wrong_clock_dated_into_the_future_hide_no_change_and_cause_no_endless_work(built: Tree) -> None:
    tomorrow = time.time() + 86400
    for folder in ("results", "paper"):
        for file in (built.folder / folder).rglob("*"):
            if file.is_file():
                os.utime(file, (tomorrow, tomorrow))
    built.edit(*edit_value("bins", "12"))
    calls = built.calls("all")
    assert "notebook 02_collapse" in calls and calls[-len(LAST) :] == LAST
    assert built.calls("all") == ALWAYS


def test_pulled_figures_do_not_hide_that_their_notebook_changed(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "", "# changed upstream\n")
    figures = built.folder / "figures" / "testbed"
    figures.mkdir(parents=True)
    (figures / "02_collapse.json").write_text("pulled with it")
    assert built.calls("all") == ["notebook 02_collapse", *LAST]


def test_make_all_never_extracts_real_models(tree: Tree) -> None:
    assert "-m dontblink.extraction" not in tree.make("-n", "all", "PROFILE=paper").stdout
    done = tree.make("all", "PROFILE=paper")
    assert done.returncode == 2
    assert "make extract PROFILE=paper" in done.stderr
    log = tree.folder / "calls.txt"
    assert not log.exists() or "extraction" not in log.read_text()


def test_make_extract_extracts_real_models_and_make_all_then_draws_them(tree: Tree) -> None:
    assert tree.calls("extract", "PROFILE=paper") == ["extraction"]
    assert tree.calls("extract", "PROFILE=paper") == ["extraction"]  # whatever checkpoints and boxes it finds
    assert tree.calls("all", "PROFILE=paper") == [call for call in ALL if call != "claims"]
    assert tree.calls("all", "PROFILE=paper") == ALWAYS


def test_tables_of_other_code_are_named_and_not_drawn(tree: Tree) -> None:
    tree.calls("extract", "PROFILE=paper")
    tree.edit("lib/dontblink/attention/replay.py", "", "added = 1\n")
    done = tree.make("all", "PROFILE=paper")
    assert done.returncode == 2 and "no extraction of this code" in done.stderr
    assert tree.calls("extract", "PROFILE=paper") == ["extraction"]
    assert tree.calls("all", "PROFILE=paper") == [call for call in ALL if call != "claims"]


def test_clean_removes_the_results_and_keeps_figures_and_training(built: Tree) -> None:
    (built.folder / "results" / "training").mkdir()
    figures = built.folder / "figures" / "testbed"
    figures.mkdir(parents=True)
    built.make("clean")
    assert [folder.name for folder in (built.folder / "results").iterdir()] == ["training"] and figures.exists()


def test_no_word_of_a_path_with_spaces_is_run_or_touched_by_itself(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    environment = tmp_path / "my $new (env)"
    environment.symlink_to(tree.folder / "env")
    tree.environment["VIRTUAL_ENV"] = str(environment)
    tree.edit("requirements.lock", "# Every version behind", "# All versions behind")
    quoted = str(environment).translate({ord(letter): f"\\{letter}" for letter in " $()'"})
    first = tree.make("-n", "verify").stdout.splitlines()[0]
    assert first.startswith(f".ci/install {quoted} 'python3.11'; ") and f"; touch {quoted}/.dontblink-" in first
    assert tree.calls("verify")[-4:] == ["pip", "pip", "verify", "verdict"]
    assert {file.name for file in tmp_path.iterdir()} == {FOLDER, environment.name}
    assert tree.calls("verify") == ["verify", "verdict"]


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


def test_a_fingerprint_from_the_future_hides_no_change(built: Tree) -> None:
    built.edit("notebooks/02_collapse.py", "", "# changed\n")
    built.make("params")
    tomorrow = time.time() + 86400
    os.utime(built.folder / "results" / "testbed" / "stages" / "02_collapse", (tomorrow, tomorrow))
    assert built.calls("all") == ["notebook 02_collapse", *LAST]
    assert built.calls("all") == ALWAYS


def test_a_notebook_that_was_killed_outside_of_make_runs_again(built: Tree) -> None:
    mark = built.folder / "results" / "testbed" / "notebooks" / "02_collapse.unfinished"
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    built.edit("env/bin/python", "for file in files:", "if stem:\n    (results / 'notebooks' / f'{stem}.unfinished')"
               ".unlink(missing_ok=True)\nfor file in files:")  # fmt: skip
    assert built.calls("all") == ["notebook 02_collapse", *LAST]
