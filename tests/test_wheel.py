"""The wheel, installed without the checkout, watches and measures a user's own model from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from tiny_checkpoints import save_checkpoint

from dontblink import paths

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import dontblink
from PIL import Image

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.models.checkpoints import load_vlm

assert Path(dontblink.__file__).is_relative_to(sys.prefix), dontblink.__file__
assert not any("__editable__" in name for name in sys.modules)
vlm = load_vlm(sys.argv[1])
picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
content = [{"type": "image", "image": picture}, {"type": "text", "text": "what digit is 3 ?"}]
messages = [{"role": "user", "content": content}]
inputs = vlm.collate([vlm.encode_messages(messages)], side="left")
options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [*vlm.suppressed_ids]}
plain = vlm.model.generate(**inputs, **options)
with dontblink.watch(vlm.model, inputs, [(0, 0, 32, 32)], processor=vlm.processor, messages=messages) as gaze:
    output = vlm.model.generate(**inputs, **options)
assert output.equal(plain)
watched = gaze.table(output)
gaze.plot(output).savefig("gaze.png")
read = dontblink.measure(
    vlm.model, vlm.processor, messages, output[0, inputs["input_ids"].shape[1] :], [(0, 0, 32, 32)]
)
measured = read.table()
for name in ("evidence_mass", "visual_mass", "entropy_nats"):
    assert np.allclose(watched[name], measured[name], rtol=0, atol=2e-5) and (measured[name] > 0).all(), name
print(measured.to_string())
try:
    print(paths.ROOT)
except NamedError as error:
    print(error)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without what leads to this checkout; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy: setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / name, folder / name)
    shutil.copytree(paths.ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder / "dist"
    run(sys.executable, "-m", "pip", "wheel", *options, folder, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = {
        file.relative_to(paths.ROOT / "lib").as_posix()
        for file in (paths.ROOT / "lib").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.parent.name.endswith(".egg-info")
    }
    assert own - held == set() and held - own == set()
    assert "dontblink/figures/dontblink.mplstyle" in held


@pytest.mark.parametrize("family", ["qwen3_vl", "glm4v"])
def test_installed_alone_it_watches_and_measures_from_an_empty_folder(wheel: Path, family: str, tmp_path: Path) -> None:
    home, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(home, with_pip=False)
    python = next(home.glob("[bS]*/python*"))
    pip = sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"
    run(*pip, wheel, cwd=empty)
    # the dependencies of this environment; a folder that a .pth names is not searched for .pth files, so that what is
    # installed there as editable stays out
    (site,) = home.glob("[lL]ib/**/site-packages")
    folders = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    checkpoint = save_checkpoint(tmp_path / family, family)
    printed = run(python, "-I", tmp_path / "script.py", checkpoint, cwd=empty)
    rows = printed.splitlines()
    assert "evidence_mass" in rows[0] and rows[1].split()[0] == "0" and len(rows) in range(3, 9)
    assert rows[-1].endswith("not inside a dontblink checkout; change into one, or run `make env` in it")
    assert (empty / "gaze.png").stat().st_size > 1000
