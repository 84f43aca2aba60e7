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
# # 03 Entropy: does it tell correct from wrong answers, and does a rule carry over to another benchmark?
#
# ## 1 Question
#
# The paper reports (C2) that the entropy of the full response separates correct from wrong answers in every dataset and
# under transfer, better than the entropy of the answer span, and (C3) that adding vision features through one global
# linear rule is brittle and often hurts transfer. Three things could make either claim hollow: an entropy that only
# tells noisy or long items from easy ones, an opponent that cannot win, and a loss that a useless feature would cause
# as well. Each is held against its control here.
#
# | | |
# |---|---|
# | inputs | the items table: test split to judge on, calibration split to fit on; the tokens of the answer spans |
# | outputs | AUROCs and differences, transfer maps, reliability curves, each with its negative control |
# | cost | one to two minutes |
#
# $$\text{AUROC}_s = P(s_i > s_j) + \tfrac{1}{2} P(s_i = s_j), \quad i \text{ correct}, j \text{ wrong, of one cell}$$
#
# with $s$ minus an entropy (or minus the length, or the evidence mass). Over several cells it is the mean of the AUROCs
# within each; an item is resampled with the responses of all models (BCa).

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
bootstrap_replicates = 10000  # of AUROCs, differences and Brier scores; item-clustered, stratified by cell
transfer_replicates = 2000  # of the transfer maps: test items resampled, the fit held
refit_replicates = 500  # of the transfer maps: both splits resampled, the rule fitted again
confidence_level = 0.95  # of every interval
bootstrap_seed = 303  # seed of the resampling and of the deals
min_items = 20  # a smaller cell keeps its counts and gets no estimate
min_class_items = 10  # the same for fewer correct or fewer wrong answers
covariates = ["log_n_response_tokens", "noise_level", "chain_length"]  # taken out in the adjusted tables
reliability_bins = 10  # of the reliability curves and calibration errors
shuffled_deals = 200  # permutations of the labels within a cell; draws of calibrated labels (negative controls)
vision_deals = 100  # permutations of vision within a cell, each with its fits (negative control)

# %% [markdown]
# ## 3 Setup

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd

from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_manifest, read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import deals as shuffles
from dontblink.studies import entropy, transfer
from dontblink.studies.cells import require_cells

usable = {"min_items": min_items, "min_class": min_class_items}
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level)
light = replace(full, n_replicates=transfer_replicates)
deals = {"n_deals": shuffled_deals, "confidence": confidence_level, "seed": bootstrap_seed}
scales = {"train": "fit", "test": "test cell"}  # whose mean and deviation standardise the test features
adjustments = {"unadjusted": [], "adjusted": covariates}
names = ["model", "benchmark"]

# %% [markdown]
# ## 4 Load and check
#
# Every estimate is over test items. The calibration items, which are others, fit the rules and the probabilities.

# %%
tables = read_tables(profile, ["items", "tokens"], split="test")
items, tokens = tables["items"], tables["tokens"]
fit_items = read_tables(profile, ["items"], split="calibration")["items"]
require_cells(items, min_items, min_class_items)
manifest = read_manifest(profile)
cells = [(model, benchmark) for model in manifest["models"] for benchmark in manifest["benchmarks"]]
assert set(cells) == set(items[names].astype(str).itertuples(index=False, name=None)), "cells differ from the manifest"
truncated = items["finish_reason"].astype(str) == "length"
no_answer = items["answer_entropy_nats"].isna()
print(f"{len(items)} responses to judge, {len(fit_items)} to fit on; truncated: {truncated.sum()}, unparsed: ", end="")
print(f"{(~items['parsed']).sum()}, without an answer span: {no_answer.sum()} (of these correct: ", end="")
print(f"{items.loc[no_answer, 'correct'].sum()})")

# %% [markdown]
# How strong an opponent is the answer span? Where it is one or two tokens and the reasoning has already settled it,
# its entropy is near zero for correct and wrong answers alike. Medians per cell:

