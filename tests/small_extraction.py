"""One small finished extraction, made once a session, for every test that reads tables, traces or a checkout's results.

In: nothing but the shipped checkpoint `qwen3vl-tiny-s`. Out, as fixtures (see conftest.py): `small_root`, a folder with
results/small of 24 test and 6 calibration items of each of two benchmarks, six shards, which no test may change; some
items are asked again. `small` is the same with `paths.ROOT` set to it while the test runs; `small_copy` is a copy of
the test's own, with `paths.ROOT` set to that. `write_settings` changes the parameters of a copy. It takes four seconds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dontblink import params, paths
from dontblink.extraction.run import Extraction

HERE = paths.find_root(Path(paths.__file__).parent, Path.cwd())  # whatever a test has set paths.ROOT to
PROFILE, MODEL, BENCHMARKS = "small", "qwen3vl-tiny-s", ("visual_reference", "hallucination")
N_TEST, N_CALIBRATION, N_SHARDS = 24, 6, 6
N_SAMPLED, N_DRAWN = 14, 3  # of each benchmark: the first test shard whole and two items of the second; each so often
CHANGES: dict[str, dict[str, Any]] = {
    "testbed": {"n_test_items": N_TEST, "n_calibration_items": N_CALIBRATION, "n_example_items": 1},
    "extraction": {
        "models": [MODEL], "checkpoints_folder": str(HERE / "models" / "testbed"), "benchmarks": list(BENCHMARKS),
        "shard_items": 12, "batch_size": 12, "n_cross_checked_items": 2,
        "n_sampled_items": N_SAMPLED, "samples_per_item": N_DRAWN,
    },
    "pages": {"item_quantiles": [0.2, 0.8]},
}  # fmt: skip


def write_settings(root: Path, **changes: Any) -> None:
    """Write the parameters of the small study below `root`, with values changed in whichever section has the name."""
    _, sections = params.load(HERE / "params" / "testbed.yaml")
    for section, values in CHANGES.items():
        sections[section] |= values
    for name, value in changes.items():
        (section,) = [s for s in ("extraction", "testbed", "server", "questions") if name in sections[s]]
        sections[section][name] = value
    params.write_sections(sections, root / "results" / PROFILE / "params")


def extract(root: Path) -> None:
    """Run the small extraction in a folder that is like a checkout."""
    (root / "lib").symlink_to(HERE / "lib")  # its sources are part of the shards' names
    (root / "params").mkdir()
    shutil.copy(HERE / "params" / "testbed.yaml", root / "params" / f"{PROFILE}.yaml")
    write_settings(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a small model is several times faster on one where cores are shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        Extraction(PROFILE).run(jobs=1)
    torch.set_num_threads(threads)
