"""The difficulty follows its rule, and the shipped checkpoints are the ones that their cards describe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import transformers

from dontblink import params
from dontblink.paths import ROOT, params_file
from dontblink_testbed import architectures, benchmark, calibrate, publish, stand_in
from dontblink_testbed.train import RUNS

MODELS_FOLDER = ROOT / "models" / "testbed"


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ([[0.95, 0.9], [0.70, 0.70], [0.74, 0.78], [0.5, 0.99]], 2),  # nearest to the target among those in range
        ([[0.20, 0.75], [0.52, 0.80], [0.50, 0.80]], 1),  # none is in range: the least outside
    ],
)
def test_the_difficulty_rule(accuracies: list[list[float]], chosen: int) -> None:
    rows = [{"accuracy": dict(zip("abc", pair, strict=False))} for pair in accuracies]
    assert calibrate.choose(rows) is rows[chosen]


def test_candidates_lie_inside_what_is_generated_for_them() -> None:
    for name in benchmark.BENCHMARKS:
        candidates = calibrate.candidate_difficulties(name)
        covers = {calibrate.group_of(cover): cover for cover in calibrate.widest(candidates)}
        for candidate in candidates:
            cover = covers[calibrate.group_of(candidate)]
            for field in ("chain_length", "noise_level"):
                inner, outer = getattr(candidate, field), getattr(cover, field)
                assert outer[0] <= inner[0] <= inner[1] <= outer[1]


def test_a_card_says_how_the_model_was_made_and_where_it_is_out_of_range(tmp_path: Path) -> None:
    last = {"loss_nats": 0.123, "perception_digit": 0.99, "chains_symbolic": 0.5}
    facts = {
        "name": "a", "seed": 0, "parameters": 1234567, "history": [{"commit": "abc1234", "step": 0}], "steps": 40,
        "phase_2_start": 10, "train_minutes": 3.5, "curve": [last],
    }  # fmt: skip
    (tmp_path / "training.json").write_text(json.dumps(facts))
    second = {**facts, "seed": 1, "history": [{"commit": "def5678", "step": 0}]}
    (tmp_path / "training-seed1.json").write_text(json.dumps(second))
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3VLForConditionalGeneration"]}')
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2_000_000)
    chosen = {"accuracy_confirmed": {"a": 0.4}, "n_confirmed": 500, "in_range": False}
    difficulty = {"benchmarks": {"symbolic": {"chosen": chosen}}}
    publish.write_card(tmp_path, difficulty)
    card = (tmp_path / "README.md").read_text()
    for words in (
        "1,234,567", "2.0 MB", "seed 0 | seed 1", "abc1234 from 0 | def5678 from 0", "| symbolic | 0.400 | no |",
        "On symbolic at least one model is outside",
    ):  # fmt: skip
        assert words in card
    with pytest.raises(FileNotFoundError, match="not trained to its end; run `make testbed`"):
        publish.publish_weights(tmp_path / "nothing", tmp_path)


def test_a_second_seed_has_a_folder_of_its_own_beside_the_first_and_its_curve_stands_once(tmp_path: Path) -> None:
    work, destination = tmp_path / "work", tmp_path / "models"
    for name, seed in RUNS:
        run = work / f"{name}-seed{seed}"
        run.mkdir(parents=True)
        (run / "training.json").write_text(f"facts of {seed}")
        (run / "model.safetensors").write_text(f"weights of {seed}")
    publish.publish_weights(work, destination)
    folders = {folder.name for folder in destination.iterdir()}
    assert folders == {*architectures.MODELS, "qwen3vl-tiny-s-seed1"}
    first, second = destination / "qwen3vl-tiny-s", destination / "qwen3vl-tiny-s-seed1"
    assert (first / "model.safetensors").read_text() == "weights of 0"
    assert (second / "model.safetensors").read_text() == "weights of 1"
    # figure 00 draws every training*.json: a curve that stood twice would be drawn twice
    curves = [file.read_text() for file in sorted(destination.glob("qwen3vl-tiny-s*/training*.json"))]
    assert sorted(curves) == ["facts of 0", "facts of 1"]
    assert "training seed 1" in (second / "README.md").read_text()
    sections = params.load(params_file("seeds"))[1]
    assert set(sections["extraction"]["models"]) == folders - {"qwen3vl-tiny-s"}, "not the study with one seed replaced"


@pytest.mark.parametrize("name", list(architectures.MODELS))
def test_shipped_checkpoints_load_by_plain_from_pretrained_and_know_their_card(name: str) -> None:
    config = transformers.AutoConfig.from_pretrained(MODELS_FOLDER / name)
    model = getattr(transformers, config.architectures[0]).from_pretrained(MODELS_FOLDER / name)
    card = (MODELS_FOLDER / name / "README.md").read_text()
    facts = json.loads((MODELS_FOLDER / name / "training.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert f"seed {facts['seed']}" in card and facts["history"][-1]["commit"] in card and str(facts["steps"]) in card
    assert facts["steps"] == facts["phase_2_start"] + facts["schedule"]["phase_2_steps"], "not trained to its end"


@pytest.mark.parametrize("name", [*architectures.MODELS, *stand_in.SHAPES])
def test_a_config_says_of_biases_and_of_the_head_what_the_weights_hold(name: str, tmp_path: Path) -> None:
    """What transformers fixes in code, other engines read from the config: one that is silent is answered wrongly."""
    folder = MODELS_FOLDER / name if name in architectures.MODELS else stand_in.build_stand_in(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    layer = "model.language_model.layers.0.self_attn"
    held = {f"{layer}.{part}_proj.bias" in names for part in "qkv"}
    assert f"{layer}.q_proj.weight" in names and held == {config["text_config"].get("attention_bias", False)}
    assert ("lm_head.weight" in names) is not config["tie_word_embeddings"]
    made = stand_in.true_shape(name) if name in stand_in.SHAPES else architectures.build_config(name)
    assert {made.text_config.to_dict()["attention_bias"]} == held


def test_the_small_model_was_trained_twice_with_two_seeds() -> None:
    seeds = [json.loads(p.read_text()) for p in sorted((MODELS_FOLDER / "qwen3vl-tiny-s").glob("training*.json"))]
    assert {facts["seed"] for facts in seeds} == {0, 1}
    for facts in seeds:
        assert facts["steps"] == facts["phase_2_start"] + facts["schedule"]["phase_2_steps"]


def test_all_weights_together_stay_under_40_megabytes() -> None:
    assert sum(p.stat().st_size for p in MODELS_FOLDER.glob("*/*.safetensors")) <= 40e6
