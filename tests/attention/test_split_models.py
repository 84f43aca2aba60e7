"""Models larger than one card: layers on disk, heads over ranks. What is measured must not depend on either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from split_worker import measure
from tiny_checkpoints import FAMILIES, save_checkpoint
from transformers import AutoModelForImageTextToText

from dontblink.models.checkpoints import load_processor
from dontblink.models.vlm import describe_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("accelerate") is None, reason="transformers splits no model without accelerate"),
]
TESTS = Path(__file__).parents[1]
BAR = 1e-5  # a sum over ranks is added in another order
LAYERS = "model.language_model.layers"
PLAN = {f"{LAYERS}.*.self_attn.{name}_proj": "rowwise" if name == "o" else "colwise" for name in "qkvo"}


@pytest.fixture(params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / request.param, request.param)


def measure_whole(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return what one process measures of a model that is all there."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    return measure(describe_model(model, load_processor(checkpoint)))


@pytest.mark.parametrize("far", [[0, 1], [1, 2], [0, 1, 2]])
def test_layers_on_disk_measure_the_same_bits(checkpoint: Path, far: list[int], tmp_path: Path) -> None:
    text = (f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb"))
    near = ["model.visual", *text, "lm_head"]
    places = dict.fromkeys(near, "cpu") | {f"{LAYERS}.{n}": "disk" if n in far else "cpu" for n in range(3)}
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert {parameter.device.type for parameter in model.get_submodule(f"{LAYERS}.{far[0]}").parameters()} == {"meta"}
    found, truth = measure(describe_model(model, load_processor(checkpoint))), measure_whole(checkpoint)
    assert found.keys() == truth.keys()
    for name in truth:
        assert np.array_equal(found[name], truth[name]), name
    assert {parameter.device.type for parameter in model.get_submodule(f"{LAYERS}.{far[0]}").parameters()} == {"meta"}


def test_a_model_that_begins_on_disk_measures_the_same_bits(tmp_path: Path) -> None:
    """Its own device is then none. GLM-4V cannot run so: its vision tower reads a weight beside its layers."""
    checkpoint = save_checkpoint(tmp_path / "qwen3_vl", "qwen3_vl")
    places = {"model.visual": "disk", "model.language_model": "disk", "lm_head": "cpu"}
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert model.device.type == "meta"
    found, truth = measure(describe_model(model, load_processor(checkpoint))), measure_whole(checkpoint)
    for name in truth:
        assert np.array_equal(found[name], truth[name]), name


def split(checkpoint: Path, plan: str, tmp_path: Path) -> list[Path]:
    """Run two ranks; return what each wrote."""
    target = tmp_path / "found"
    folders = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(TESTS / "split_worker.py"), str(checkpoint), plan, str(target),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return [target.with_suffix(f".{rank}") for rank in range(2)]


@pytest.mark.parametrize(("family", "plan"), [("glm4v", "auto"), ("qwen3_vl", json.dumps(PLAN))], ids=["auto", "own"])
def test_heads_over_two_ranks_measure_what_one_process_does(family: str, plan: str, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / family, family)
    truth = measure_whole(checkpoint)
    for file in split(checkpoint, plan, tmp_path):
        found = load_file(file)
        assert found.keys() == truth.keys()
        assert np.array_equal(found["ids"], truth["ids"])
        for name in truth:
            np.testing.assert_allclose(found[name], truth[name], rtol=0, atol=BAR, err_msg=name)


def test_a_class_without_a_plan_is_refused_on_every_rank(tmp_path: Path) -> None:
    """Dense Qwen3-VL: transformers loads it whole on every rank, without a word."""
    for file in split(save_checkpoint(tmp_path / "qwen3_vl", "qwen3_vl"), "auto", tmp_path):
        said = file.read_text(encoding="utf-8")
        assert said.startswith("NamedError: ") and "4 of 4 heads on each of 2 ranks" in said
