"""Write requirements.lock, `make lock`: every pin of pyproject.toml with its hashes, for Linux and macOS.

In: pyproject.toml, the present lock (its versions are kept where they still fit; `--upgrade` drops them) and
pip's configured indexes. Out: requirements.lock. Two things that pip-compile cannot do are done here:

- torch is published for one version as several builds. The CPU wheel ("2.13.0+cpu", wherever pip is
  configured to find it) and the CPU builds on the package index must all be accepted, so the pin loses its
  local part and carries the hashes of both. The index's Linux builds are left out on purpose: they need CUDA
  packages, and pip would prefer a file whose hash the index confirms over a CPU wheel in a folder.
- pip-compile locks for the machine and the Python that it runs on. What macOS and Python 3.12 need besides is added
  with a marker.

Never edit requirements.lock by hand, and never let an index address or a folder of this machine into it.
"""

import re
import subprocess
import sys
from pathlib import Path

from pip._internal.req.constructors import install_req_from_line
from piptools.repositories import PyPIRepository

LOCK = Path("requirements.lock")
TORCH = r"^torch==([\d.]+)\S*((?: \\\n    --hash=\S+)+)"  # group 1: the version without its local part
PAPERMILL = ("aiohappyeyeballs==2.7.1", "aiohttp==3.14.5", "aiosignal==1.4.0", "frozenlist==1.8.0", "multidict==7.2.1")
PAPERMILL += ("propcache==0.5.4", "yarl==1.25.1")
ELSEWHERE = (
    'appnope==0.1.4 ; sys_platform == "darwin"',  # ipykernel's need
    *(f'{name} ; python_version == "3.12"' for name in PAPERMILL),  # its need on that version alone
)
PYTHONS = ("cp311", "cp312")  # requires-python in pyproject.toml
HEADER = """\
# Every version behind the tracked figures, with hashes. Written by `make lock` (.ci/lock.py); do not edit.
# Install with `make env`, or: pip install --require-hashes -r requirements.lock
#
# torch: the hashes below are those of the CPU wheel for Linux x86_64 (2.13.0+cpu, Python 3.11) and of the
# index's builds for macOS and Windows. The testbed needs no more than a CPU. Where pip is not told of the CPU
# wheels (PIP_FIND_LINKS, or PIP_EXTRA_INDEX_URL set to the torch project's CPU wheel index), Linux gets the
# CUDA build from the package index, with several GB of CUDA packages that are not locked here: it must be
# there before this file is installed. `make env` sees to that; by hand: pip install torch==2.13.0
"""


def find_torch_hashes(version: str) -> list[str]:
    """Return the hashes of every CPU build of this torch version for the supported Pythons."""
    repository = PyPIRepository([], cache_dir=str(Path.home() / ".cache" / "pip-tools"))
    hashes = set()
    with repository.allow_all_wheels():
        for candidate in repository.find_all_candidates("torch"):
            file, build = candidate.link.filename, candidate.version
            cpu_build = build.local == "cpu" if "linux" in file else build.local is None
            if build.public == version and cpu_build and any(f"-{tag}-" in file for tag in PYTHONS):
                hashes.add(repository._get_file_hash(candidate.link))
    return sorted(hashes)


def pin(line: str) -> str:
    """Return a lock entry for a requirement of another platform or Python, with the hashes of all its files."""
    repository = PyPIRepository([], cache_dir=str(Path.home() / ".cache" / "pip-tools"))
    with repository.allow_all_wheels():
        hashes = sorted(repository.get_hashes(install_req_from_line(line.split(" ;")[0])))
    return " \\\n".join([line, *(f"    --hash={value}" for value in hashes)]) + "\n"


def main() -> None:
    """Run pip-compile, then widen torch and add the pins of other platforms and Pythons."""
    if LOCK.exists():  # pip-compile starts from the pins that it finds: start torch from its CPU build
        LOCK.write_text(re.sub(TORCH, r"torch==\1+cpu", LOCK.read_text(), flags=re.M))
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-header", f"--output-file={LOCK}"]
    subprocess.run([*command, *sys.argv[1:], "pyproject.toml"], check=True)
    text = LOCK.read_text()
    found = re.search(TORCH, text, flags=re.M)
    if found is None:
        sys.exit("requirements.lock: torch is not pinned; pyproject.toml must name it")
    if cuda := re.findall(r"^(?:nvidia|cuda|triton)\S*", text, flags=re.M):
        sys.exit(f"requirements.lock: {cuda[0]} came with a CUDA torch; let pip find the CPU wheel")
    hashes = find_torch_hashes(found[1])
    print(f"torch {found[1]}: {len(hashes)} builds")
    entry = " \\\n".join([f"torch=={found[1]}", *(f"    --hash={value}" for value in hashes)])
    text = text.replace(found[0], entry)
    LOCK.write_text(HEADER + text + "".join(pin(line) for line in ELSEWHERE))


main()
