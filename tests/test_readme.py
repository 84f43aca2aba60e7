"""A stranger finds what README.md, REPRODUCING.md and REAL_MODELS.md name, and what they tell to type can be typed."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tiny_types
from PIL import Image
from small_items import noise
from test_makefile import Tree
from test_rooms import ROOMS
from transformers import AutoModelForImageTextToText

import dontblink
from dontblink import lineage, paths
from dontblink.models.checkpoints import load_processor
from dontblink.studies.risk import COLUMNS

PAGES = {name: (paths.ROOT / name).read_text() for name in ("README.md", "REPRODUCING.md", "REAL_MODELS.md")}
README = PAGES["README.md"]
GENERATED = re.compile(r"<!-- (\w+): .*?<!-- /\1 -->", flags=re.S)
SECTIONS = [
    "Two commands", "What you get", "From claim to notebook to number", "What the testbed is, and what it is not",
    "The rooms", "Your own model", "Licence and citation",
]  # fmt: skip


def test_the_readme_is_short_and_in_order() -> None:
    assert re.findall(r"^## (.*)$", README, flags=re.M) == SECTIONS
    assert README.index("![") < README.index("## ")
    assert len(GENERATED.sub("", README).split()) <= 1300


def test_the_rooms_are_named_in_their_order() -> None:
    rows = re.findall(r"^\| \[`(\w+)/`\]\(lib/dontblink/(\w+)\)", README, flags=re.M)
    assert [first for first, second in rows if first == second] == [*ROOMS]
    ground = re.search(r"^\| `([a-z ]+)` \| the ground", README, flags=re.M)
    assert {*ground[1].split()} == {file.stem for file in (paths.ROOT / "lib" / "dontblink").glob("[!_]*.py")}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGES[page])
    named = re.findall(r"`((?:lib|notebooks|params|tests|models|data|figures|paper|bench)/[\w./]+)`(?!\])", PAGES[page])
    later = ("models/paper", "models/fingerprints", "figures/paper", "figures/boxed", "data/gqa")  # what a study makes
    files = [name for name in {*links, *named} if "<" not in name and not name.startswith(later)]
    assert len(files) > (2 if page == "README.md" else 0)
    for name in files:
        assert (paths.ROOT / name).exists(), name


def test_every_notebook_is_linked() -> None:
    assert {*re.findall(r"\]\(notebooks/(\w+)\.py\)", README)} == {*lineage.list_notebooks()}


@pytest.mark.parametrize("page", PAGES)
def test_every_target_that_a_page_names_is_one(page: str) -> None:
    makefile = (paths.ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", PAGES[page]) + re.findall(r"^make ([a-z]+)", PAGES[page], flags=re.M):
        assert re.search(rf"^{target}[ a-z-]*:", makefile, flags=re.M), target


BLOCKS = [(page, block) for page, text in PAGES.items() for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S)]
STUB = '#!/bin/bash\necho "$(basename "$0") $*" >> commands.txt\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return a checkout whose make only says what it would do, with stand-ins of programs that are not ours."""
    tree = Tree(tmp_path_factory.mktemp("typed"))
    programs = tree.folder / "programs"
    for name in ("git", "hf", "vllm"):
        (programs / name).parent.mkdir(exist_ok=True)
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    bin_folder = tree.folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("hf", "pip", "python"):
        (bin_folder / name).write_text(STUB)
        (bin_folder / name).chmod(0o755)
    for model in ("Qwen3-VL-2B-Thinking", "Qwen3-VL-8B-Thinking", "GLM-4.6V-Flash"):
        checkpoint = tree.folder / "models" / "paper" / model
        checkpoint.mkdir(parents=True)
        for file in (paths.ROOT / "models" / "testbed" / "glm4v-tiny").iterdir():
            (checkpoint / file.name).write_bytes(file.read_bytes())
    for profile in ("paper", "boxed"):  # what `make extract` would leave
        (tree.folder / "results" / profile).mkdir(parents=True)
        (tree.folder / "results" / profile / "extraction.json").write_text("{}")
    tree.environment |= {"MAKEFLAGS": "n", "PATH": f"{programs}:{tree.environment['PATH']}"}
    return tree


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}-{n}" for n, (page, _) in enumerate(BLOCKS)])
def test_what_a_page_says_to_type_can_be_typed(tree: Tree, page: str, block: str) -> None:
    script = block.replace("git clone <this repository> && cd dontblink", "git clone x")
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script], cwd=tree.folder, env=tree.environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for file in re.findall(r"^PYTHONPATH=lib .* > (\S+)$", block, flags=re.M):
        assert (tree.folder / file).stat().st_size > 100


def test_every_other_fence_is_none_of_code_or_runs_below() -> None:
    for page, text in PAGES.items():
        languages = re.findall(r"^```(\w*)$", text, flags=re.M)
        assert {*languages} <= ({"sh", "python", ""} if page == "README.md" else {"sh", ""}), page


def test_the_types_that_are_tested_are_counted() -> None:
    assert f"{len(tiny_types.TYPES)} types are tested" in " ".join(README.split())


def test_the_lines_for_a_users_own_model_run_as_they_stand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(block.splitlines()) == 5
    monkeypatch.chdir(paths.ROOT)
    folder = paths.ROOT / "models" / "testbed" / "glm4v-tiny"
    picture = Image.fromarray(noise(np.random.default_rng(0), 96, 96))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "is there a red circle at b3 ?"}]
    names = {
        "dontblink": dontblink, "model": AutoModelForImageTextToText.from_pretrained(folder).eval(),
        "processor": load_processor(folder), "messages": [{"role": "user", "content": content}],
        "boxes": [(16, 32, 32, 48)],
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "unknown to the monitor")  # it was fitted on this checkpoint
        exec(block, names)
    table, figure = names["gaze"].table(names["output"]), names["gaze"].plot(names["output"])
    assert {"entropy_nats", "visual_mass", "evidence_mass", *COLUMNS} <= {*table} and len(table) > 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "nats  image" in line]
    assert len(lines) == len(table) and table["risk"].notna().any()
    assert all(f"risk {risk:.2f}" in line for line, risk in zip(lines, table["risk"], strict=True))
    assert (table["evidence_mass"] <= table["visual_mass"]).all() and table["evidence_mass"].gt(0).all()
    assert len(figure.axes) > 2
