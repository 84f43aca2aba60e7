# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 The testbed: what the small models are asked, and how they learned
#
# ## 1 Question
#
# Can a reader hold every measure of this package against known truth, on any machine? The testbed is three
# procedural benchmarks with exact evidence boxes, and three vision-language models of the real architectures that were
# trained from scratch on them. It is a model organism and an instrument check, never a replication of the paper's
# models.
#
# | | |
# |---|---|
# | inputs | the generator, `models/testbed/*/training.json`, `models/testbed/difficulty.json` |
# | outputs | example pictures with their boxes, learning curves, the difficulty that was fixed on calibration answers |
# | cost | half a minute; training itself is `make testbed` and takes hours |

# %% [markdown]
# ## 2 Parameters
#
# A pair of numbers is an inclusive range from which every item draws.

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
item_seed = 2026  # seed of every picture and question
n_test_items = 1000  # test items per benchmark
n_calibration_items = 500  # calibration items per benchmark
n_example_items = 2  # pictures per benchmark in the figure
symbolic_chain_length = [2, 3]  # compound steps
symbolic_noise_level = [0.0, 0.05]  # 0 clean, 1 heavy
symbolic_operators_per_step = [1, 2]  # operators joined in one step
visual_reference_chain_length = [3, 6]  # hops
visual_reference_noise_level = [0.7, 1.0]  # 0 clean, 1 heavy
hallucination_chain_length = [1, 4]  # conjuncts
hallucination_noise_level = [0.2, 1.0]  # 0 clean, 1 heavy
hallucination_typical_share = 0.7  # decisive shapes in their typical colour (0.9 in training)

# %% [markdown]
# ## 3 Data
#
# Items are made anew from the seed every time. Each one is validated: a readable picture, boxes inside it.

# %%
import json

import matplotlib.pyplot as plt
import pandas as pd
from transformers import AutoModelForImageTextToText

from dontblink import paths
from dontblink.figures import charts, picture
from dontblink.models.checkpoints import load_processor
from dontblink.monitor.gaze import measure, watch
from dontblink.publish import record
from dontblink.questions.items import open_image, validate
from dontblink_testbed import benchmark, calibrate, lessons
from dontblink_testbed.architectures import MODELS

# %%
settings = {key: value for key, value in globals().items() if key.startswith(benchmark.BENCHMARKS)}
difficulties = {name: benchmark.read_difficulty(name, settings) for name in benchmark.BENCHMARKS}
counts = {"test": n_test_items, "calibration": n_calibration_items}
items = {
    (name, split): list(benchmark.load_items(name, split, n_items, item_seed, difficulties[name]))
    for name in benchmark.BENCHMARKS
    for split, n_items in counts.items()
}
for group in items.values():
    for item in group:
        validate(item)

# %% [markdown]
# The checkpoints carry the facts of their training.

# %%
folders = sorted((paths.ROOT / "models" / "testbed").glob("*/training*.json"))
trainings = [json.loads(path.read_text()) for path in folders]
fixed = json.loads((paths.ROOT / "models" / "testbed" / "difficulty.json").read_text())
cards = pd.DataFrame(trainings)[["name", "seed", "parameters", "steps", "phase_2_start", "train_minutes"]]
cards

# %% [markdown]
# ## 4 The estimator, in the open
#
# Nothing is estimated here: these are means of what was generated. What the items look like: lengths, evidence, and
# the sides of the prior.

# %%
rows = pd.DataFrame(
    {
        "benchmark": name,
        "split": split,
        "answer": item.answer,
        "n_boxes": len(item.boxes),
        "n_gold_steps": len(item.gold_steps),
        **item.covariates,
    }
    for (name, split), group in items.items()
    for item in group
)
summary = rows.groupby(["benchmark", "split"])[["n_boxes", "n_gold_steps", "noise_level", "chain_length"]].mean()
summary.round(2)

# %% [markdown]
# The learning curves: token accuracy on held-out clean pictures (perception) and whole chains without a single wrong
# token, teacher-forced.

# %%
curves = pd.concat(
    [pd.DataFrame(t["curve"]).assign(model=f"{t['name']} (seed {t['seed']})") for t in trainings], ignore_index=True
)
perception = [name for name in curves if name.startswith("perception_")]
curves["perception"] = curves[perception].mean(axis=1)
curves["chains"] = curves[[f"chains_{name}" for name in benchmark.BENCHMARKS]].mean(axis=1)

# %% [markdown]
# ## 6 What it is held against
#
# The test and the calibration split share no item. The difficulty of the parameters is the one that the rule of
# `calibrate` picked from answers to calibration items alone; no attention and no entropy enters it.

