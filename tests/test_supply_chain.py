"""Nothing that is loaded can run code: no pickle, no evaluated text, no shell, weights as safetensors only.

The scan reads names as Python does, through aliases of imports; a name put together at run time is beyond it.

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
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}
NAMED = {
    "os.system", "os.popen", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "yaml.load_all",
    "runpy.run_path", "runpy.run_module", *(f"builtins.{name}" for name in BUILTINS),
}  # fmt: skip
FAMILIES = ("os.exec", "os.spawn", "os.posix_spawn")  # execv, execvp, ...
IMPORTERS = {"importlib.import_module", "importlib.__import__"}
KEYWORDS = {
    "shell": True,
    "trust_remote_code": True,
    "allow_pickle": True,
    "weights_only": False,
    "use_safetensors": False,
}
PLACES = {"numpy.load": (2, "allow_pickle")} | {
    f"subprocess.{name}": (8, "shell") for name in ("run", "call", "check_call", "check_output", "Popen")
}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "cmd", "cmd.exe", "powershell", "pwsh"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}


def read_aliases(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for, `o: os` and `system: os.system`; np and pd wherever they come from."""
    names = {"np": "numpy", "pd": "pandas"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def resolve(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name behind an expression, aliases, `getattr` and imported modules followed; `?` if none."""
    match node:
        case ast.Name(name):
            return names.get(name, name)
        case ast.Attribute(owner, name) | ast.Call(ast.Name("getattr"), [owner, ast.Constant(str(name)), *_]):
            return f"{resolve(owner, names)}.{name}"
        case ast.Call(called, [ast.Constant(str(name)), *_]) if resolve(called, names) in IMPORTERS:
            return name
    return "?"


def is_named(dotted: str) -> bool:
    """Return whether a dotted name is one that runs a text or a file, or a method that does."""
    return dotted in NAMED or dotted.startswith(FAMILIES) or "." in dotted and dotted.split(".")[-1] in METHODS


def is_wrong(keyword: str, value: ast.expr) -> bool:
    """Return whether an argument has the dangerous truth value, or one that only a run can tell."""
    wrong = KEYWORDS.get(keyword)
    return wrong is not None and not (isinstance(value, ast.Constant) and bool(value.value) is not wrong)


def find_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield what an import brings that could run code."""
    module = getattr(node, "module", None) or ""
    for alias in node.names:
        dotted = f"{module}.{alias.name}" if module else alias.name
        if MODULES & set(dotted.split(".")) or is_named(dotted) or alias.name == "*":
            yield dotted


def find_calls(node: ast.Call, names: dict[str, str], safe: set[str]) -> Iterator[str]:
    """Yield what makes a call dangerous: its name together with its arguments."""
    dotted = resolve(node.func, names)
    if dotted.endswith(".eval") and (node.args or node.keywords):
        yield dotted  # a model's own eval() takes nothing
    if dotted in IMPORTERS:
        module = node.args[0] if node.args else None
        if not isinstance(module, ast.Constant) or MODULES & set(str(module.value).split(".")):
            yield f"{dotted}({ast.unparse(module) if module else ''})"
    if dotted == "yaml.load":
        loader = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
        if not loader or resolve(loader[0], names) not in safe:
            yield dotted
    place, keyword = PLACES.get(dotted, (0, ""))
    given = [(keyword, value) for value in node.args[place : place + 1]]
    given += [(named.arg or "", named.value) for named in node.keywords]
    yield from (f"{keyword}={ast.unparse(value)}" for keyword, value in given if is_wrong(keyword, value))


def find_command(node: ast.List | ast.Tuple) -> Iterator[str]:
    """Yield a shell as a command, and an interpreter that is given a text which is not written here."""
    words = [str(word.value).split("/")[-1] if isinstance(word, ast.Constant) else "" for word in node.elts]
    yield from (word for word in words[:2] if word in SHELLS)
    if "-c" in words[1:] and words[0] != "git" and not SHELLS & set(words[:2]):
        text = node.elts[words.index("-c") + 1 :]
        if not text or not isinstance(text[0], ast.Constant):
            yield f"{ast.unparse(node.elts[0])} -c"


def find_hazards(source: str) -> Iterator[str]:
    """Yield what could run a text or a file as code, `line: what`; a name counts also where it is not called."""
    tree = ast.parse(source)
    names = read_aliases(tree)
    safe = SAFE_LOADERS | {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        if SAFE_LOADERS & {resolve(base, names) for base in node.bases}
    }  # fmt: skip
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += find_imports(node)
        elif isinstance(node, ast.Name) and node.id in BUILTINS - set(names):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and is_named(resolve(node, names)):
            found.append(resolve(node, names))
        elif isinstance(node, ast.List | ast.Tuple):
            found += find_command(node)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            named = [(str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant)]
            found += [f"{key}={ast.unparse(value)}" for key, value in named if is_wrong(key, value)]
        elif isinstance(node, ast.Call):
            found += find_calls(node, names, safe)
            found += [dotted] if is_named(dotted := resolve(node, names)) else []  # getattr(os, "system")
        yield from (f"{getattr(node, 'lineno', 0)}: {what}" for what in found)


def test_no_source_can_run_a_text_or_a_file_as_code() -> None:
    found = [f"{file.relative_to(ROOT)}:{hazard}" for file in SOURCES for hazard in find_hazards(file.read_text())]
    assert len(SOURCES) > 100 and found == []


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib.load"),
        ("def f():\n    import dill.source", "dill.source"),
        ("eval(text)", "eval"),
        ("exec(compile(text, '', 'exec'))", "exec"),
        ("frame.eval('a + b')", "frame.eval"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("torch.save(state, path)", "torch.save"),
        ("pd.read_pickle(path)", "pandas.read_pickle"),
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
        ("AutoModel.from_pretrained(name, use_safetensors=None)", "use_safetensors=None"),
        # under another name
        ("from os import system; system(x)", "os.system"),
        ("from os import system as f", "os.system"),
        ("import os as o; o.system(x)", "os.system"),
        ("import os.path as p, os as o\nf = o.popen", "os.popen"),
        ("list(map(os.system, texts))", "os.system"),
        ("getattr(os, 'system')(x)", "os.system"),
        ("from torch import load; load(p)", "torch.load"),
        ("import torch as t; t.load(p)", "torch.load"),
        ("from pandas import read_pickle; read_pickle(p)", "pandas.read_pickle"),
        ("from six.moves import cPickle as json", "six.moves.cPickle"),
        ("from os import *", "os.*"),
        ("run = eval", "eval"),
        ("import builtins as b; b.exec(text)", "builtins.exec"),
        ("from pandas import eval; eval(text)", "pandas.eval"),
        ("from yaml import load; load(text)", "yaml.load"),
        ("import yaml as y; y.load(text, y.UnsafeLoader)", "yaml.load"),
        ("from yaml import UnsafeLoader as SafeLoader\nyaml.load(text, SafeLoader)", "yaml.load"),
        ("importlib.import_module('pickle')", "importlib.import_module('pickle')"),
        ("from importlib import import_module as f; f(name)", "importlib.import_module(name)"),
        ("importlib.import_module('os').system(x)", "os.system"),
        # by position, by truth, in a dictionary
        ("np.load(p, None, True)", "allow_pickle=True"),
        ("from numpy import load; load(p, None, wanted)", "allow_pickle=wanted"),
        ("subprocess.run(c, shell=1)", "shell=1"),
        ("import subprocess as s; s.Popen(c, -1, None, None, None, None, None, True, 'yes')", "shell='yes'"),
        ("subprocess.run(c, **{'shell': True})", "shell=True"),
        ("options = {'weights_only': 0}", "weights_only=0"),
        # a shell without its name on the call
        ("subprocess.run(['bash', '-c', text])", "bash"),
        ("command = ['/bin/sh', '-lc', text]", "sh"),
        ("subprocess.run(('env', 'bash'), input=text)", "bash"),
        ("subprocess.run([sys.executable, '-c', text])", "sys.executable -c"),
        ("subprocess.getoutput(text)", "subprocess.getoutput"),
        ("from subprocess import getstatusoutput as f", "subprocess.getstatusoutput"),
        ("os.execvp(name, words)", "os.execvp"),
    ],
)
def test_the_scan_finds_what_is_planted(planted: str, what: str) -> None:
    assert [hazard.split(": ", 1)[1] for hazard in find_hazards(planted)] == [what]


@pytest.mark.parametrize(
    "harmless",
    [
        "model.eval()", "ast.literal_eval(text)", "yaml.safe_load(text)", "subprocess.run(command, shell=False)",
        "class L(yaml.SafeLoader): pass\nyaml.load(text, L)", "from_pretrained(x, trust_remote_code=False)",
        "json.load(file)", "re.compile(text)", "np.load(p)", "np.load(p, None, False)", "subprocess.run(c, shell=0)",
        "importlib.import_module('json')", "from json import load; load(file)", "import os; os.path.join(a, b)",
        "subprocess.run([sys.executable, '-c', 'import dontblink'])", "subprocess.run(['git', '-c', option, 'log'])",
        "from yaml import SafeLoader as S\nclass L(S): pass\nyaml.load(text, L)", "getattr(torch, dtype)",
        "from dontblink.store import load; load(path)", "options = {'weights_only': True}",
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
    assert [name for name, _ in loads] == ["loading.py"] and "use_safetensors=True" in loads[0][1]


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
