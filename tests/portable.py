"""`make portable`: a small study has the same bytes, from shards to figures, on processors that are not here.

Two processors of two vendors are emulated (Debian: qemu-user). The study is made natively in a small repository and
committed; then an emulated processor makes it again there, with the settings of `dontblink.arithmetic`. The tree must
stay clean, every file under results/ must be the native one, and the verdict must say so. One process does everything,
because kernels and workers are children, which would escape emulation. tests/test_portable.py uses the same study
natively: with the settings off, and with a planted change of an estimator.

    python tests/portable.py                    the proof, on both emulated processors
    python tests/portable.py --study FOLDER     make the study in FOLDER, in this process
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROFILE = "small"
EMULATED = ("Haswell", "EPYC-Rome")  # Intel and AMD, AVX2 without AVX-512
NOTEBOOKS = ("02_collapse", "03_entropy", "04_interaction", "05_veto")
PARAMETERS = """\
profile: small
based_on: testbed
testbed: {n_test_items: 60, n_calibration_items: 24}
extraction: {models: [qwen3vl-tiny-m], shard_items: 84, n_cross_checked_items: 1, n_sampled_items: 10}
collapse: {bootstrap_replicates: 200, band_replicates: 50, shuffled_deals: 20, picture_model: qwen3vl-tiny-m}
entropy:
  {bootstrap_replicates: 200, transfer_replicates: 50, refit_replicates: 10, min_items: 10, min_class_items: 8,
   reliability_bins: 4, shuffled_deals: 20, vision_deals: 2, excess_replicates: 20}
interaction:
  {covariates: [log_n_response_tokens], bootstrap_replicates: 200, light_replicates: 20, min_items: 10,
   shuffled_deals: 20, specification_deals: 20}
veto:
  {splits: 4, veto_shares: 3, jackknife_blocks: 5, permutations: 20, other_permutations: 10, bootstrap_replicates: 50,
   min_items: 20, repair_items: 30, guarantee_draws: 4}
"""


def make_repository(folder: Path) -> Path:
    """Return a repository with the sources of this checkout and the small study's parameters, nothing made yet."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lib", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    model = Path("models", "testbed", "qwen3vl-tiny-m")
    shutil.copytree(ROOT / model, folder / model)
    (folder / "notebooks").mkdir()
    files = [f"notebooks/{stem}.py" for stem in NOTEBOOKS]
    for file in (*files, "pyproject.toml", "requirements.lock", ".gitattributes"):
        shutil.copy(ROOT / file, folder / file)
    (folder / "params" / f"{PROFILE}.yaml").write_text(PARAMETERS)
    (folder / ".gitignore").write_text("results/\n__pycache__/\n*.egg-info\n")
    run(["git", "init", "-q"], folder)
    return folder


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command in a folder; return what it printed, or end with what it said."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def commit(folder: Path) -> None:
    """Commit everything that lies there."""
    who = ["-c", "user.name=portable", "-c", "user.email=portable@example.org"]
    for words in (["add", "-A"], ["commit", "-q", "-m", "the native result"]):
        run(["git", *who, *words], folder)


