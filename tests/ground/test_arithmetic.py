"""Portable arithmetic is settled before a library loads, and the libraries obey."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dontblink import arithmetic, paths
from dontblink.errors import NamedError

ON_AVX2 = pytest.mark.skipif(
    platform.machine() != "x86_64" or " avx2 " not in Path("/proc/cpuinfo").read_text(), reason="no AVX2 here"
)


def run(code: str, settings: dict[str, str]) -> str:
    """Run Python code with nothing but some settings of arithmetic; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key not in {*settings}}
    environment |= {key: value for key, value in settings.items() if value or key == arithmetic.NUMPY}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@ON_AVX2
def test_torch_and_numpy_use_nothing_beyond_avx2() -> None:
    settings = arithmetic.find_settings(portable=True)
    assert run(arithmetic.FOUND, settings).split() == [arithmetic.LEVEL]
    show = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
    assert run(show, settings).split() == ["AVX2", "1"]


def test_speed_or_a_processor_without_avx2_sets_nothing_but_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    free = arithmetic.THREADS | dict.fromkeys({*arithmetic.AVX2, arithmetic.NUMPY}, "")
    assert arithmetic.find_settings(portable=False) == free
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: "aarch64")
    assert arithmetic.find_settings(portable=True) == free


@ON_AVX2
def test_settings_replace_those_of_the_environment_and_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX512")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    for name in {*arithmetic.AVX2, *arithmetic.THREADS, arithmetic.NUMPY} - {"MKL_CBWR", "OMP_NUM_THREADS"}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")
    arithmetic.put(settings := arithmetic.find_settings(portable=True))
    assert {name: os.environ[name] for name in settings} == settings
    monkeypatch.setattr(arithmetic.subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    assert arithmetic.find_settings(portable=True) == settings
    arithmetic.put(arithmetic.find_settings(portable=False))
    assert not {*arithmetic.AVX2, arithmetic.NUMPY} & os.environ.keys() and os.environ["OMP_NUM_THREADS"] == "1"


def test_settings_that_would_come_too_late_are_refused() -> None:
    assert "numpy" in sys.modules or __import__("numpy")
    with pytest.raises(NamedError, match="numpy.* loaded before the arithmetic was settled"):
        arithmetic.settle("testbed")


def test_the_extraction_settles_before_it_loads_a_library(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dontblink.extraction import __main__ as command\n"
        "assert not {'numpy', 'torch'} & sys.modules.keys()\nsys.argv = ['x', '--profile', 'never']\n"
        "sys.exit(command.start())"
    )
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "results/never/params/arithmetic.json: not there" in done.stderr


def test_the_processor_has_a_name() -> None:
    assert len(arithmetic.describe_processor()) > 3