# %%
hashes = {
    wanted: {item.content_hash for (_, split), group in items.items() if split == wanted for item in group}
    for wanted in counts
}
assert not hashes["test"] & hashes["calibration"], "an item is in both splits"

# %% [markdown]
# ## 7 Figure and numbers
#
# Example items. The boxes are the evidence of the gold steps, exact by construction.

# %%
examples = [items[name, "test"][k] for k in range(n_example_items) for name in benchmark.BENCHMARKS]
figure, axes = plt.subplots(n_example_items, len(benchmark.BENCHMARKS), figsize=(7, 3.1 * n_example_items))
for ax, item in zip(axes.ravel(), examples, strict=True):
    picture.picture_with_boxes(ax, open_image(item.images[0]), item.boxes)
    chain = " . ".join(step.text for step in item.gold_steps)
    ax.set_title(picture.wrap(f"{item.benchmark}: {item.question}", 36), fontsize="small")
    ax.set_xlabel(picture.wrap(f"{chain} -> {item.answer}", 40), fontsize="x-small")
record.save_figure(figure, "00_testbed", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8))
charts.learning_curves(axes[0], curves, "perception")
charts.learning_curves(axes[1], curves, "chains", legend=False)
record.save_figure(figure, "00_testbed_learning", profile)

# %% [markdown]
# What one of them looks at while it answers: any model that `AutoModelForImageTextToText` loads is watched like this
# (`dontblink.watch`; `AutoProcessor` would ask for torchvision because of videos). All layers and heads weigh the same.

# %%
folder, item = paths.ROOT / "models" / "testbed" / next(iter(MODELS)), items["visual_reference", "test"][0]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32", use_safetensors=True).eval()
processor = load_processor(folder)
content = [{"type": "image", "image": open_image(item.images[0])}, {"type": "text", "text": item.question}]
messages = [{"role": "user", "content": content}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
with watch(model, inputs, item.boxes, processor=processor, messages=messages) as gaze:
    output = model.generate(**inputs, max_new_tokens=160)
record.save_figure(gaze.plot(output), "00_testbed_own_model", profile)

# %% [markdown]
# Watched while it was written, or read from one pass over the finished response: the same numbers.

# %%
(watched,) = gaze.read(output)
measured = measure(model, processor, messages, watched.token_ids, item.boxes)
for name in ("mass", "entropy_nats", "log_probability_nats", "step_map"):
    assert abs(getattr(watched, name) - getattr(measured, name)).max() < 1e-4, name
watched.table().head()

# %%
final = {
    f"{t['name']}-seed{t['seed']}": {k: v for k, v in t["curve"][-1].items() if k.startswith(("perception", "chains"))}
    for t in trainings
}
runs = cards.assign(run=cards["name"] + "-seed" + cards["seed"].astype(str))

# %%
numbers = {
    "n_test_items": {name: len(items[name, "test"]) for name in benchmark.BENCHMARKS},
    "n_calibration_items": {name: len(items[name, "calibration"]) for name in benchmark.BENCHMARKS},
    "mean_gold_steps": rows[rows["split"] == "test"].groupby("benchmark")["n_gold_steps"].mean().to_dict(),
    "share_recall_chains": (rows["chain_kind"] == "recall").groupby(rows["benchmark"]).mean().to_dict(),
    "training": record.nest(runs.drop(columns="name"), ["run"]),
    "final_accuracy": final,
    "difficulty": {name: found["chosen"] for name, found in fixed["benchmarks"].items()},
}
record.save_numbers("00_testbed", numbers, profile)
record.save_table("00_testbed", "learning_curves", curves, profile)

# %% [markdown]
# ## 8 Reading
#
# The candidates of the difficulty were widened once, after the first calibration answers of two models, because every
# range was too easy for one benchmark and one model answered another by its prior. Accuracies are those of calibration.

# %%
chosen = {name: record_of["chosen"] for name, record_of in fixed["benchmarks"].items()}
reading = pd.DataFrame(
    {
        "noise up to": {name: found.noise_level[1] for name, found in difficulties.items()},
        "noise in training": {name: lessons.TRAINING_DIFFICULTY[name].noise_level[1] for name in difficulties},
        "typical share": {name: found.typical_share for name, found in difficulties.items()},
        "typical share in training": {name: lessons.TRAINING_DIFFICULTY[name].typical_share for name in difficulties},
        "the fixed one": {name: calibrate.is_chosen(found, fixed, name) for name, found in difficulties.items()},
        **{model: {name: chosen[name]["accuracy_confirmed"][model] for name in chosen} for model in MODELS},
    }
)
reading.round(3)
