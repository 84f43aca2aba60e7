"""Portable arithmetic: the same bytes on every x86-64 processor with AVX2, settled before a library loads.

Why it exists: torch, MKL, OpenBLAS and numpy choose their kernels by processor, and kernels that sum in another order
differ in the last digit, which a whole study carries on. In: whether a profile wants portable arithmetic. Out: the
environment of processes that compute: one thread each, and the kernels that every such processor has. Never: import
what it is about to steer, or slow down those who say `arithmetic.portable: false`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from dontblink import params
from dontblink.errors import NamedError

# The order of a sum depends on the number of threads that share it.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "ARROW_USER_SIMD_LEVEL": "AVX2",
}
NUMPY = "NPY_DISABLE_CPU_FEATURES"  # numpy warns of names that the processor lacks, so they are asked for
FOUND = "import numpy; print(*numpy.show_config('dicts')['SIMD Extensions']['found'])"
LEVEL = "X86_V3"  # numpy's name of what a processor with AVX2 has
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse4_2": "SSE4.2"}
CPU_INFO = Path("/proc/cpuinfo")


def find_settings(portable: bool) -> dict[str, str]:
    """Return the variables that steer arithmetic, '' for one that must not be set; no portable ones without AVX2."""
    named = {*AVX2, NUMPY}
    if not portable or platform.machine() not in ("x86_64", "AMD64"):
        return THREADS | dict.fromkeys(named, "")
    if all(os.environ.get(name) == value for name, value in AVX2.items()) and NUMPY in os.environ:
        return THREADS | {name: os.environ[name] for name in named}
    clean = {name: value for name, value in os.environ.items() if name != NUMPY}
    asked = subprocess.run([sys.executable, "-c", FOUND], env=clean, capture_output=True, text=True, check=True)
    found = asked.stdout.split()
    if LEVEL not in found:
        return THREADS | dict.fromkeys(named, "")
    return THREADS | AVX2 | {NUMPY: " ".join(name for name in found if name != LEVEL)}


def settle(profile: str) -> None:
    """Set the arithmetic of a profile for this process and those that it starts.

    NamedError if a library that computes is loaded already: the settings would come too late for it, without a word.
    """
    if late := {"numpy", "torch"} & sys.modules.keys():
        raise NamedError(f"{', '.join(sorted(late))} loaded before the arithmetic was settled; call this first")
    put(find_settings(params.read_section(profile, "arithmetic")["portable"]))


def put(settings: dict[str, str]) -> None:
    """Put settings into the environment."""
    for name, value in settings.items():
        if value or name == NUMPY and settings["ATEN_CPU_CAPABILITY"]:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


def describe_processor() -> str:
    """Return this processor's name and widest vectors, for a verdict."""
    text = CPU_INFO.read_text(errors="replace") if CPU_INFO.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.M)
    flags = re.search(r"^flags\s*:(.*)$", text, flags=re.M)
    widest = [label for flag, label in VECTORS.items() if flags and flag in flags[1].split()]
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f"{name} ({widest[0]})" if widest else name
