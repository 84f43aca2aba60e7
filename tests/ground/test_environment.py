"""environment.yml, pyproject.toml, the lock and what is installed agree with each other."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml

from dontblink import paths

ROOT = paths.ROOT
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^ \n;]+)(?P<marker> ;[^\\\n]*)? (?P<hashes>(?:\\\n    --hash=\S+ ?)+)",
    flags=re.M,
)


def normalise(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {normalise(found["name"]): found for found in ENTRY.finditer(LOCK)}
WANTED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]


def test_every_line_of_the_lock_is_a_pin_with_hashes() -> None:
    rest = ENTRY.sub("", LOCK)
    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert len(PINS) > 100
    for name, found in PINS.items():
        assert re.findall(r"--hash=(\S+)", found["hashes"]), name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in re.findall(r"--hash=(\S+)", found["hashes"]))


@pytest.mark.parametrize("requirement", WANTED)
def test_every_dependency_of_the_project_is_pinned(requirement: str) -> None:
    assert normalise(re.split("[<>=!~ ]", requirement)[0]) in PINS


def test_torch_is_accepted_as_the_cpu_wheel_and_as_the_published_builds() -> None:
    assert PINS["torch"]["version"] == "2.13.0"
    assert len(re.findall("--hash=", PINS["torch"]["hashes"])) >= 2


def test_no_cuda_package_and_no_image_library_of_torch_is_locked() -> None:
    assert [name for name in PINS if name.startswith(("nvidia", "cuda", "triton", "torchvision"))] == []


def test_the_lock_and_the_project_name_no_host_and_no_folder_of_a_machine() -> None:
    for file in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile", ".ci/run", ".ci/lock.py"):
        content = (ROOT / file).read_text()
        found = re.search(r"https?://|file://|--(extra-)?index-url|--find-links|--trusted-host", content)
        assert found is None, f"{file}: {found[0] if found else ''}"


def test_the_conda_environment_installs_the_lock_with_the_projects_python_and_make() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "make>=4.3", "pip"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert PROJECT["requires-python"] == ">=3.11,<3.13"


def test_what_is_installed_is_what_the_lock_says() -> None:
    differing = {}
    for name, found in PINS.items():
        if found["marker"]:
            continue  # another platform's
        try:
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = "nothing"
        if installed != found["version"]:
            differing[name] = f"{installed}, locked {found['version']}"
    assert differing == {}, "run `make env`"
    assert metadata.version("dontblink") == PROJECT["version"]