def make_study(folder: Path, emulated: str = "", overrides: str = "") -> None:
    """Make the study in a repository: natively, or with one process on an emulated processor."""
    packages = sysconfig.get_path("purelib")
    native = {"PYTHONPATH": f"{folder / 'lib'}{os.pathsep}{packages}", "HF_HUB_OFFLINE": "1", "SOURCE_DATE_EPOCH": "0"}
    native |= {"PYTHONHASHSEED": "0", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    run([sys.executable, "-m", "dontblink.lineage", "--profile", PROFILE, "--set", overrides], folder, **native)
    command = [sys.executable, str(ROOT / "tests" / "portable.py"), "--study", str(folder)]
    if emulated:  # the real binary: what a link of an environment starts would be looked up anew
        command = ["qemu-x86_64", "-cpu", emulated, os.path.realpath(sys.executable), *command[1:]]
        sys.path.insert(0, str(ROOT / "lib"))
        from dontblink import arithmetic

        native |= arithmetic.THREADS | arithmetic.AVX2 | {arithmetic.NUMPY: ""}  # those processors have no more
    run(command, folder, **native)


def conclude(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Do what ends `make all` with what was made: take, sign, say."""
    environment = os.environ | {"PYTHONPATH": str(folder / "lib")}
    command = [sys.executable, "-m"]
    for step in (["dontblink.publish.verdict", "--take"], ["dontblink.publish.verify", "--write"]):
        run([*command, *step, "--profile", PROFILE], folder, PYTHONPATH=environment["PYTHONPATH"])
    say = [*command, "dontblink.publish.verdict", "--profile", PROFILE, *words]
    return subprocess.run(say, cwd=folder, env=environment, capture_output=True, text=True)


def study_here(folder: Path) -> None:
    """Make the study in this process, notebooks too: what `make all` does in several."""
    os.chdir(folder)
    from dontblink import arithmetic

    arithmetic.settle(PROFILE)
    import jupytext

    from dontblink import params, paths
    from dontblink.extraction.run import Extraction
    from dontblink.publish import notebook

    assert folder == paths.ROOT, f"{paths.ROOT} is not {folder}"
    import torch

    torch.set_num_threads(1)
    Extraction(PROFILE).run(jobs=1)
    for stem in NOTEBOOKS:
        source = jupytext.read(folder / "notebooks" / f"{stem}.py")
        declared = notebook.read_defaults(notebook.find_parameters_cell(source, stem), stem)
        values = params.read_section(PROFILE, stem.partition("_")[2])
        given: dict[str, Any] = notebook.pick_parameters(declared, values, stem) | {"profile": PROFILE}
        with notebook.begin(stem, PROFILE):
            for cell in source.cells:
                if cell.cell_type == "code" and notebook.TAG not in cell.metadata.get("tags", []):
                    exec(compile(cell.source, stem, "exec"), given)  # noqa: S102  a notebook of this checkout
        print(f"{stem}: done", flush=True)
        paths.stamp(PROFILE, stem).parent.mkdir(exist_ok=True)
        paths.stamp(PROFILE, stem).touch()


def read_results(folder: Path) -> dict[str, bytes]:
    """Return shards, tables, numbers and figures by name."""
    results = folder / "results" / PROFILE
    kinds = (".parquet", ".json", ".csv", ".png", ".pdf")
    parts = ("responses", "heads", "traces", "samples", "tables", "figures")
    files = [file for part in parts for file in sorted((results / part).rglob("*")) if file.suffix in kinds]
    return {file.relative_to(results).as_posix(): file.read_bytes() for file in [*files, results / "extraction.json"]}


def list_finite(folder: Path, stem: str) -> list[str]:
    """Return the keys of a notebook's finite numbers: a study in which nothing is estimated would prove nothing."""

    def walk(value: Any, key: str) -> list[str]:
        if isinstance(value, dict):
            return [found for name, inner in value.items() for found in walk(inner, f"{key}.{name}")]
        return [key] if isinstance(value, float) and math.isfinite(value) else []

    return walk(json.loads((folder / "results" / PROFILE / "figures" / f"{stem}.json").read_text()), stem)


def prove(folder: Path, emulated: str) -> int:
    """Make the native study again on an emulated processor; print what came of it and return the exit status."""
    native, begun = read_results(folder), time.perf_counter()
    other = folder.with_name(emulated)
    shutil.copytree(folder, other, symlinks=True)
    shutil.rmtree(other / "results")
    make_study(other, emulated)
    made = read_results(other)
    differ = sorted(name for name in {*native, *made} if native.get(name) != made.get(name))
    said = conclude(other)
    dirty = run(["git", "status", "--porcelain"], other)
    minutes = (time.perf_counter() - begun) / 60
    print(f"{emulated}: {len(native) - len(differ)} of {len(native)} files are the same bytes ({minutes:.0f} minutes)")
    print(f"{emulated}: first that differs: {differ[0]}" if differ else f"{emulated}: {said.stdout.splitlines()[-1]}")
    print(f"{emulated}: git status: {dirty.strip() or 'clean'}", flush=True)
    return int(bool(differ or dirty or said.returncode or not said.stdout.startswith("reproduced: ")))


def main() -> int:
    """Run the proof, or one study in this process."""
    parser = argparse.ArgumentParser(prog="python tests/portable.py", description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="make the study there, in this process")
    parser.add_argument("--processor", choices=EMULATED, action="append", help="only this one")
    given = parser.parse_args()
    if given.study:
        study_here(given.study.resolve())
        return 0
    if not shutil.which("qemu-x86_64"):
        print("portable: no qemu-x86_64 here; install it (Debian: apt install qemu-user)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_repository(Path(temporary).resolve() / "native")
        make_study(folder)
        print(f"native: {len(read_results(folder))} files", flush=True)
        for stem in NOTEBOOKS:
            assert len(found := list_finite(folder, stem)) > 10, f"{stem}: nearly nothing is estimated: {found}"
        conclude(folder)
        commit(folder)
        return max(prove(folder, emulated) for emulated in given.processor or EMULATED)


if __name__ == "__main__":
    sys.exit(main())