# %%
in_answer = tokens[tokens["span"].astype(str) == "answer"].groupby([*names, "item_id"], observed=True).size()
opponent = items.groupby(names, observed=True)[["full_entropy_nats", "answer_entropy_nats"]].median()
opponent["answer_tokens"] = in_answer.groupby(names, observed=True).median()
opponent["accuracy"] = items.groupby(names, observed=True)["correct"].mean()
opponent.round(4)

# %% [markdown]
# ## 5 Compute
#
# Every score and every difference, unadjusted and with the covariates taken out of the scores within each cell by least
# squares. The declared family is `full - answer`, unadjusted, over the declared cells: its clustered tests are adjusted
# by Holm. The other families (other pairs, adjusted scores) are exploratory and get their own. A covariate is no score
# in its own adjusted table. Intervals are BCa for an AUROC and percentile for a difference, and the test is
# Obuchowski's: the choices that hold best in the simulation study (`make simulate`). With about 25 wrong answers or
# less the interval of a single AUROC is too narrow, with about ten that of a difference, too (the test holds); at 20
# items the former is too wide. The counts stand in the table.

# %%
table = pd.concat(
    entropy.add_holm(entropy.auroc_table(items, covariates=chosen, **usable, resampling=full), cells)
    .assign(adjustment=name)
    for name, chosen in adjustments.items()
)
table = table.reset_index(drop=True)
scope = ["adjustment", "scope", "benchmark", "model"]
singles = table[~table["score"].str.contains(" - ")]
singles.pivot_table("estimate", scope, "score", sort=False).round(3)

# %%
differences = table[table["p"].notna()]
declared = differences[(differences["score"] == "full - answer")]
declared[[*scope, "auc_a", "auc_b", "estimate", "ci_low", "ci_high", "p", "p_holm", "n_wrong", "n_left_out"]].round(3)

# %% [markdown]
# The other pairs.

# %%
others = differences[differences["score"] != "full - answer"]
others[["score", *scope, "estimate", "ci_low", "ci_high", "p", "p_holm"]].round(3)

# %% [markdown]
# A response without an answer span has no answer entropy, so that `full - answer` leaves it out. Does the difference
# hang on that? Without truncated responses, and with every missing answer entropy taken as the largest one (as if the
# answer span had flagged these responses: the choice that favours the opponent):

# %%
largest = items["answer_entropy_nats"].max() + 1
variants = {
    "without_truncated": items[~truncated],
    "missing_answer_flagged": items.assign(answer_entropy_nats=items["answer_entropy_nats"].fillna(largest)),
}
duel = {name: entropy.SCORES[name] for name in ("full", "answer")}
truncation = pd.concat(
    entropy.auroc_table(rows, duel, [("full", "answer")], **usable, resampling=light)
    .query("score == 'full - answer'")
    .assign(variant=name)
    for name, rows in variants.items()
)
truncation.pivot_table("estimate", ["benchmark", "model"], "variant").round(3)

# %% [markdown]
# Negative control: the same quantities after the labels were dealt to other items of the cell (an item's labels move
# together for all models). The mean over deals has to be one half for an AUROC and zero for a difference; the spread
# says what chance alone does. `share_below` is the place of the observed value among the deals.

# %%
shuffled = pd.concat(
    shuffles.shuffled_labels(items, covariates=chosen, **usable, **deals).assign(adjustment=name)
    for name, chosen in adjustments.items()
)
spread = ["null", "observed", "shuffled_mean", "shuffled_low", "shuffled_high", "share_below"]
wide = shuffled[shuffled["scope"] != "cell"]
wide.pivot_table([*spread[1:], "p"], ["score", "benchmark"], "adjustment", sort=False).round(3)

# %% [markdown]
# Transfer: rules fitted on the calibration items of one benchmark, judged on the test items of another, and of the same
# one for comparison. Features are standardised by the mean and deviation of the fit (`train`). One feature's AUROC
# depends on the fit through a sign alone: that `full` ranks as well elsewhere as at home says nothing about its fit,
# whose transfer shows in the Brier score. Where the test benchmark has a task type that the fit has not seen,
# `per_task` falls back on the text-only rule by construction, and its gain is zero without any data.

