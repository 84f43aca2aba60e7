"""The testbed asks what it says, draws what it says, and trains on what the model will see."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dontblink.questions.items import open_image, validate
from dontblink_testbed import (
    architectures,
    calibrate,
    fast_forward,
    lessons,
    publish,
    questions,
    scenes,
    train,
    vocabulary,
)
from dontblink_testbed import benchmark as testbed
from dontblink_testbed.questions import Difficulty

DIFFICULTY = {
    "symbolic": Difficulty((1, 4), (0.0, 0.3), (1, 3)),
    "visual_reference": Difficulty((2, 6), (0.0, 0.3)),
    "hallucination": Difficulty((1, 3), (0.0, 0.3), typical_share=0.35),
}
FAMILIES = tuple(vocabulary.FORMATS)


def make_items(benchmark: str, n: int = 40, split: str = "test", seed: int = 5) -> list:
    return list(testbed.load_items(benchmark, split, n, seed, DIFFICULTY[benchmark]))


@pytest.mark.parametrize("benchmark", testbed.BENCHMARKS)
def test_items_are_valid_and_the_same_from_the_same_seed(benchmark: str) -> None:
    items = make_items(benchmark)
    for item in items:
        validate(item)
    assert [i.content_hash for i in items] == [i.content_hash for i in make_items(benchmark)]
    assert items[3].content_hash == make_items(benchmark, 4)[3].content_hash
    other = {i.content_hash for i in make_items(benchmark, split="calibration")}
    assert not other & {i.content_hash for i in items}
    assert {i.content_hash for i in make_items(benchmark, seed=6)}.isdisjoint(i.content_hash for i in items)


def test_an_unknown_benchmark_or_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown testbed benchmark 'maths'"):
        next(testbed.load_items("maths", "test", 1, 0, DIFFICULTY["symbolic"]))
    with pytest.raises(ValueError, match="unknown split 'train'"):
        next(testbed.load_items("symbolic", "train", 1, 0, DIFFICULTY["symbolic"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("benchmark", testbed.BENCHMARKS)
def test_the_boxes_of_a_read_step_hold_what_it_says(benchmark: str) -> None:
    """Blanking the box changes the picture inside it only, and the clean cell is the sprite that the step names."""
    clean = Difficulty(DIFFICULTY[benchmark].chain_length, (0.0, 0.0), typical_share=0.35)
    for index in range(20):
        rng = np.random.default_rng([7, index])
        problem = questions.ASK[benchmark](rng, clean)
        for step in problem.steps:
            for cell in step.cells:
                assert step.text.split()[0] == scenes.CELLS[cell]
                said = step.text.split(" is ")[-1].split(" was ")[-1]
                assert said == scenes.describe_cell(problem.sprite[cell], problem.colour[cell])


def test_a_cell_box_covers_exactly_the_pixels_of_its_sprite() -> None:
    sprite = np.zeros((1, 36), np.int8)
    colour = np.zeros((1, 36), np.int8)
    level = np.zeros(1, np.float32)
    blank = scenes.draw(scenes.Scenes(sprite, colour, level), np.random.default_rng(0))[0]
    for cell in (0, 8, 35):
        filled = sprite.copy()
        filled[0, cell] = scenes.SPRITE_INDEX["square"]
        image = scenes.draw(scenes.Scenes(filled, colour, level), np.random.default_rng(0))[0]
        rows, columns = np.nonzero((image != blank).any(axis=-1))
        x0, y0, x1, y1 = scenes.cell_box(cell)
        assert x0 <= columns.min() and columns.max() < x1 and y0 <= rows.min() and rows.max() < y1


def test_symbolic_steps_compute_left_to_right_modulo_10() -> None:
    assert questions.evaluate("8 * 3 + 7") == 1
    assert questions.evaluate("3 - 7") == 6
    for item in make_items("symbolic"):
        steps = [s.text for s in item.gold_steps if s.kind == "compute"]
        for text in steps:
            expression, value = text.split(" is ")
            assert questions.evaluate(expression) == int(value)
        assert item.answer == steps[-1].split(" is ")[1]
        assert all(a.split(" is ")[1] == b.split()[0] for a, b in zip(steps, steps[1:], strict=False))


def test_the_question_of_a_symbolic_item_has_the_answer_that_the_picture_gives() -> None:
    """Solve it from the question and the read cells alone, without the gold chain."""
    for item in make_items("symbolic"):
        seen = dict(s.text.split(" is ") for s in item.gold_steps if s.kind == "read")
        words = item.question.removeprefix("compute ").replace(";", "").replace("recall", "").replace("?", "").split()
        assert str(questions.evaluate(" ".join(seen.get(word, word) for word in words))) == item.answer


def test_arrows_lead_to_the_named_option() -> None:
    for item in make_items("visual_reference"):
        reads = [s.text.split(" is ") for s in item.gold_steps if s.kind == "read"]
        for (cell, move), (following, _) in zip(reads, reads[1:], strict=False):
            column, row = "abcdef".index(cell[0]), int(cell[1])
            across, along = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[move]
            assert following == f"{'abcdef'[column + across]}{row + along}"
        assert item.choices["ABCD".index(item.answer)] == reads[-1][1].split()[-1]
        assert len(set(item.choices)) == 4


def test_hallucination_answers_follow_from_the_picture_and_name_the_side_of_the_prior() -> None:
    items = make_items("hallucination", 200)
    for item in items:
        seen = dict(s.text.split(" is ") for s in item.gold_steps if s.kind == "read")
        asked = [
            c.split(" at ")
            for c in item.question.removeprefix("is there ").split(" recall")[0].rstrip(" ?").split(" and ")
        ]
        truth = all(seen[cell] == thing for thing, cell in asked)
        assert item.answer == ("yes" if truth else "no")
        assert item.covariates["prior_side"] == ("with" if truth else "against")
    share = np.mean([item.covariates["prior_side"] == "against" for item in items])
    assert 0.5 < share < 0.75  # the prior misleads in most test items: 1 - typical_share, a little noise


def test_recall_steps_restate_an_earlier_read_and_only_in_recall_chains() -> None:
    for benchmark in testbed.BENCHMARKS:
        kinds = {"recall": 0, "step": 0}
        for item in make_items(benchmark):
            kind = item.covariates["chain_kind"]
            kinds[str(kind)] += 1
            seen: set[str] = set()
            for step in item.gold_steps:
                if step.kind == "recall":
                    assert step.text.replace(" was ", " is ") in seen
                seen.add(step.text)
            assert any(s.kind == "recall" for s in item.gold_steps) == (kind == "recall")
            assert ("recall" in item.question.split()) == (kind == "recall")
        assert min(kinds.values()) > 5


def test_the_scorer_takes_one_word_and_flags_everything_else() -> None:
    item = make_items("symbolic", 1)[0]
    assert testbed.score(item, f" {item.answer} ") == (True, True, item.answer)
    assert testbed.score(item, "") == (False, False, "")
    assert testbed.score(item, f"{item.answer} {item.answer}") == (False, False, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_training_prompts_are_what_the_tokenizer_makes_of_the_chat(family: str) -> None:
    tokenizer = vocabulary.build_tokenizer(family)
    content = [{"type": "image"}, {"type": "text", "text": "follow a1 ; A ring B cross C square D circle ?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    words = vocabulary.prompt_words(family, content[1]["text"], 1)
    assert tokenizer(text)["input_ids"] == vocabulary.encode_words(family, words)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_lesson_is_inside_the_vocabulary(family: str) -> None:
    for step in range(20):
        for phase in (1, 2):
            for batch in lessons.make_step(family, phase, np.random.default_rng([3, step])):
                assert len(batch.rows) == len(batch.targets) == len(batch.owner)
                flat = batch.ids.flatten()
                assert torch.equal(flat[batch.rows + 1], batch.targets)


@pytest.mark.parametrize("name", ["qwen3vl-tiny-s", "glm4v-tiny"])
def test_the_training_patches_are_those_of_the_real_image_processor(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3)).astype(np.uint8)
    processor = architectures.build_image_processor(name)
    official = processor([Image.fromarray(p) for p in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(fast_forward.patchify(pixels), official, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(architectures.MODELS))
def test_the_training_forward_equals_the_official_one(name: str) -> None:
    family = architectures.MODELS[name]["family"]
    model = architectures.build_model(name, 0).eval()
    rng = np.random.default_rng(1)
    batch = lessons.pack(family, [lessons.teach_chain(rng, "symbolic") for _ in range(3)], rng)
    token_types = (batch.ids == model.config.image_token_id).int()
    grid = torch.tensor([[1, 12, 12]] * 3)
    with torch.no_grad():
        official = model(
            input_ids=batch.ids, pixel_values=batch.patches, image_grid_thw=grid, mm_token_type_ids=token_types
        ).logits.flatten(0, 1)[batch.rows]
        fast_forward.prepare(model)
        positions = fast_forward.Positions(model, len(vocabulary.FORMATS[family].before_image.split()))
        fast = fast_forward.response_logits(model, batch.ids, batch.rows, batch.patches, positions)
    torch.testing.assert_close(fast.softmax(-1), official.softmax(-1), rtol=0, atol=1e-6)


def test_a_resumed_training_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    schedule = train.Schedule(phase_1_cap_steps=2, phase_2_steps=2, warmup_steps=2, check_every=2, save_every=1)
    torch.set_num_threads(1)
    whole = train.Trainer("qwen3vl-tiny-s", 3, schedule)
    for _ in range(2):
        whole.train_step()
    whole.save(tmp_path / "state.safetensors")
    resumed = train.Trainer("qwen3vl-tiny-s", 3, schedule)
    resumed.resume(tmp_path / "state.safetensors")
    assert whole.train_step() == resumed.train_step()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another schedule"):
        train.Trainer("qwen3vl-tiny-s", 3, train.Schedule(9, 9)).resume(tmp_path / "state.safetensors")


def make_candidate(accuracies: list[float], **ranges: object) -> dict:
    accuracy = dict(zip("abc", accuracies, strict=False))
    return {"accuracy": accuracy, "n_items": 100, "chain_length": [1, 2], "noise_level": [0.0, 0.2], **ranges}


def test_the_difficulty_rule_takes_the_candidate_nearest_to_the_target_among_those_in_range() -> None:
    rows = [make_candidate(pair) for pair in ([0.95, 0.9], [0.70, 0.70], [0.74, 0.78], [0.5, 0.99])]
    assert calibrate.choose(rows) == rows[2]


def test_without_a_candidate_in_range_the_least_outside_is_kept() -> None:
    rows = [make_candidate(pair) for pair in ([0.20, 0.75], [0.52, 0.80], [0.50, 0.80])]
    assert calibrate.choose(rows) == rows[1]


def test_candidates_lie_inside_what_is_generated_for_them() -> None:
    for benchmark in testbed.BENCHMARKS:
        candidates = calibrate.candidate_difficulties(benchmark)
        covers = {calibrate.group_of(cover): cover for cover in calibrate.widest(candidates)}
        for candidate in candidates:
            cover = covers[calibrate.group_of(candidate)]
            for name in ("chain_length", "noise_level"):
                inner, outer = getattr(candidate, name), getattr(cover, name)
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
        "1,234,567",
        "2.0 MB",
        "seed 0 | seed 1",
        "abc1234 from 0 | def5678 from 0",
        "| symbolic | 0.400 | no |",
        "On symbolic at least one model is outside",
    ):
        assert words in card
    with pytest.raises(FileNotFoundError, match="not trained to its end; run `make testbed`"):
        publish.publish_weights(tmp_path / "nothing", tmp_path)


MODELS_FOLDER = Path(__file__).parents[1] / "models" / "testbed"


@pytest.mark.parametrize("name", list(architectures.MODELS))
def test_shipped_checkpoints_load_by_plain_from_pretrained_and_know_their_card(name: str) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(MODELS_FOLDER / name)
    model = getattr(transformers, config.architectures[0]).from_pretrained(MODELS_FOLDER / name)
    card = (MODELS_FOLDER / name / "README.md").read_text()
    facts = json.loads((MODELS_FOLDER / name / "training.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert f"seed {facts['seed']}" in card and facts["history"][-1]["commit"] in card and str(facts["steps"]) in card
    assert facts["steps"] == facts["phase_2_start"] + facts["schedule"]["phase_2_steps"], "not trained to its end"


def test_the_small_model_was_trained_twice_with_two_seeds() -> None:
    seeds = [json.loads(p.read_text()) for p in sorted((MODELS_FOLDER / "qwen3vl-tiny-s").glob("training*.json"))]
    assert {facts["seed"] for facts in seeds} == {0, 1}
    for facts in seeds:
        assert facts["steps"] == facts["phase_2_start"] + facts["schedule"]["phase_2_steps"]


def test_all_weights_together_stay_under_40_megabytes() -> None:
    assert sum(p.stat().st_size for p in MODELS_FOLDER.glob("*/*.safetensors")) <= 40e6


def test_png_bytes_open_as_the_drawn_picture() -> None:
    item = make_items("symbolic", 1)[0]
    assert isinstance(item.images[0], bytes)
    assert open_image(item.images[0]).size == Image.open(io.BytesIO(item.images[0])).size == (96, 96)
