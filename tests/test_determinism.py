"""The same bytes on another machine from the tables onward, the same traces within tolerances before, and no network.

| what | across | stated tolerance |
|---|---|---|
| figures, numbers of 02 to 05 | folder, home, locale, time zone, hash seed, umask, build date | none: equal bytes |
| greedy responses | threads, batch size | equal ids, on a sample of items |
| region masses | threads, replay batch | 2e-6 |
| entropy | threads, replay batch | 1e-5 nats |
| step maps | threads, replay batch | 1e-6 |

All of float32. Sums in another order differ in their last digit: that is all the tolerances allow. Greedy ids can
differ where two words are within that digit of each other: not seen in this sample, to be expected in long responses of
large models in bfloat16. Between processors the settings of `dontblink.arithmetic` decide, see tests/portable.py.

Notebooks do not vary their threads: their runner fixes one, whatever the environment says. That a kernel computes with
one is tested in test_notebook; here the environment says two, and every kernel is seen to start with one. The paper is
built in two folders, under two clocks, in test_paper.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ENTROPY_BAR, MAP_BAR, MASS_BAR

from dontblink import params, paths
from dontblink.attention.replay import Measures, replay_responses
from dontblink.boxes import evidence
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, encode_items, generate_responses
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item
from dontblink_testbed import benchmark

pytestmark = pytest.mark.slow  # three minutes of one core
ROOT = paths.ROOT
GUARD = ROOT / "tests" / "guard"
MODELS = ("qwen3vl-tiny-s", "glm4v-tiny")
NOTEBOOKS = ("02_collapse", "03_entropy", "04_interaction", "05_veto")
OVERRIDES = (
    f"extraction.models=[{','.join(MODELS)}] extraction.benchmarks=[visual_reference,hallucination] "
    "extraction.shard_items=100 extraction.n_sampled_items=5 testbed.n_test_items=75 testbed.n_calibration_items=60 "
    "collapse.bootstrap_replicates=60 collapse.shuffled_deals=5 collapse.band_replicates=30 "
    f"collapse.picture_model={MODELS[0]} collapse.picture_benchmark=visual_reference "
    "entropy.bootstrap_replicates=60 entropy.transfer_replicates=40 entropy.refit_replicates=20 "
    "entropy.shuffled_deals=20 entropy.vision_deals=2 entropy.excess_replicates=20 "
    "entropy.min_items=10 entropy.min_class_items=5 "
    "interaction.bootstrap_replicates=60 interaction.light_replicates=30 interaction.shuffled_deals=20 "
    "interaction.specification_deals=20 interaction.min_items=10 "
    "veto.splits=4 veto.jackknife_blocks=4 veto.permutations=4 veto.other_permutations=2 "
    "veto.bootstrap_replicates=40 veto.min_items=30 veto.guarantee_draws=2"
)
RUN = """
import sys
from dontblink import params, paths
from dontblink.publish import notebook
assert str(paths.ROOT) == sys.argv[1], paths.ROOT
folder = paths.results("small") / "params"
if "extract" in sys.argv:
    _, sections = params.load(paths.params_file("testbed"))
    params.override(sections, sys.argv[2])
    params.write_sections(sections, folder)
    from dontblink.extraction.run import Extraction
    Extraction("small").run(jobs=1)
    sys.path.insert(0, str(paths.ROOT / "paper"))
    import build
    sys.exit(build.main([]))
for name in sys.argv[3:]:
    section = folder / f"{name.split('_')[1]}.json"
    assert notebook.main([f"notebooks/{name}.py", "--params", str(section), "--profile", "small"]) == 0, name
"""
HERE = {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "0"}
THERE = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "COLUMNS": "200"}


def build_locale(folder: Path) -> dict[str, str]:
    """Return the environment of a German locale, built in a folder where the machine has the sources for it."""
    name = "de_DE.UTF-8"
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / name)]
    built = shutil.which("localedef") and subprocess.run(command, capture_output=True).returncode == 0
    return {"LC_ALL": name, "LOCPATH": str(folder)} if built else {"LC_ALL": name}


def can_cut() -> list[str]:
    """Return the command that starts another in a network namespace of its own, nothing where that is not permitted."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return []


def copy_checkout(root: Path) -> None:
    """Copy what the runs need."""
    for part in ("lib", "paper", "params", "figures/testbed", *(f"models/testbed/{name}" for name in MODELS)):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "notebooks").mkdir()
    for name in ("pyproject.toml", *(f"notebooks/{n}.py" for n in NOTEBOOKS), "models/testbed/difficulty.json"):
        shutil.copy(ROOT / name, root / name)


