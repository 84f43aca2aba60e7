"""The benchmarks' arithmetic and their page: ratios by pair, spread, fitted growth, bars missed in plain sight."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink import lineage, paths

ROOT = paths.ROOT
sys.path.insert(0, str(ROOT / "bench"))

import make  # noqa: E402  the scripts of bench/, which is no package
import measure  # noqa: E402
import report  # noqa: E402

HELP = """
import runpy, sys  # all in one process: importing the package takes seconds
scripts, sys.path[0] = sys.argv[1:], "bench"
for script in scripts:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
"""
THREADS = """
import sys
sys.path.insert(0, "bench")
from measure import build_parser, read_arguments
read_arguments(build_parser(""))
"""


def test_a_ratio_is_taken_within_each_pair_and_its_spread_is_that_of_the_pairs() -> None:
    # the second pair ran on a machine twice as slow: the ratio of medians would be 12 / 4 = 3, that of pairs is 2
    result = measure.judge_pair("c", [12.0, 20.0, 9.0], [4.0, 10.0, 4.5], at_most=2.5)
    assert (result.value, result.low, result.high) == (2.0, 2.0, 3.0)
    assert (result.holds, result.bar, result.bar_value, result.repeats) == (True, "<= 2.5", 2.5, 3)


def test_a_scale_multiplies_the_numerator_only() -> None:
    assert measure.judge_pair("c", [1.0], [2.0], scale=50).value == 25


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), st.floats(1e-6, 1e6))
def test_a_bar_is_judged_on_the_median_and_the_median_lies_in_the_spread(values: list[float], bar: float) -> None:
    most, least = measure.judge("c", values, at_most=bar), measure.judge("c", values, at_least=bar)
    assert most.low <= most.value <= most.high
    assert most.holds == (np.median(values) <= bar) and least.holds == (np.median(values) >= bar)
    assert measure.judge("c", values).holds is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_values_or_values_that_are_not_finite_are_no_result(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        measure.judge("c", values, at_most=1)


def test_calls_alternate_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    seconds = measure.time_in_turn({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, repeats=2)
    assert log == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    measure.time_in_turn({"a": lambda: log.append("a")}, repeats=2, warm_up=False)
    assert len(log) == 8


@given(st.floats(-1, 3), st.floats(0.01, 100))
def test_the_fitted_exponent_is_exact_on_a_power(exponent: float, factor: float) -> None:
    sizes = np.array([128, 256, 512, 1024, 2048])
    assert measure.fit_exponent(sizes, factor * sizes**exponent) == pytest.approx(exponent, abs=1e-9)


def allocate(n_mib: int) -> float:
    """Return the growth of peak memory while `n_mib` MiB are written and given back."""
    return measure.measure_growth(lambda: np.ones(n_mib * 2**17).sum())


def divide_by_zero() -> None:
    """Fail in the other process."""
    _ = 1 / 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel tells no peaks here")
def test_a_fresh_process_tells_its_peak_although_the_memory_was_given_back() -> None:
    assert measure.run_alone(allocate, 96) == pytest.approx(96, abs=4)


def test_an_error_in_a_fresh_process_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        measure.run_alone(divide_by_zero)


def test_threads_left_to_chance_stop_a_script_in_one_line() -> None:
    bare = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", THREADS], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 2
    assert "OMP_NUM_THREADS is not set" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_script_says_what_it_measures() -> None:
    scripts = [str(file) for file in sorted((ROOT / "bench").glob("*.py")) if file.name != "measure.py"]
    done = subprocess.run([sys.executable, "-c", HELP, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for script, printed in zip(scripts, done.stdout.split("usage: ")[1:], strict=True):
        assert printed.startswith(Path(script).name) and len(printed) > 300


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty results folder, beside a README with the markers, which every module now uses."""
    folder = tmp_path / "results" / "bench"
    for module in (measure, report):
        monkeypatch.setattr(module, "FOLDER", folder)
        monkeypatch.setattr(module, "hash_code", lambda script: "now")
    monkeypatch.setattr(measure.paths, "ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "bench").mkdir()
    (tmp_path / report.PAGE).write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    return folder


def write(name: str, *results: measure.Result, options: str = "") -> None:
    """Write results as a script would that was called with some options."""
    parser = measure.build_parser("", repeats=3, layers=32)
    parser.add_argument("--cold", action="store_true")
    script = f"bench/{report.find_stem(name)}.py"
    measure.write_results(script, results, parser, parser.parse_args(options.split()), name=name)


def test_the_block_holds_every_result_of_every_script_and_names_no_machine(bench: Path) -> None:
    write("another", measure.judge("a later script", [3.0]))
    write("memory", measure.judge("growth", [0.9, 1.0, 1.1], at_most=1.1, unit="exponent"))
    write("capture", measure.judge("capture / without", [1.02, 1.01, 1.04], at_most=1.05), measure.judge("info", [7]))
    write("make", measure.judge("nothing changed", [0.41234], at_most=2, unit="s"))
    assert report.main([]) == 0
    text = (bench.parents[1] / report.PAGE).read_text()
    assert text.startswith("before\n<!-- bench") and text.endswith("<!-- /bench -->\nafter\n") and "\nold\n" not in text
    assert [line for line in text.splitlines() if line.startswith("| ")][1:] == [
        "| [`capture`](capture.py) | capture / without | 1.02 [1.01, 1.04] | <= 1.05 | yes |",
        "|  | info | 7 |  |  |",
        "| [`memory`](memory.py) | growth | 1 [0.9, 1.1] | <= 1.1 | yes |",
        "| [`make`](make.py) | nothing changed | 0.412 s | <= 2 | yes |",
        "| [`another`](another.py) | a later script | 3 |  |  |",
    ]
    assert "3 of 3 bars hold. Measured: `capture`, `memory`, `make`, `another` with 1 CPU thread of" in text
    assert os.uname().nodename not in text.split(report.START)[1]


def test_the_same_numbers_give_the_same_bytes(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = bench.parents[1] / report.PAGE
    write("capture", measure.judge("c", [1.0], at_most=2))
    report.main([])
    first, stamp = readme.read_bytes(), readme.stat().st_mtime_ns
    write("capture", measure.judge("c", [1.0], at_most=2))
    report.main([])
    assert readme.read_bytes() == first and readme.stat().st_mtime_ns == stamp
    assert "unchanged" in capsys.readouterr().out


def test_a_missed_bar_is_shown_named_and_fails(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("capture", measure.judge("capture / without", [1.0501, 1.02, 1.3], at_most=1.05), measure.judge("i", [1]))
    assert report.main([]) == 1
    text = (bench.parents[1] / report.PAGE).read_text()
    assert "| capture / without | 1.0501 [1.02, 1.3] | <= 1.05 | **no** |" in text  # not rounded to its bar
    assert "0 of 1 bars hold" in text
    assert capsys.readouterr().err == "MISS capture / without: 1.05 ratio, bar <= 1.05\n"


def test_a_look_leaves_the_results_alone(bench: Path) -> None:
    write("capture", measure.judge("c", [1.0]), options="--look")
    assert not bench.exists()


def test_results_of_other_settings_say_so_and_are_neither_held_nor_missed(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("memory", measure.judge("growth", [0.9], at_most=1.1), options="--layers 2 --repeats 1")
    write("capture", measure.judge("capture / without", [1.3], at_most=1.05), options="--layers 2")
    write("make", measure.judge("nothing changed", [0.4], at_most=2, unit="s"), options="--layers 32 --cold")
    assert report.main([]) == 0
    text = (bench.parents[1] / report.PAGE).read_text()
    assert "| growth, with repeats=1, layers=2 | 0.9 | <= 1.1 |  |" in text
    assert "| capture / without, with layers=2 | 1.3 | <= 1.05 |  |" in text
    assert "| nothing changed | 0.4 s | <= 2 | yes |" in text and "1 of 1 bars hold" in text
    assert capsys.readouterr().err == (
        "capture: not judged, measured with layers=2; run bench/capture.py without options\n"
        "memory: not judged, measured with repeats=1, layers=2; run bench/memory.py without options\n"
    )


def test_results_of_code_that_has_changed_since_are_named_below_the_table(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("capture", measure.judge("c", [1.0], at_most=2))
    assert report.main([]) == 0 and "earlier version" not in (bench.parents[1] / report.PAGE).read_text()
    monkeypatch.setattr(report, "hash_code", lambda script: "later")
    assert report.main([]) == 0 and "version of the code: `capture`" in (bench.parents[1] / report.PAGE).read_text()


def test_the_code_of_a_script_is_all_of_ours_behind_it() -> None:
    def reached(script: str) -> set[str]:
        return lineage.trace([ROOT / "bench" / f"{script}.py"])[0]

    assert reached("memory") >= {"bench/capture.py", "bench/measure.py", "tests/tiny_models.py"}
    assert "lib/dontblink/attention/replay.py" in reached("capture") - reached("bootstrap")
    assert len({measure.hash_code(script) for script in ("capture", "memory", "bootstrap", "make")}) == 4


@pytest.mark.parametrize("content", ["", "{}", '{"machine": {}, "results": [{"claim": "c"}]}', "[]"])
def test_a_broken_results_file_is_named_in_one_line(
    bench: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.mkdir(parents=True)
    (bench / "capture.json").write_text(content)
    assert report.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("results/bench/capture.json: ") and error.count("\n") == 1
    assert "\nold\n" in (bench.parents[1] / report.PAGE).read_text()


def test_no_results_and_lost_markers_are_errors(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([]) == 1
    assert "no results; run `make bench`" in capsys.readouterr().err
    write("capture", measure.judge("c", [1.0]))
    (bench.parents[1] / report.PAGE).write_text("no markers")
    assert report.main([]) == 1
    assert "put them back" in capsys.readouterr().err


def test_a_results_file_says_what_was_run_and_where(bench: Path) -> None:
    write("capture", measure.judge("c", [1.0], at_least=0.5))
    content = json.loads((bench / "capture.json").read_text())
    assert content["settings"] == {"repeats": 3, "layers": 32} and content["changed"] == {}
    assert set(content["machine"]) == {"system", "cores", "threads", "versions"}
    assert content["results"][0]["holds"] is True and content["results"][0]["bar"] == ">= 0.5"


def test_the_page_has_a_place_for_the_block_and_names_the_scripts_that_make_bench_runs_and_those_it_does_not() -> None:
    text = (ROOT / report.PAGE).read_text()
    assert report.replace_block(text, f"{report.START}\nnew\n{report.END}").count("\nnew\n") == 1
    recipe = re.search(r"for script in (.*?); do", (ROOT / "Makefile").read_text())
    named = re.search(r"`make bench` runs (.*?), then", text, flags=re.S)
    assert recipe is not None and named is not None
    run = set(re.findall(r"(\w+)\.py", recipe[1])) - {"report"}
    assert set(re.findall(r"`(\w+)`", named[1])) == run
    rest = {file.stem for file in (ROOT / "bench").glob("*.py")} - run - {"measure", "report"}
    assert all(f"bench/{stem}.py" in text for stem in rest) and "COLD=1" in text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small repository with a Makefile, a package, ignored results and a file not yet added."""
    root = tmp_path / "root"
    (root / "lib" / "dontblink").mkdir(parents=True)
    (root / "lib" / "dontblink" / "__init__.py").touch()
    (root / ".gitignore").write_text("results/\n")
    (root / "Makefile").write_text(
        "SET :=\nREADY := missing\n"
        "all: results/built $(if $(SET),changed) | $(READY)\n"
        "changed:\n\t@echo '02_collapse: done in 3 s'\n"
        "results/built:\n\tmkdir -p results && touch $@\n"
        "missing:\n\techo the environment would be installed; exit 1\n"
    )
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    (root / "new.txt").write_text("not yet added")
    (root / "results" / "testbed").mkdir(parents=True)
    (root / "results" / "testbed" / "extraction.json").write_text("{}")
    os.utime(root / "results" / "testbed" / "extraction.json", ns=(10**18, 10**18))
    return root


def test_a_copy_holds_the_working_tree_with_its_times_and_results_only_where_asked(checkout: Path) -> None:
    cold, warm = checkout.with_name("cold"), checkout.with_name("warm")
    make.copy_tree(checkout, cold, built=False)
    make.copy_tree(checkout, warm, built=True)
    assert (cold / "new.txt").read_text() == "not yet added" and not (cold / "results").exists()
    assert (warm / "results" / "testbed" / "extraction.json").stat().st_mtime_ns == 10**18
    make.check_package(warm)
    shutil.rmtree(checkout / ".git")
    with pytest.raises(make.BenchError, match="git knows no files here; .*git init"):
        make.copy_tree(checkout, cold, built=False)
    (warm / "lib" / "dontblink" / "__init__.py").unlink()
    (warm / "lib" / "dontblink").rmdir()
    with pytest.raises(make.BenchError, match="the copy imports"):
        make.check_package(warm)


def test_make_runs_in_the_copy_without_installing_anything(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not {"MAKEFLAGS", "OMP_NUM_THREADS"} & set(make.build_environment(checkout))
    seconds, notebooks = make.time_make(checkout)
    assert seconds > 0 and notebooks == [] and (checkout / "results" / "built").is_file()
    assert make.time_make(checkout, "collapse.bins=12")[1] == ["02_collapse"]


def test_a_failing_make_is_told_with_what_it_said(checkout: Path) -> None:
    (checkout / "Makefile").write_text("all:\n\t@echo broken notebook; exit 1\n")
    with pytest.raises(make.BenchError, match="broken notebook"):
        make.time_make(checkout)


def test_a_cold_build_and_the_tests_are_one_value_each_with_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = [(20.0, ["02_collapse", "08_claims"]), (0.5, []), (40.0, []), (0.5, []), (30.0, []), (0.5, [])]
    changed = iter([(430.0, ["00_testbed"]), *warm])
    monkeypatch.setattr(make, "time_make", lambda *_: next(changed))
    monkeypatch.setattr(make, "time_tests", lambda: 200.0)
    for name in ("copy_tree", "check_package"):
        monkeypatch.setattr(make, name, lambda *_, **__: None)
    (_, pair), (cold, tests) = make.measure_copy(tmp_path, argparse.Namespace(cold=True, repeats=3))
    assert (cold.value, cold.repeats, cold.holds, tests.holds, pair.value) == (430, 1, False, True, 60)
    assert report.render_row("make", cold) == f"| make | {cold.claim} | 430 s | <= 420 | **no** |"


def test_layers_timed_in_turn_give_every_way_its_seconds_and_leave_model_and_package_as_they_were() -> None:
    import capture
    import replay_true_shape as true_shape

    from dontblink.attention import replay

    settings = {"width": 32, "layers": 2, "vocabulary": 150, "family": "qwen3_vl", "tokens": 24, "batch": 2}
    vlm, *rest = capture.prepare(argparse.Namespace(**settings, implementation="split"))
    calls, kept, read = capture.build_calls(vlm, *rest), [], replay.read_batch
    before = calls["capture"]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "read_batch", lambda *inputs: kept.append(read(*inputs)) or kept[-1])
        seconds = true_shape.time_layers_in_turn(vlm, *rest, turn=1)
    assert set(seconds) == set(true_shape.WAYS) and min(seconds.values()) > 0
    after = calls["capture"]()
    for trace, timed, again in zip(before, kept[0], after, strict=True):
        assert np.array_equal(trace.entropy_nats, timed.entropy_nats) and np.array_equal(trace.mass, timed.mass)
        assert np.array_equal(trace.mass, again.mass)
    assert vlm.model.config.get_text_config()._attn_implementation == "sdpa"
