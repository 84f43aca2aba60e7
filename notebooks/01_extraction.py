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
# # 01 Extraction: what was generated, what was measured, and where the models look
#
# ## 1 Question
#
# Are the responses and traces that every later claim stands on complete, plausible and correctly measured? And which
# layers and heads look at the evidence at all? Responses come from greedy generation; attention and entropy come from
# ONE teacher-forced replay of the generated token ids (`dontblink.attention.replay`), whose masses sum to 1 over five
# regions.
#
# | | |
# |---|---|
# | inputs | the tables that `make extract` wrote |
# | outputs | accuracy, lengths and finish reasons per cell; evidence lift per head; the grounding layers |
# | cost | under a minute; the extraction itself takes minutes on two cores |

# %% [markdown]
# ## 2 Parameters
#
# What the extraction itself was told stands below, as its manifest has it.

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
n_cross_checked_items = 8  # items per model replayed again with the other implementation

# %% [markdown]
# ## 3 Data
#
# Every item is either in the tables or in the quarantine with its reason: the counts must add up.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dontblink import params
from dontblink.extraction import examples
from dontblink.figures import charts
from dontblink.publish import record
from dontblink.questions import agreement
from dontblink.schema import read_manifest, read_tables
from dontblink_testbed import misreads

# %%
tables = read_tables(profile, ["items", "heads", "scores", "samples", "quarantine"])
items, heads, samples, quarantine = (tables[name] for name in ("items", "heads", "samples", "quarantine"))
manifest = read_manifest(profile)
models, benchmarks, grounding = manifest["models"], manifest["benchmarks"], manifest["grounding"]
assert set(items["model"]) == set(models) and set(items["benchmark"]) == set(benchmarks), "stale tables: make extract"
n_expected = manifest["n_items"] * len(models)
stages = quarantine["stage"].value_counts().reindex(["items", "extraction", "sample"], fill_value=0)
n_lost = n_expected - len(items) - stages["extraction"] - len(models) * stages["items"]
assert n_lost == 0, f"{n_lost} of {n_expected} responses are neither in the tables nor in the quarantine"
quarantine.head(10)

# %%
settings, meanings = manifest["settings"], params.describe("extraction")
pd.DataFrame({"value": map(str, settings.values()), "meaning": map(meanings.get, settings)}, index=list(settings))

# %% [markdown]
# Some test items were asked again, at temperature 1; these responses are scored and never replayed. Agreement with them
# is a baseline of notebook 03.

# %%
sampled = samples.groupby(["model", "benchmark"], observed=True).agg(
    n_items=("item_id", "nunique"), n_samples=("correct", "size"), accuracy=("correct", "mean"),
    n_not_parsed=("parsed", lambda p: int((~p).sum())), mean_response_tokens=("n_response_tokens", "mean"),
)
print(f"{len(samples)} sampled responses, {stages['sample']} quarantined")
sampled.round(3)

# %% [markdown]
# ## 4 The estimator, in the open
#
# Evidence lift of layers and heads on the calibration split: the evidence share of the attention to the image, divided
# by the evidence's share of the image tokens; 1 means no preference. A ratio of sums over items,
#
# $$\text{lift} = \frac{\sum_i m_i(\text{evidence})}{\sum_i m_i(\text{image}) \, f_i},$$
#
# with $f_i$ the evidence's fraction of the image tokens of item $i$. The layers and heads of largest lift are the
# grounding layers and heads of every later notebook; no test item enters their choice.

# %%
calibration = heads[heads["split"] == "calibration"]
expected = calibration["visual_mass"].astype(float) * calibration["evidence_fraction"]
sums = calibration.assign(expected=expected).groupby(["model", "layer"], observed=True)[["evidence_mass", "expected"]]
layer_lift = sums.sum()["evidence_mass"] / sums.sum()["expected"]

# %%
by_evidence = {model: grounding[model] for model in models if grounding[model]["n_items"]}
for model in {*models} - {*by_evidence}:
    print(f"{model}: no calibration item has a reasoning and evidence boxes; its grounding is all layers and heads")
for model, found in by_evidence.items():
    assert np.allclose(layer_lift[model], found["layer_lift"], rtol=1e-6), "not the lift that the extraction used"
    assert sorted(layer_lift[model].nlargest(len(found["layers"])).index) == found["layers"]
chosen = {model: [tuple(pair) for pair in found["heads"]] for model, found in grounding.items()}
pd.DataFrame({m: {"layers": g["layers"], "heads": g["heads"], "n_items": g["n_items"]} for m, g in grounding.items()}).T

# %% [markdown]
# Accuracy by the benchmark's own scorer (no parse counts as wrong), with the responses that were cut at the limit,
# those that answer at once, without any reasoning (as hybrid models do at will: they have no collapse, no step and no
# vision of the reasoning), and those whose item has no evidence boxes or boxes below one image token.

# %%
test = items[items["split"] == "test"]
cells = test.groupby(["model", "benchmark"], observed=True)
accuracy = cells.agg(
    n_items=("correct", "size"),
    n_errors=("correct", lambda c: int((~c).sum())),
    accuracy=("correct", "mean"),
    n_not_parsed=("parsed", lambda p: int((~p).sum())),
    n_cut=("finish_reason", lambda r: int((r == "length").sum())),
    n_without_reasoning=("n_reasoning_tokens", lambda n: int((n == 0).sum())),
    n_without_boxes=("evidence_missing", lambda why: int((why.astype(str) != "").sum())),
    n_below_one_token=("evidence_tokens", lambda n: int((n < 1 - 1e-3).sum())),
    mean_response_tokens=("n_response_tokens", "mean"),
    full_entropy_nats=("full_entropy_nats", "mean"),
)
accuracy.round(3)

