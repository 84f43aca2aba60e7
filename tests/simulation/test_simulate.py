"""Claims about the simulation's command: processes, order and interruptions change no number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dontblink import paths
from dontblink_simulation import simulate
from dontblink_simulation.coverage import summarise
from dontblink_simulation.register import STATISTICS
from dontblink_simulation.simulate import main, plan_blocks, publish, read_rows, run_block, run_missing, seed_study

QUICK = ["--studies", "30", "--replicates", "19", "--statistics", "collapse", "--settings", "iid", "small"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write below a temporary root."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(simulate, "hash_code", lambda *modules: "code")  # which reads the sources of the checkout
    return tmp_path


def plan_quick(n_studies: int = 30, n_replicates: int = 19) -> list[simulate.Block]:
    return plan_blocks(n_studies, n_replicates, ["collapse"], ["iid", "small"])


def run_here(blocks: list[simulate.Block]) -> dict[str, pd.DataFrame]:
    """Simulate without worker processes, which take seconds to start."""
    for block in blocks:
        if not block.file.exists():
            simulate.store.write_table(block.file, run_block(block), {})
    return read_rows(blocks)


@pytest.mark.slow
def test_one_process_and_two_give_the_same_numbers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for n in (1, 2):
        monkeypatch.setattr(paths, "ROOT", root / str(n))
        run_missing(plan_quick(), n)
        found.append(read_rows(plan_quick())["collapse"])
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)
    assert len(found[0]) == 30 * 2 * 8
    monkeypatch.setattr(paths, "ROOT", root / "here")
    pd.testing.assert_frame_equal(run_here(plan_quick())["collapse"], found[0], rtol=1e-12)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_gives_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = plan_quick()
    whole = run_here(blocks)["collapse"]
    lost, kept = blocks[0].file, blocks[1].file
    lost.unlink()
    age = kept.stat().st_mtime_ns
    run_missing(blocks, 1)
    assert f"{len(blocks) - 1} of {len(blocks)} blocks" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == age
    pd.testing.assert_frame_equal(read_rows(blocks)["collapse"], whole, check_exact=True)


def test_finished_work_is_not_done_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(plan_quick())
    monkeypatch.setattr(simulate, "ProcessPoolExecutor", None)
    assert main(QUICK) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 blocks" in printed and "coverage" in printed


def test_more_studies_go_on_from_those_that_are_there() -> None:
    few = run_here(plan_quick(25))["collapse"]
    assert [block.file for block in plan_quick(50)][0] == plan_quick(25)[0].file
    more = run_here(plan_quick(50))["collapse"]
    pd.testing.assert_frame_equal(more[more["study"] < 25].reset_index(drop=True), few)


def test_a_block_is_named_by_all_that_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [block.file for block in plan_quick()]
    assert before == [block.file for block in plan_quick()]
    assert not set(before) & {block.file for block in plan_quick(n_replicates=20)}
    changed = replace(STATISTICS["collapse"].settings["iid"], fall=0.5)
    settings = {**STATISTICS["collapse"].settings, "iid": changed}
    monkeypatch.setitem(STATISTICS, "collapse", replace(STATISTICS["collapse"], settings=settings))
    after = [block.file for block in plan_quick()]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, False, True, True]
    monkeypatch.setattr(simulate, "hash_code", lambda *modules: "other code")
    assert not set(before) & {block.file for block in plan_quick()}


def test_every_study_has_a_seed_of_its_own() -> None:
    seeds = {
        tuple(seed_study(name, setting, study))
        for name, statistic in STATISTICS.items()
        for setting in statistic.settings
        for study in range(3)
    }
    assert len(seeds) == 3 * sum(len(statistic.settings) for statistic in STATISTICS.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--statistics", "colapse"], "statistic colapse: not known; choose of auroc, auroc_difference, collapse"),
        (["--settings", "iid", "tiny"], "setting tiny: not known; choose of"),
        (["--statistics", "collapse", "--settings", "null_v"], "no setting of these statistics"),
        (["--studies", "0"], "0 studies of 399 replicates; expected at least one"),
        (["--statistics", "collapse", "--processes", "0"], "0 processes; expected at least one"),
    ],
)
def test_what_cannot_run_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(message) and printed.err.count("\n") == 1 and printed.out == ""


def test_a_damaged_block_is_named_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    run_here(plan_quick())
    plan_quick()[0].file.write_bytes(b"PAR1 half")
    assert main(QUICK) == 1
    assert "delete it, the next run recomputes it" in capsys.readouterr().err


def test_a_part_of_the_register_leaves_the_tracked_figure_alone(root: Path) -> None:
    run_here(plan_quick())
    assert main(QUICK) == 0
    assert (root / "results" / "simulation" / "collapse.parquet").is_file()
    assert not (root / "figures").exists()


def test_the_figure_and_the_numbers_are_published_together(root: Path) -> None:
    files = publish(summarise(run_here(plan_quick())), 30, 19)
    names = [f"00_simulation{part}.{suffix}" for part in ("", "_fits") for suffix in ("pdf", "png")]
    assert [file.name for file in files] == ["00_simulation.json", *names]
    assert {file.parent for file in files} == {root / "figures" / "simulation"}
    numbers = json.loads(files[0].read_text())
    assert numbers["n_studies"] == 30 and numbers["n_replicates"] == 19
    assert numbers["simulated"]["collapse"]["small"]["evidence"]["bca"]["n_studies"] == 30
    assert numbers["settings"]["interaction"]["separation"]["constant"] == 4.5
