"""Nothing that is loaded can run code: no pickle, no evaluated text, no shell, weights as safetensors only.

That every line of the lock is a pin with hashes is tested in test_environment; that nothing reaches the network while
the testbed runs, in test_determinism.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(f for part in ("lib", "paper", "bench", ".ci", "notebooks") for f in (ROOT / part).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "__import__"}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load"}
NAMED = {"os.system", "os.popen", "torch.load", "torch.save", "yaml.load_all"}
KEYWORDS = {
    "shell": True,
    "trust_remote_code": True,
    "allow_pickle": True,
    "weights_only": False,
    "use_safetensors": False,
}
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}


def find_hazards(source: str) -> Iterator[str]:
    """Yield what could run a text or a file as code, `line: what`."""
    tree = ast.parse(source)
    safe = {"SafeLoader", "CSafeLoader"}
    safe |= {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        for base in node.bases if isinstance(base, ast.Attribute) and base.attr in safe
    }  # fmt: skip
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{line}: {name}" for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called, attribute = node.func, isinstance(node.func, ast.Attribute)
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        owner = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
        if not attribute and name in BUILTINS or attribute and name in METHODS:
            yield f"{line}: {owner}.{name}".replace(": .", ": ")
        if attribute and name == "eval" and (node.args or node.keywords):  # a model's own eval() takes nothing
            yield f"{line}: {owner}.eval"
        if f"{owner}.{name}" in NAMED:
            yield f"{line}: {owner}.{name}"
        if owner == "yaml" and name == "load":
            loader = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
            if not loader or ast.unparse(loader[0]).split(".")[-1] not in safe:
                yield f"{line}: yaml.load"
        for keyword in node.keywords:
            wrong = KEYWORDS.get(keyword.arg or "")
            if wrong is not None and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is not wrong):
                yield f"{line}: {keyword.arg}={ast.unparse(keyword.value)}"


def test_no_source_can_run_a_text_or_a_file_as_code() -> None:
    found = [f"{file.relative_to(ROOT)}:{hazard}" for file in SOURCES for hazard in find_hazards(file.read_text())]
    assert len(SOURCES) > 100 and found == []


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("def f():\n    import dill.source", "dill.source"),
        ("eval(text)", "eval"),
        ("exec(compile(text, '', 'exec'))", "exec"),
        ("frame.eval('a + b')", "frame.eval"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("torch.save(state, path)", "torch.save"),
        ("pd.read_pickle(path)", "pd.read_pickle"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.load(text, yaml.Loader)", "yaml.load"),
        ("yaml.load(text, Loader=yaml.FullLoader)", "yaml.load"),
        ("class L(yaml.Loader): pass\nyaml.load(text, L)", "yaml.load"),
        ("subprocess.run(command, shell=True)", "shell=True"),
        ("subprocess.run(command, shell=wanted)", "shell=wanted"),
        ("os.system(command)", "os.system"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
        ("AutoModel.from_pretrained(name, use_safetensors=False)", "use_safetensors=False"),
    ],
)
def test_the_scan_finds_what_is_planted(planted: str, what: str) -> None:
    assert [hazard.split(": ", 1)[1] for hazard in find_hazards(planted)] == [what]


@pytest.mark.parametrize(
    "harmless",
    [
        "model.eval()", "ast.literal_eval(text)", "yaml.safe_load(text)", "subprocess.run(command, shell=False)",
        "class L(yaml.SafeLoader): pass\nyaml.load(text, L)", "from_pretrained(x, trust_remote_code=False)",
        "json.load(file)", "re.compile(text)",
    ],
)  # fmt: skip
def test_the_scan_leaves_the_harmless_alone(harmless: str) -> None:
    assert list(find_hazards(harmless)) == []


def test_weights_are_loaded_in_one_place_and_from_safetensors_only() -> None:
    loads = [
        (file.name, ast.unparse(node))
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("from_pretrained")
        and "dtype" in {keyword.arg for keyword in node.keywords}
    ]  # fmt: skip
    assert [name for name, _ in loads] == ["vlm.py"] and "use_safetensors=True" in loads[0][1]


def test_no_tracked_file_is_a_pickle() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: which files are tracked is not known")
    tracked = [ROOT / name for name in done.stdout.split("\0") if name]
    assert len(tracked) > 200
    for file in tracked:
        if file.is_file():  # not one that was deleted and is not committed yet
            start = file.read_bytes()[:4]
            # pickle protocols 2 to 5, and zip, which torch and numpy put around theirs
            is_pickle = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" or start == b"PK\x03\x04"
            assert file.suffix not in PICKLE_SUFFIXES and not is_pickle, file