# %%
carry = {"resampling": light, "refit": replace(full, n_replicates=refit_replicates), **usable}
carried = pd.concat(
    transfer.transfer_table(fit_items, items, covariates=chosen, **carry).assign(adjustment=name, scaling="train")
    for name, chosen in adjustments.items()
)
over_models = "all" if items["model"].nunique() > 1 else str(items["model"].iloc[0])  # one model is its own mean
mean_carried = carried[carried["model"] == over_models]
columns = ["auroc", "gain", "refit_gain_low", "refit_gain_high", "brier"]
mean_carried.pivot_table(columns, ["rule", "train", "test"], "adjustment", sort=False).round(3)

# %%
away = mean_carried[mean_carried["train"] != mean_carried["test"]]
for name, rows in away.groupby("adjustment"):
    text, per_task = (rows[rows["rule"] == rule] for rule in ("full", "per_task"))
    print(
        f"{name}: per_task falls back on text in {(per_task['n_text_only'] > 0).sum()} of {len(rows) // 5} pairs; ",
        end="",
    )
    print(f"the Brier score of full is below that of the constant in {(text['brier'] < text['brier_constant']).sum()}")

# %% [markdown]
# The same with the test features standardised by the mean and deviation of the unlabelled test cell itself (`test`):
# what a shift of scale between benchmarks costs, apart from a change of meaning. Gains over `full`:

# %%
rescaled = pd.concat(
    transfer.transfer_table(fit_items, items, covariates=chosen, scaling="test", **carry).assign(
        adjustment=name, scaling="test"
    )
    for name, chosen in adjustments.items()
)
both = pd.concat([carried, rescaled], ignore_index=True).query("model == @over_models and rule != 'full'")
both.pivot_table("gain", ["rule", "train", "test"], ["adjustment", "scaling"], sort=False).round(3)

# %% [markdown]
# Negative control: vision dealt to other items of its cell, before the fit and after. It keeps its scale and loses its
# meaning, so that the loss that is left is the price of ANY useless feature. Only a gain outside the range of these
# deals speaks of vision.

# %%
dealt = pd.concat(
    shuffles.shuffled_vision(fit_items, items, covariates=chosen, **usable, **deals | {"n_deals": vision_deals}).assign(
        adjustment=name
    )
    for name, chosen in adjustments.items()
)
columns = ["gain", "shuffled_mean", "shuffled_low", "shuffled_high", "share_below"]
dealt.pivot_table(columns, ["scaling", "rule", "train", "test"], "adjustment", sort=False).round(3)

# %% [markdown]
# Calibration: the probability of a correct answer by the rule `full`, fitted per model on the calibration items of the
# same benchmark, judged on test items. `estimate` is the Brier score of the constant accuracy less that of the rule. A
# calibration error depends on its bins and is never zero at a finite number of rows: `ece_calibrated` is what labels
# drawn from the probabilities themselves give.

# %%
predicted = {
    name: transfer.predict_rows(fit_items, items, covariates=chosen, **usable) for name, chosen in adjustments.items()
}
calibrated = pd.concat(
    entropy.calibration_table(rows, reliability_bins, n_draws=shuffled_deals, resampling=full).assign(adjustment=name)
    for name, rows in predicted.items()
)
shown = ["brier", "brier_constant", "estimate", "ci_low", "ci_high"]
errors = [f"{name}_{rule}" for rule in entropy.BIN_RULES for name in ("ece", "ece_calibrated")]
calibrated[[*scope, *shown, *errors]].round(3)

# %%
curves = pd.concat(
    entropy.reliability_curve(
        rows["probability"], rows["correct"], reliability_bins, rule, confidence_level
    ).assign(model=model, benchmark=benchmark, adjustment=name, bin_rule=rule)
    for name, everything in predicted.items()
    for rule in entropy.BIN_RULES
    for (model, benchmark), rows in everything.groupby(names)
)

# %% [markdown]
# ## 6 Figure
#
# Does the full response separate better than its answer? Each benchmark (bold) above its models.

