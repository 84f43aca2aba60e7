"""kill -9 while figures and numbers are written, and of whole notebooks with and without their kernels."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import matplotlib.pyplot as plt
import small_study as study
from kills import die_at
from trials import Bench

from dontblink import paths
from dontblink.publish import notebook, record

STEM = "01_small"
SOURCE = """# %% [markdown]
# # 01 Small: a notebook of the package's form

# %% tags=["parameters"]
profile = "small"  # which params/<profile>.yaml
height = 3  # of the line

# %%
from pathlib import Path
import time
import matplotlib.pyplot as plt
from dontblink import paths
from dontblink.publish import record
paths.ROOT = Path.cwd()

# %%
figure, ax = plt.subplots()
ax.plot([0, 1, 2], [height, 1, 2])
record.save_figure(figure, "01_small", profile)

# %%
record.save_numbers("01_small", {"height": height}, profile)

# %%
time.sleep(0.5)
assert height > 0, "the reading at the end"
"""


def draw(version: int) -> None:
    """Write the figure and the numbers of one version."""
    figure, ax = plt.subplots()
    ax.plot([0, 1, 2], [version + 1, 1, 2])
    record.save_figure(figure, STEM, study.PROFILE)
    plt.close(figure)
    record.save_numbers(STEM, {"version": version, "many": list(range(5000 + version))}, study.PROFILE)


def kill_while_recording(bench: Bench, n: int) -> None:
    """Kill a process that writes changing figures and numbers; each file must be one of the versions, whole."""
    versions = []
    for version in range(3):
        root = study.prepare(bench.folder / f"version-{version}")
        study.run(root, lambda v=version: draw(v))
        versions.append(study.read_files(root))

    def draw_all(order: tuple[int, ...]) -> None:
        with notebook.begin(STEM, study.PROFILE):
            for version in order:
                draw(version)

    n_halves = min(n // 2, 9)  # three files of three versions
    for k in range(n):
        root = study.prepare(bench.folder / f"recording-{k:03d}")
        # the first ones at the half of each file; then figure and numbers take turns, the latter take milliseconds
        half = k + 1 if k < n_halves else 0
        child = study.start(root, lambda: draw_all((0, 1, 2) * 20), lambda h=half: die_at(h, "half"))
        count, longest = (2 * bench.random.randint(1, 4), 0.004) if k % 3 else (2 * bench.random.randint(0, 3) + 1, 0.1)
        if half:
            killed = study.STAGES[study.WATCH[0]] if study.wait(child) == -signal.SIGKILL else ""
        else:
            killed = study.kill_at(child, count, bench.random.uniform(0, longest))
        what = f"kill {k} while recording ({killed})"
        if killed:
            bench.report.kills[killed] += 1
        else:
            bench.report.problems.append(f"{what}: it had ended before")
        for name, content in study.read_files(root).items():
            if content not in [version[name] for version in versions]:
                bench.report.torn += 1
                bench.report.problems.append(f"{what}: {name} is torn")
        if not (root / "results" / study.PROFILE / "notebooks" / f"{STEM}.unfinished").exists():
            bench.report.problems.append(f"{what}: nothing says that the notebook did not come to its end")
        study.run(root, lambda: draw_all((1,)))
        if study.read_files(root) != versions[1] or study.count_leftovers(root):
            bench.report.problems.append(f"{what}: the next run does not end with whole files of its version")


def run_notebook() -> None:
    """Run the small notebook in this process."""
    notebook.run_notebook(paths.ROOT / "notebooks" / f"{STEM}.py", {"height": 3}, study.PROFILE)


def kill_notebooks(bench: Bench, n: int) -> None:
    """Kill n runners of a notebook, every other one with its kernel; a kernel that is left must end by itself.

    A kill that comes after the end is drawn anew, at most n times in all.
    """

    def prepare(name: str) -> Path:
        root = study.prepare(bench.folder / name)
        (root / "notebooks").mkdir()
        (root / "notebooks" / f"{STEM}.py").write_text(SOURCE)
        os.environ["PYTHONPATH"] = str(study.HERE / "lib")
        return root

    root = prepare("notebook")
    started = time.monotonic()
    if study.run(root, run_notebook):
        raise SystemExit(f"the undisturbed notebook failed:\n{(root / 'log.txt').read_text()}")
    seconds, expected = time.monotonic() - started, study.read_files(root)
    landed = 0
    for k in range(2 * n):
        if landed == n:
            break
        root = prepare(f"notebook-{k:03d}")
        child = study.start(root, run_notebook)
        time.sleep(bench.random.uniform(0.2, 1) * seconds)
        kernels = study.find_children(child)
        killed = study.kill(child)
        for kernel in kernels if k % 2 else []:
            os.kill(kernel, signal.SIGKILL)
        what = f"kill {k} of a notebook ({killed})"
        mark = root / "results" / study.PROFILE / "notebooks" / f"{STEM}.unfinished"
        if killed:
            landed += 1
            bench.report.kills[killed] += 1
            if not mark.exists():
                bench.report.problems.append(f"{what}: nothing says that it did not come to its end")
        torn = [name for name, content in study.read_files(root).items() if expected.get(name) != content]
        bench.report.torn += len(torn)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{kernel}").exists() for kernel in kernels) and time.monotonic() < deadline:
            time.sleep(0.05)
        if time.monotonic() >= deadline:
            bench.report.problems.append(f"{what}: its kernel is still there after 20 s")
        if study.run(root, run_notebook) or study.read_files(root) != expected or mark.exists():
            bench.report.problems.append(f"{what}: the next run does not end with the same files; {torn}")