# %% [markdown]
# ## 6 What it is held against
#
# A second implementation of the measures (`generic`: the eager attention of the model's own code, in float32; it shares
# the positions and the evidence with the first) replays some items again from their stored token ids.

# %%
other = "generic" if settings["replay_implementation"] == "split" else "split"
differences = examples.compare_replays(profile, models, n_cross_checked_items, other)
of_masses = differences[["mass_difference", "step_map_difference"]].to_numpy()
assert of_masses.max() <= 1e-5, "the two implementations disagree"
differences

# %% [markdown]
# Responses to the real benchmarks are scored twice: strictly (reasoning and box tokens stripped, no parse is no
# answer), which every result uses, and as the benchmark's own code does; where that has several, each of them is held
# against the strict one. The testbed has one scorer, and no row here.

# %%
scores = tables["scores"][tables["scores"]["split"] == "test"].astype({"scorer": str})
officials = {*scores["scorer"]} - {"strict"} or {"official"}
sides = {name: scores[scores["scorer"].isin([name, "strict"])] for name in sorted(officials)}
sides = {name: own.replace({"scorer": {name: "official"}}) for name, own in sides.items()}
agreement_table = pd.concat({name: agreement.tabulate_agreement(own) for name, own in sides.items()}, names=["scorer"])
agreement_table = agreement_table.reset_index("scorer").set_index(["model", "benchmark", "scorer"])
agreement_table.round(3)

# %%
differ = pd.concat({name: agreement.list_disagreements(own) for name, own in sides.items()}, names=["scorer"])
differ.groupby(["scorer", "benchmark", "kind"]).size().rename("n").to_frame()

# %% [markdown]
# How far are the symbolic errors textual? A wrong answer whose gold reads were all written correctly went wrong in the
# text, not in the picture.

# %%
reads = misreads.count_misreads(profile, models, benchmarks)
textual = reads[~reads["correct"]].groupby(["model", "benchmark"], observed=True)["reads_right"].mean()
textual.rename("share of errors with every read right").to_frame().round(3)

# %% [markdown]
# ## 7 Figure and numbers
#
# Bars of the accuracy are Wilson intervals.

# %%
figure, axes = plt.subplots(2, 2, figsize=(7, 5.6), width_ratios=[1, 1.15])
charts.accuracy_panel(axes[0, 0], test)
charts.length_panel(axes[0, 1], test)
charts.finish_panel(axes[1, 0], test)
charts.noise_panel(axes[1, 1], test)
record.save_figure(figure, "01_extraction", profile)

# %%
if by_evidence:
    figure, axes = plt.subplots(1, len(by_evidence), figsize=(7, 2.9))
    for ax, model in zip(np.atleast_1d(axes), by_evidence, strict=True):
        charts.head_lift_map(ax, calibration[calibration["model"] == model], chosen[model])
    record.save_figure(figure, "01_extraction_heads", profile)

# %%
by_cell, samples_by_cell = (
    {f"{m}/{b}": row for (m, b), row in table.astype(float).to_dict("index").items()} for table in (accuracy, sampled)
)

# %%
numbers = {
    "cells": by_cell,
    "n_quarantined": len(quarantine),
    "n_samples": len(samples),
    "samples": samples_by_cell,
    "scorer_agreement": {
        "/".join(key if key[2] != "official" else key[:2]): row for key, row in agreement_table.to_dict("index").items()
    },
    "grounding": {
        m: {"layers": g["layers"], "heads": g["heads"], "layer_lift": g["layer_lift"]} for m, g in grounding.items()
    },
    "share_errors_with_reads_right": {f"{m}/{b}": float(v) for (m, b), v in textual.items()},
    "largest_mass_difference_between_implementations": float(differences["mass_difference"].max()),
    "largest_entropy_difference_nats": float(differences["entropy_difference_nats"].max()),
}

# %%
record.save_numbers("01_extraction", numbers, profile)
record.save_table("01_extraction", "cells", accuracy, profile)
record.save_table("01_extraction", "replays", differences, profile)

# %% [markdown]
# ## 8 Reading
#
# The testbed should be informative, not trivial: accuracy between 55 % and 92 % and at least 60 errors in every cell.
# Where a cell is outside, it is said here and in the model's card.

# %%
for cell, share in textual.items():
    print(f"{' x '.join(cell)}: {share:.0%} of the errors have every read right")
by_prior = test[test["prior_side"] != "none"].groupby(["model", "prior_side"], observed=True)["correct"].mean()
print("hallucination accuracy by the side of the prior:", by_prior.round(3).to_dict())
for (model, benchmark), row in accuracy.iterrows():
    inside = 0.55 <= row["accuracy"] <= 0.92 and row["n_errors"] >= 60
    print(
        f"{model} x {benchmark}: accuracy {row['accuracy']:.3f}, {row['n_errors']:.0f} errors: "
        f"{'in the intended range' if inside else 'OUTSIDE the intended range'}"
    )