# %%
parts = table.merge(shuffled[[*scope, "score", "shuffled_low", "shuffled_high"]], on=[*scope, "score"], how="left")
parts = {key: rows for key, rows in parts.groupby(["score", "adjustment"])}
note = (
    "filled: unadjusted; hollow: adjusted for "
    + ", ".join(covariates).replace("_", " ")
    + "; grey: labels dealt within the cell"
)
looks = {"null": ("shuffled_low", "shuffled_high"), "confidence": confidence_level}


def draw(ax, score):
    pair, beside = " - " in score, parts.get((score, "adjusted"))
    label = f"{score.replace('_', ' ')} (AUROC{' difference' if pair else ''})"
    charts.forest(ax, parts[score, "unadjusted"], label=label, zero=0 if pair else 0.5, beside=beside, **looks)
    ax.set_xlim((None, None) if pair else (0.35, 1))


# %%
figure, axes = plt.subplots(1, 3, figsize=(7, 4.4), sharey=True)
for ax, score in zip(axes, ("full", "answer", "full - answer"), strict=True):
    draw(ax, score)
figure.suptitle(note, fontsize=7)
record.save_figure(figure, "03_entropy", profile)

# %%
figure, axes = plt.subplots(2, 3, figsize=(7, 8.2), sharey=True)
for ax, score in zip(axes.flat, ("max", "last_decile", "length", "vision", "full - max", "full - length"), strict=True):
    draw(ax, score)
figure.suptitle(note, fontsize=7)
record.save_figure(figure, "03_entropy_scores", profile)

# %% [markdown]
# What vision adds elsewhere. A gain in brackets may be zero; intervals resample the fit and the test items. (The map of
# `per_task` would show `interaction` on its diagonal, and zero wherever it falls back on text.)

# %%
maps = [("full", "train"), ("linear", "train"), ("interaction", "train"), ("linear", "test")]  # rule, scaling
everything = pd.concat([carried, rescaled]).query("model == @over_models")
reach = everything.loc[everything["rule"].isin(["linear", "interaction"]), "gain"].abs().max()
everything = everything.set_index(["adjustment", "rule", "scaling"], drop=False).sort_index()

# %%
for name, suffix in {"unadjusted": "", "adjusted": "_adjusted"}.items():
    figure, axes = plt.subplots(2, 2, figsize=(7, 5.6))
    for ax, (rule, scaling) in zip(axes.flat, maps, strict=True):
        value = "auroc" if rule == "full" else "gain"
        charts.transfer_heat_map(ax, everything.loc[(name, rule, scaling)], value, reach=reach)
        ax.set_title(f"{rule}, features on the scale of the {scales[scaling]}")
    figure.suptitle(f"{name}, mean over models; {confidence_level:.0%} bootstrap by item, with refits")
    record.save_figure(figure, f"03_entropy_transfer{suffix}", profile)

# %% [markdown]
# Does a probability keep its promise?

# %%
benchmarks = sorted(manifest["benchmarks"])
rows_of = [("unadjusted", "equal_width"), ("unadjusted", "equal_mass"), ("adjusted", "equal_mass")]
figure, axes = plt.subplots(3, len(benchmarks), figsize=(7, 7.4), sharex=True, sharey=True)
for (name, rule), line in zip(rows_of, axes, strict=True):
    for benchmark, ax in zip(benchmarks, line, strict=True):
        chosen = curves.query("adjustment == @name and bin_rule == @rule and benchmark == @benchmark")
        charts.reliability_curve(ax, chosen, confidence=confidence_level, legend=ax is axes[0, 0])
        ax.set_title(f"{benchmark}\n{name}, {rule.replace('_', ' ')}")
        ax.label_outer()
record.save_figure(figure, "03_entropy_reliability", profile)

# %% [markdown]
# ## 7 Record numbers

