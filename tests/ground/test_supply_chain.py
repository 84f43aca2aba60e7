"""Nothing that is loaded runs code: what ruff's rules S and TID251 (pyproject.toml) do not see, and that they are on.

That the lock has hashes for every pin is tested in test_environment; that nothing reaches the network while the testbed
runs, in test_determinism.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from dontblink import paths

SOURCES = [f for part in ("lib", "paper", "bench", ".ci", "notebooks") for f in (paths.ROOT / part).rglob("*.py")]
SAFE = {"trust_remote_code": False, "allow_pickle": False, "weights_only": True, "use_safetensors": True}
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}


@pytest.mark.parametrize(
    "planted",
    [
        "import dill.source", "from joblib import load", "eval(x)", "import builtins as b\nb.exec(x)",
        "import torch as t\nt.load(x)", "from pandas import read_pickle as r\nr(x)", "import os as o\nf = o.system",
        "from subprocess import getoutput as f", "import yaml as y\ny.load(x, y.UnsafeLoader)",
        "import subprocess\nsubprocess.run(x, shell=1)", "import subprocess\nsubprocess.run(['bash', '-c', x])",
    ],
)  # fmt: skip
def test_ruff_refuses_what_runs_a_text_or_a_file(planted: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--stdin-filename", "lib/dontblink/planted.py", "-"]
    done = subprocess.run(command, input=f"x = ''\n{planted}\n", capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 1 and re.search(r"^(S\d{3}|TID251) ", done.stdout, re.M), done.stdout


def test_no_argument_lets_a_loader_run_code_and_weights_are_safetensors() -> None:
    given: list[tuple[str, str, ast.expr]] = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                given += [(file.name, named.arg or "", named.value) for named in node.keywords]
                name, own = ast.unparse(node.func), {named.arg for named in node.keywords}
                loads_weights = name.endswith("from_pretrained") and "dtype" in own
                assert not loads_weights or "use_safetensors" in own, f"{file}:{node.lineno}"
                assert not name.endswith("np.load") or "allow_pickle" in own, f"{file}:{node.lineno}"
            elif isinstance(node, ast.Dict):
                given += [(file.name, ast.unparse(k)[1:-1], v) for k, v in zip(node.keys, node.values) if k]  # noqa: B905
    found = [(file, word, value) for file, word, value in given if word in SAFE]
    assert len(SOURCES) > 80 and "use_safetensors" in {word for _, word, _ in found}
    assert [x for x in found if not (isinstance(x[2], ast.Constant) and x[2].value is SAFE[x[1]])] == []


def test_no_tracked_file_is_a_pickle() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: which files are tracked is not known")
    tracked = [paths.ROOT / name for name in done.stdout.split("\0") if name]
    for file in filter(lambda file: file.is_file(), tracked):  # not one that was deleted and is not committed yet
        start = file.read_bytes()[:4]
        # pickle protocols 2 to 5, and zip, which torch and numpy put around theirs
        is_pickle = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" or start == b"PK\x03\x04"
        assert file.suffix not in PICKLE_SUFFIXES and not is_pickle, file
