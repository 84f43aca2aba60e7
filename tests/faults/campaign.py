"""The fault campaign: `python tests/faults/campaign.py --kills 100 --seed 1`, minutes on one core.

Extractions, figures and notebooks are killed, starved of disk, damaged and run against each other; each fault is
followed by a run that is left alone. The report says what was lost, duplicated or torn; it ends with status 1 if
anything was, and as INCOMPLETE if fewer kills landed than asked for, none in one of the stages that matter, or a kind
of fault was not tried (`--allow-skips` is for machines where a small disk cannot be mounted). `--kills` is how many
extractions are killed at random moments; a third as many writers of figures and a tenth as many notebooks are, too, and
an extraction before, half-way through and after each step of writing a file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import kills  # noqa: E402
import notebook_kills  # noqa: E402
import other_faults  # noqa: E402
from trials import Bench  # noqa: E402


def main() -> int:
    """Run the campaign and print its report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of extractions at random moments")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a sample of everything, as in the tests")
    parser.add_argument("--allow-skips", action="store_true", help="faults that this machine cannot have are no gap")
    parser.add_argument("--json", type=Path, help="where to write the report as JSON")
    given = parser.parse_args()
    if given.kills < 1:
        parser.error(f"--kills {given.kills}: expected 1 or more")
    folder, started = Path(tempfile.mkdtemp(prefix="dontblink-faults-")), time.monotonic()
    folder.chmod(0o755)  # another user must get as far as the folder that is not theirs
    can_mount = other_faults.own_mounts()  # before anything else: the folder stays visible to all, mounts do not

    bench = Bench(folder, given.seed)
    report, short = bench.report, given.short

    def say(what: str) -> None:
        seconds, n = time.monotonic() - started, report.kills.total()
        problems = len(report.problems)
        print(
            f"{seconds:5.0f} s: {n} kills, {report.faults.total()} other faults, {problems} problems; {what}",
            flush=True,
        )

    say("extractions, random moments")
    kills.kill_at_random_moments(bench, given.kills)
    say("extractions, around each step")
    kills.kill_at_steps(bench, 2 if short else None)
    if not short:
        say("models side by side")
        kills.kill_with_workers(bench)
    say("figures and numbers")
    notebook_kills.kill_while_recording(bench, max(4, given.kills // 3))
    say("notebooks")
    notebook_kills.kill_notebooks(bench, 1 if short else max(2, given.kills // 10))
    say("damaged files")
    other_faults.damage_files(bench, 3 if short else 12)
    other_faults.damage_texts(bench)
    say("disks")
    if can_mount:
        other_faults.fill_disks(bench, 3 if short else 12)
        other_faults.refuse_writing(bench)
    else:
        for fault in ("full disk", "read-only folder"):
            report.skipped[fault] = "mounting a small disk takes root; run as root"
    if os.getuid() == 0:
        other_faults.refuse_owner(bench)
    else:
        report.skipped["another user's folder"] = "becoming another user takes root; run as root"
    say("clocks, two runs at once")
    other_faults.turn_clocks(bench)
    other_faults.run_two(bench, 1 if short else 5)
    say("done")
    gaps = report.find_gaps(given.kills, given.allow_skips)
    print(report.describe(gaps))
    if given.json:
        given.json.write_text(json.dumps({**vars(report), "is_clean": report.is_clean, "gaps": gaps}))
    if report.is_clean:
        shutil.rmtree(folder)
    else:
        print(f"the folders of the trials with problems: {folder}")
    return 0 if report.is_clean and not gaps else 1


if __name__ == "__main__":
    sys.exit(main())