def run(root: Path, home: Path, *stages: str, umask: int, environment: dict[str, str]) -> None:
    """Run stages in a copy without a network, the guard in every process; HF_HUB_OFFLINE, which make sets, is left out.

    Where no network namespace is permitted, the guard itself refuses what reaches beyond the machine.
    """
    home.mkdir(exist_ok=True)
    cut = can_cut()
    before = [*cut, sys.executable, str(GUARD / "cut.py"), str(root / f"unsent_{stages[0]}.txt")] if cut else []
    dropped = ("HF_", "SOURCE_DATE", "PYTHON", "LC_", "LANG", "LOCPATH", "JUPYTER", "OMP_", "MKL_", "OPENBLAS_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    path = os.pathsep.join([str(GUARD), str(root / "lib")])
    kept |= {"HOME": str(home), "PYTHONPATH": path, "NETWORK_LOG": str(root / "attempts.txt")} | environment
    kept |= {"PROCESS_LOG": str(root / "processes.txt")} | ({} if cut else {"NETWORK_CUT": "1"})
    command = [*before, sys.executable, "-c", RUN, str(root), OVERRIDES, *stages]
    done = subprocess.run(command, cwd=root, env=kept, umask=umask, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run everything in one checkout, and the notebooks again on its tables as on another machine, side by side."""
    top = tmp_path_factory.mktemp("machines")
    here, there = top / "here", top / "over there, ä"
    copy_checkout(here)
    copy_checkout(there)
    run(here, top / "home", "extract", umask=0o022, environment=HERE)
    shutil.copytree(here / "results" / "small", there / "results" / "small")
    german = THERE | build_locale(tmp_path_factory.mktemp("locales"))
    with ThreadPoolExecutor(2) as both:
        jobs = [
            both.submit(run, here, top / "home", *NOTEBOOKS, umask=0o022, environment=HERE),
            both.submit(run, there, top / "anderes Heim", *NOTEBOOKS, umask=0o077, environment=german),
        ]
    for job in jobs:
        job.result()
    return here, there


def read_processes(root: Path) -> list[list[str]]:
    """Return the decimal point and the OMP_NUM_THREADS of every Python that ran in a copy."""
    return [line.split() for line in (root / "processes.txt").read_text().splitlines()]


def test_figures_and_numbers_have_the_same_bytes_on_another_machine(runs: tuple[Path, Path]) -> None:
    folders = [root / "results" / "small" / "figures" for root in runs]
    made, again = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert made.keys() == again.keys()
    tracked = {f.name for f in (ROOT / "figures" / "testbed").iterdir() if f.name.startswith(NOTEBOOKS)}
    assert {f"{name}.{kind}" for name in NOTEBOOKS for kind in ("pdf", "png", "json")} <= made.keys()
    # without symbolic items there is no contrast to be told
    assert tracked == made.keys() | {"04_interaction_contrasts.csv"}
    assert [name for name in made if made[name] != again[name]] == []


def test_the_paper_built_there_is_the_tracked_one(runs: tuple[Path, Path]) -> None:
    assert (runs[0] / "paper" / "paper.pdf").read_bytes() == (ROOT / "paper" / "paper.pdf").read_bytes()


def test_the_two_runs_did_differ(runs: tuple[Path, Path]) -> None:
    modes = {(root / "results" / "small" / "figures" / "02_collapse.json").stat().st_mode & 0o777 for root in runs}
    assert modes == {0o644, 0o600}


def test_the_runner_fixes_the_threads_of_every_kernel_to_one_where_the_environment_says_two(
    runs: tuple[Path, Path],
) -> None:
    assert {threads for _, threads in read_processes(runs[0])} == {"1"}
    threads = [threads for _, threads in read_processes(runs[1])]
    assert threads.count("1") >= len(NOTEBOOKS) and set(threads) == {"1", "2"}


def test_every_process_of_the_other_machine_had_a_decimal_comma(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert {point for point, _ in read_processes(runs[0])} == {"."}
    points = [point for point, _ in read_processes(runs[1])]
    if set(points) == {"."} and "LOCPATH" not in build_locale(tmp_path):
        pytest.skip("this machine has no locale de_DE.UTF-8, and localedef cannot build one")
    assert set(points) == {","} and len(points) > len(NOTEBOOKS)


def test_extraction_notebooks_02_to_05_and_paper_need_no_network_and_try_none(runs: tuple[Path, Path]) -> None:
    for root in runs:
        attempts = root / "attempts.txt"
        assert not attempts.exists(), attempts.read_text()
    unsent = [file.read_text() for root in runs for file in root.glob("unsent_*.txt")]
    assert unsent == (["0"] * 3 if can_cut() else []), "packets that found no route, of any language"


def test_the_guard_sees_an_attempt_and_lets_the_loop_back_pass(tmp_path: Path) -> None:
    code = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()).close()\n"
        "there, connect, look_up = ('192.0.2.1', 80), socket.create_connection, socket.getaddrinfo\n"
        "for call in (lambda: connect(there, 1), lambda: look_up('a.invalid', 1)):\n"
        "    try:\n        call()\n    except OSError as error:\n        assert 'is cut' in str(error)\n"
    )
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": str(GUARD), "NETWORK_LOG": str(log), "NETWORK_CUT": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert {line.split()[1] for line in log.read_text().splitlines()} == {"192.0.2.1", "a.invalid"}


def test_the_kernel_counts_what_was_not_sent(tmp_path: Path) -> None:
    if not (cut := can_cut()):
        pytest.skip("this machine permits no network namespace: the guard alone watches")
    code = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError:\n    pass"
    count = tmp_path / "count"
    for command, expected in ((code, 1), ("import socket; socket.create_server(('127.0.0.1', 0))", 0)):
        subprocess.run([*cut, sys.executable, GUARD / "cut.py", count, sys.executable, "-c", command], check=True)
        assert (int(count.read_text()) >= 1) == bool(expected)


@pytest.fixture(scope="module", params=["qwen3vl-tiny-s", "qwen3vl-tiny-m", "glm4v-tiny"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    """Return a shipped model."""
    folder = ROOT / "models" / "testbed" / request.param
    return load_vlm(folder, name=request.param, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Return an item of each benchmark, long and short."""
    settings = params.load(paths.params_file("testbed"))[1]["testbed"]
    found: list[Item] = []
    for name in ("symbolic", "visual_reference", "hallucination"):
        found += benchmark.load_items(name, "test", 1, settings["item_seed"], benchmark.read_difficulty(name, settings))
    return found


def measure(
    vlm: VLM, items: list[Item], *, threads: int, batch: int, budget: int
) -> tuple[dict[str, Any], list[Measures]]:
    """Return the greedy ids by item, and the traces of each, with so many threads, items a batch, tokens a replay."""
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = generate_responses(vlm, items, Sampling(64), batch_size=batch, progress=False)
        ids = {response.item_id: response.response_ids for response in made}
        prompts = encode_items(vlm, items)
        grids = [vlm.image_grid(prompt) for prompt in prompts]
        coverage = [
            evidence.item_coverage(i, g, p.image_sizes, p.image_order)
            for i, g, p in zip(items, grids, prompts, strict=True)
        ]
        responses = [ids[item.id] for item in items]
        steps = [vlm.segment(response).steps for response in responses]
        return ids, list(
            replay_responses(
                vlm, prompts, responses, coverage=coverage, control=coverage, steps=steps, token_budget=budget
            )
        )
    finally:
        torch.set_num_threads(kept)


def test_traces_agree_within_the_stated_tolerances_across_threads_and_batches(vlm: VLM, items: list[Item]) -> None:
    ids, traces = measure(vlm, items, threads=1, batch=3, budget=8192)
    other_ids, others = measure(vlm, items, threads=2, batch=1, budget=1)
    assert ids == other_ids and sum(map(len, ids.values())) > 60
    for trace, other in zip(traces, others, strict=True):
        assert np.abs(trace.mass - other.mass).max() <= MASS_BAR
        assert np.abs(trace.entropy_nats - other.entropy_nats).max() <= ENTROPY_BAR
        assert np.abs(trace.step_map - other.step_map).max() <= MAP_BAR


def test_the_stated_tolerances_are_those_that_are_tested() -> None:
    assert (MASS_BAR, ENTROPY_BAR, MAP_BAR) == (2e-6, 1e-5, 1e-6)
    for text in (__doc__ or "", (ROOT / "REPRODUCING.md").read_text()):
        for value in ("2e-6", "1e-5", "1e-6"):
            assert value in text