# %%
keys = ["adjustment", "scope", "score", "benchmark", "model"]
counts = ["n_left_out", "n_cells", "n_wrong", "n_items", "n_degenerate"]
single = singles.dropna(subset=["estimate"])[[*keys, "estimate", "ci_low", "ci_high", *counts]]
pair = differences.drop(columns=["p_holm", "method", "adjusted_for"])
holm = differences.dropna(subset=["p_holm"])[[*keys, "p_holm"]]
numbers = {
    "n_responses": len(items),
    "n_truncated": int(truncated.sum()),
    "n_unparsed": int((~items["parsed"]).sum()),
    "n_without_answer_span": int(no_answer.sum()),
    "auroc": record.nest(single, keys),
    "difference": record.nest(pair, keys),
    "difference_holm": record.nest(holm, keys),
}

# %%
numbers |= {
    "truncation": record.nest(truncation[["variant", "benchmark", "model", "estimate", "ci_low", "ci_high"]],
                              ["variant", "benchmark", "model"]),
    "shuffled_labels": record.nest(shuffled[[*keys, *spread, "shuffled_se", "p"]].dropna(), keys),
    "transfer": record.nest(carried, ["adjustment", "rule", "train", "test", "model"]),
    "transfer_test_scaling": record.nest(rescaled, ["adjustment", "rule", "train", "test", "model"]),
    "shuffled_vision": record.nest(dealt, ["adjustment", "scaling", "rule", "train", "test"]),
    "calibration": record.nest(calibrated, ["adjustment", "scope", "benchmark", "model"]),
    "reliability": record.nest(curves, ["adjustment", "bin_rule", "benchmark", "model", "bin"]),
}  # fmt: skip
record.save_numbers("03_entropy", numbers, profile)

# %% [markdown]
# ## 8 Checks and reading
#
# The sentences below are computed. Three limits stand whatever they say. The answer span of a short answer is one or
# two tokens, and where the reasoning has settled it, its entropy is near zero: "better than the answer's entropy" is a
# low bar there, and the largest token entropy and the length are the opponents to read. Adjustment takes out what a
# line in the covariates explains, no more. A loss under transfer is vision's own only where it lies outside the deals.

# %%
for (_, name), rows in differences.groupby(["score", "adjustment"], sort=False):
    print(f"{name}: {entropy.describe_differences(rows)}")
for (_, name, scaling), rows in both.groupby(["rule", "adjustment", "scaling"], sort=False):
    print(f"{name}, on the scale of the {scales[scaling]}: {transfer.describe_gains(rows)}")

# %%
elsewhere = dealt[dealt["train"] != dealt["test"]]
beyond = elsewhere.assign(
    worse=elsewhere["gain"] < elsewhere["shuffled_low"], better=elsewhere["gain"] > elsewhere["shuffled_high"]
)
for (rule, name, scaling), rows in beyond.groupby(["rule", "adjustment", "scaling"], sort=False):
    counts = f"worse in {rows['worse'].sum()} and better in {rows['better'].sum()} of {len(rows)} ordered pairs"
    print(f"{name}, on the scale of the {scales[scaling]}: {rule} against dealt vision: {counts}")

# %%
for name, rows in calibrated[calibrated["scope"] == "cell"].groupby("adjustment", sort=False):
    off = {
        rule: int((rows[f"ece_{rule}"] > rows[f"ece_calibrated_high_{rule}"]).sum()) for rule in entropy.BIN_RULES
    }
    print(
        f"{name}: Brier score surely below that of the constant in {(rows['ci_low'] > 0).sum()} of {len(rows)} cells; "
    )
    print(f"calibration error beyond that of calibrated labels in {off} of them")

# %%
drift = (shuffled["shuffled_mean"] - shuffled["null"]).abs() / shuffled["shuffled_se"]
assert drift.max() < 5, f"dealt labels are off their null by {drift.max():.1f} Monte Carlo errors"
fallen = carried[(carried["rule"] == "per_task") & (carried["n_text_only"] > 0) & (carried["train"] != carried["test"])]
assert (fallen["gain"] == 0).all(), "a rule that fell back on text alone has to rank as it does"
assert dealt["shuffled_mean"].max() < 0.01, "dealt vision should not help"
