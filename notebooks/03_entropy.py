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
# linear rule is brittle and often hurts transfer. Four things could make either claim hollow: an entropy that only
# tells noisy or long items from easy ones, an opponent that cannot win, a loss that a useless feature would cause as
# well, and rows left out because they lack a score, most of which are wrong. Each is held against its control here.
#
# $$\text{AUROC}_s = P(s_i > s_j) + \tfrac{1}{2} P(s_i = s_j), \quad i \text{ correct}, j \text{ wrong, of one cell}$$
#
# with $s$ minus an entropy (or minus the length, or the vision). Over several cells it is the mean of the AUROCs
# within each.

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
excess_replicates = 250  # of the excess over dealt vision: both splits resampled, every rule and deal fitted again
vision_deals = 4  # permutations of vision within a cell, each refitted on the same replicates (negative control)

# %% [markdown]
# ## 3 Data
#
# Every estimate is over test items. The calibration items, which are others, fit the rules and the probabilities.
# Vision is the attention to the evidence where every item that is judged has boxes (`measures.items` says which are),
# and otherwise that to the whole image, which needs none.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# %%
from dontblink.figures import charts
from dontblink.params import read_section
from dontblink.publish import record
from dontblink.schema import iterate_parts, read_manifest, read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import deals, entropy, transfer

# %%
from dontblink.studies.cells import (
    ORACLES,
    PLACEBOS,
    choose_entropy,
    choose_visions,
    describe_signs,
    name_main,
    require_cells,
)
from dontblink.studies.sample_agreement import AGREEMENT, join_agreement

# %%
measures = read_section(profile, "measures")
support = measures["entropy_support"]  # of a token's entropy: full, or the top 20
studied, visions = choose_visions(read_tables(profile, ["items"])["items"], measures["items"])
studied, main = choose_entropy(studied, support), name_main(visions)
items, fit_items = (studied[studied["split"] == split].reset_index(drop=True) for split in ("test", "calibration"))
require_cells(items, min_items, min_class_items)
print(f"vision is the attention to the {main}")

# %%
manifest = read_manifest(profile)
cell, benchmarks = ["model", "benchmark"], manifest["benchmarks"]
response = [*cell, "item_id"]
cells = [(model, benchmark) for model in manifest["models"] for benchmark in benchmarks]
assert set(cells) == set(items[cell].astype(str).itertuples(index=False, name=None)), "cells differ from the manifest"
truncated, unparsed = items["finish_reason"].astype(str) == "length", ~items["parsed"]
no_answer = items["n_answer_tokens"] == 0
print(f"{len(items)} responses to judge, {len(fit_items)} to fit on; truncated: {truncated.sum()}, unparsed: ", end="")
print(f"{unparsed.sum()}, without an answer span: {no_answer.sum()}")

# %% [markdown]
# Tokens come in parts, some hundred responses at a time, read when they are needed: a study has too many for a memory.

# %%
token_entropy = {"full": "entropy_nats", "top20": "top20_entropy_nats"}[support]
parts = iterate_parts(profile, ["tokens"], [*response, "span", token_entropy], split="test")

# %% [markdown]
# ## 4 The estimator, in the open
#
# The entropy of a response is the mean entropy of its tokens, that of its answer the mean over the tokens of the answer
# span; a score is minus an entropy. The AUROC is the share of pairs, of a correct and a wrong answer of one cell, in
# which the correct one has the higher score. A response without an answer span has no answer entropy; it counts as the
# least confident of its cell, because to leave it out would select on the outcome. A cell that is too small for an
# estimate gets none.


# %%
def mean_entropy(tokens):
    """Return the mean token entropy (nats) of each response, in single precision as the items table holds it."""
    return tokens.groupby(response, observed=True)[token_entropy].mean().astype("float32")


def auroc(rows, score):
    """Return the share of (correct, wrong) pairs in which the correct answer scores higher; ties count one half."""
    correct, wrong = (rows.loc[rows["correct"] == truth, score].to_numpy() for truth in (True, False))
    lead = correct[:, None] - wrong[None, :]
    return ((lead > 0) + (lead == 0) / 2).mean()


# %%
def is_enough(rows):
    """Return whether a cell has enough responses, and enough correct and wrong ones."""
    correct = rows["correct"].sum()
    return len(rows) >= min_items and min(correct, len(rows) - correct) >= min_class_items


def auroc_of_cells(rows, score):
    """Return the AUROC of each cell that has enough rows."""
    by_cell = rows.groupby(cell, observed=True)
    return pd.Series({key: auroc(own, score) for key, own in by_cell if is_enough(own)}).rename_axis(cell)


# %%
scores = pd.concat(
    pd.DataFrame({"full": -mean_entropy(tokens), "answer": -mean_entropy(tokens[tokens["span"] == "answer"])})
    for tokens in (part["tokens"] for part in parts)
)
judged = items.drop(columns="answer").merge(scores.reset_index(), on=response, validate="1:1")
for name in scores:
    listed = judged[f"{name}_entropy_nats"]
    assert np.array_equal(-judged[name], listed, equal_nan=True), f"{name}: not the items table's entropy"
judged["answer"] = judged["answer"].fillna(judged.groupby(cell, observed=True)["answer"].transform("min"))

# %% [markdown]
# AUROC of each cell, the difference of the two, and that of the length, a score with many ties. How strong an opponent
# is the answer span? Where it is one or two tokens and the reasoning has already settled it, its entropy is near zero
# for correct and wrong answers alike: hence the medians.

# %%
opened = pd.DataFrame({name: auroc_of_cells(judged, name) for name in scores})
opened["full - answer"] = opened["full"] - opened["answer"]
opened["length"] = auroc_of_cells(judged.assign(length=-judged["n_response_tokens"]), "length")
medians = judged.groupby(cell, observed=True)[["full_entropy_nats", "answer_entropy_nats"]].median()
opened.join(medians.add_prefix("median_")).round(4)

# %% [markdown]
# A rule is a logit of being correct on z-scores, fitted per model on the calibration items of one benchmark. Carried to
# another, it keeps the mean, the deviation and the coefficients of its fit.


# %%
def standardise(rows, fit, features):
    """Return a constant and the z-scores of the features, by mean and standard deviation of the rows of the fit."""
    values, known = rows[features].astype(float), fit[features].astype(float)
    return np.column_stack([np.ones(len(rows)), (values - known.mean()) / known.std(ddof=0)])


def fit_logit(x, y):
    """Return the coefficients of greatest likelihood, by Newton's steps."""
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ beta))
        beta += np.linalg.solve((x.T * (p * (1 - p))) @ x, x.T @ (y - p))
    return beta


# %% [markdown]
# One pair of benchmarks, with and without vision: entropy alone, and the linear rule of C3.

# %%
here, there = benchmarks[0], benchmarks[-1]
rules = {"full": ["full_entropy_nats"], "linear": ["full_entropy_nats", visions[main]]}
carried_open = {}
for model in manifest["models"]:
    fit = fit_items[(fit_items["model"] == model) & (fit_items["benchmark"] == here)]
    own = items[(items["model"] == model) & (items["benchmark"] == there)]
    for rule, features in rules.items() if is_enough(fit) and is_enough(own) else ():
        beta = fit_logit(standardise(fit, fit, features), fit["correct"].to_numpy(float))
        carried_open[rule, model] = auroc(own.assign(score=standardise(own, fit, features) @ beta), "score")
pd.Series(carried_open, dtype=float).rename_axis(["rule", "model"]).unstack(0).round(4)

# %% [markdown]
# ## 5 Intervals
#
# The library repeats this for every score and rule. An AUROC has Newcombe's interval (2006, method 5), whose sizes are
# divided by what repeated items cost by Obuchowski's variance; a difference and a mean over cells have theirs by MOVER
# (Zou and Donner 2008) with Obuchowski's covariances, and Obuchowski's test. They hold best in the simulation study
# (`make simulate`), by a rule fixed before it; where some 25 wrong answers spread much further than the right ones the
# intervals are still a little too narrow. The counts stand in the table. Rules carried over are resampled by item.
#
# The declared family is `full - answer`, unadjusted, over the declared cells, adjusted by Holm; other pairs and
# adjusted scores are exploratory. *Adjusted* takes the covariates out of a score within its cell by least squares, so
# that only answers to items of like length and noise are compared; a covariate is no score in its own adjusted table.

# %%
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level)
light = replace(full, n_replicates=transfer_replicates)
usable = {"min_items": min_items, "min_class": min_class_items}
scores_of = {"scores": entropy.SCORES | {"vision": (visions[main], 1.0)}}
adjustments = {"unadjusted": [], "adjusted": covariates}


def for_both(estimate, *tables, **options):
    """Return a table without and with the covariates taken out of the scores."""
    given = usable | options
    both = (estimate(*tables, covariates=c, **given).assign(adjustment=name) for name, c in adjustments.items())
    return pd.concat(both, ignore_index=True)


# %%
both = for_both(entropy.auroc_table, items, resampling=full, **scores_of)
table = pd.concat(entropy.add_holm(own, cells) for _, own in both.groupby("adjustment", sort=False))
scope = ["adjustment", "scope", "benchmark", "model"]
differences = table[table["p"].notna()]
shown = ["auc_a", "auc_b", "estimate", "ci_low", "ci_high", "p", "p_holm", "n_wrong", "n_ranked_last"]
differences.query("score == 'full - answer'")[[*scope, *shown]].round(3)

# %% [markdown]
# Rules carried over: with the fit held and test items resampled, and with both resampled (`refit`). The AUROC of one
# feature depends on its fit through a sign alone: that `full` ranks as well elsewhere as at home says nothing about its
# fit, whose transfer shows in the Brier score. Where the test benchmark has a task type that the fit has not seen,
# `per_task` falls back on the text-only rule, and its gain is zero without any data.

# %%
scales = {"train": "fit", "test": "test cell"}  # whose mean and deviation standardise the test features
carry = {"resampling": light, "refit": replace(full, n_replicates=refit_replicates)}
carried = pd.concat(
    for_both(transfer.transfer_table, fit_items, items, scaling=scaling, vision=visions[main], **carry)
    .assign(scaling=scaling)
    for scaling in scales
)  # fmt: skip
fallen = carried.query("rule == 'per_task' and n_text_only > 0 and train != test and scaling == 'train'")
assert (fallen["gain"] == 0).all(), "a rule that fell back on text alone has to rank as it does"
over_models = "all" if items["model"].nunique() > 1 else str(items["model"].iloc[0])  # one model is its own mean
mean_carried = carried[carried["model"] == over_models]
on_fit_scale = mean_carried[mean_carried["scaling"] == "train"]
columns = ["auroc", "gain", "refit_gain_low", "refit_gain_high", "brier", "brier_constant"]
on_fit_scale.query("adjustment == 'unadjusted'").set_index(["rule", "train", "test"])[columns].round(3)

# %% [markdown]
# The open lines are the estimates of both tables, and over the models of a benchmark the table holds their mean.

# %%
plain = table.query("adjustment == 'unadjusted' and score in @opened.columns").set_index(["score", *cell])
of_cells = plain.loc[plain["scope"] == "cell", "estimate"].dropna()
for name in opened:
    assert np.allclose(of_cells[name], opened[name].reindex(of_cells[name].index), rtol=0, atol=1e-12), name
of_benchmarks = plain.loc[plain["scope"] == "benchmark", "estimate"].droplevel("model").dropna()
mean = of_cells.groupby(["score", "benchmark"]).mean().reindex(of_benchmarks.index)
assert np.allclose(of_benchmarks, mean, rtol=0, atol=1e-12)
one_pair = carried.query("adjustment == 'unadjusted' and scaling == 'train' and train == @here and test == @there")
listed = one_pair.set_index(["rule", "model"])["auroc"].reindex(carried_open.keys())
assert np.allclose(listed, [*carried_open.values()], rtol=0, atol=1e-12), "rules carried over"

# %% [markdown]
# ## 6 What it is held against
#
# Other opponents: the most uncertain token and the length.

# %%
others = differences.query("score != 'full - answer' and scope != 'cell'")
others[["score", *scope, "estimate", "ci_low", "ci_high", "p"]].round(3)

# %% [markdown]
# The same question asked again: how many of k responses sampled at temperature 1 give the answer of the measured one?
# That costs k generations, needs no logits, and is the baseline that an entropy has to beat where it can be paid. Over
# the items that were sampled; a response without an answer is ranked last.

# %%
samples = read_tables(profile, ["samples"], split="test")["samples"]
agreed = table.head(0)
if len(samples):
    sampled = join_agreement(items, samples)
    asked = {"full": entropy.SCORES["full"], "agreement": (AGREEMENT, 1.0)}
    own = entropy.auroc_table(sampled, asked, [("full", "agreement")], **usable, resampling=light)
    agreed = own.reindex(columns=table.columns)  # too few sampled errors: counts alone
    print(f"{len(sampled)} responses were asked again, {sampled['n_samples'].min()} times each or more often")
agreed[agreed["scope"] != "cell"][[*scope[1:], "score", "estimate", "ci_low", "ci_high", "p", "n_wrong"]].round(3)

# %% [markdown]
# Labels dealt to other items of the cell (an item's labels move together for all models). The mean over deals has to be
# one half for an AUROC and zero for a difference; the spread says what chance alone does. `share_below` is the place of
# the observed value among the deals.

# %%
dealing = {"confidence": confidence_level, "seed": bootstrap_seed}
shuffled = for_both(deals.shuffled_labels, items, n_deals=shuffled_deals, **dealing, **scores_of)
drift = (shuffled["shuffled_mean"] - shuffled["null"]).abs() / shuffled["shuffled_se"]
assert drift.max() < 5, f"dealt labels are off their null by {drift.max():.1f} Monte Carlo errors"
columns = ["observed", "shuffled_mean", "shuffled_low", "shuffled_high", "share_below", "p"]
shuffled[shuffled["scope"] != "cell"].set_index(["score", *scope])[columns].round(3)

# %% [markdown]
# Vision dealt to other items of its cell, before the fit and after. It keeps its scale and loses its meaning, so that
# what is lost is the price of ANY useless feature, and the placebos, which never looked at the picture, pay it as well.
# Hence the excess: the AUROC of the rule less the mean AUROC of `vision_deals` such rules, fitted and judged on the
# same replicates. A negative excess is vision's own harm. Oracles need gold boxes; a monitor could have the others.

# %%
looks = {f"{name} (oracle)" if name in ORACLES else name: column for name, column in visions.items()}
looks |= {f"{name} (placebo)": column for name, column in PLACEBOS.items()}
fewer = replace(full, n_replicates=excess_replicates, method="percentile")
again = {"resampling": fewer, "refit": fewer, "n_deals": vision_deals}
excess = pd.concat(
    transfer.transfer_table(fit_items, items, ["linear"], vision=column, **again, **usable)
    .query("(train != test or train == 'all') and rule == 'linear' and model == @over_models").assign(vision=name)
    for name, column in looks.items()
)  # fmt: skip
columns = ["gain", "refit_gain_low", "refit_gain_high", "excess", "excess_low", "excess_high"]
excess.set_index(["vision", "train", "test"])[columns].round(3)

# %% [markdown]
# Test features standardised by the mean and deviation of the unlabelled test cell itself (`test`): what a shift of
# scale between benchmarks costs, apart from a change of meaning. Gains over `full`:

# %%
gains = mean_carried[mean_carried["rule"] != "full"]
gains.pivot_table("gain", ["rule", "train", "test"], ["adjustment", "scaling"], sort=False).round(3)

# %% [markdown]
# ## 7 Figure and numbers
#
# Does the full response separate better than its answer? Each benchmark (bold) above its models.

# %%
parts = table.merge(shuffled[[*scope, "score", "shuffled_low", "shuffled_high"]], on=[*scope, "score"], how="left")
parts = {key: rows for key, rows in parts.groupby(["score", "adjustment"])}
hollow = f"hollow: adjusted for {', '.join(covariates).replace('_', ' ')}"
note = f"filled: unadjusted; {hollow}; grey: labels dealt within the cell"
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

# %% [markdown]
# What vision adds elsewhere. A gain in brackets may be zero; intervals resample the fit and the test items. (The map of
# `per_task` would show `interaction` on its diagonal, and zero wherever it falls back on text.)

# %%
maps = [("full", "train"), ("linear", "train"), ("interaction", "train"), ("linear", "test")]  # rule, scaling
reach = mean_carried.loc[mean_carried["rule"].isin(["linear", "interaction"]), "gain"].abs().max()
everything = mean_carried.set_index(["adjustment", "rule", "scaling"], drop=False).sort_index()
for name, suffix in {"unadjusted": "", "adjusted": "_adjusted"}.items():
    figure, axes = plt.subplots(2, 2, figsize=(7, 5.6))
    for ax, (rule, scaling) in zip(axes.flat, maps, strict=True):
        value = "auroc" if rule == "full" else "gain"
        charts.transfer_heat_map(ax, everything.loc[[(name, rule, scaling)]], value, reach=reach)
        ax.set_title(f"{rule}, features on the scale of the {scales[scaling]}")
    figure.suptitle(f"{name}, mean over models; {confidence_level:.0%} bootstrap by item, with refits")
    record.save_figure(figure, f"03_entropy_transfer{suffix}", profile)

# %% [markdown]
# What is left of the loss when that of dealt vision is taken away, in each ordered pair (bold).

# %%
figure, ax = plt.subplots(figsize=(7, 6.2))
pairs = (excess["train"].astype(str) + " to " + excess["test"]).replace("all to all", "mean of all pairs")
ends = excess[["excess", "excess_low", "excess_high"]].set_axis(["estimate", "ci_low", "ci_high"], axis=1)
rows = ends.assign(benchmark=pairs, model=excess["vision"])
label = "AUROC of the linear rule less that with dealt vision"
charts.forest(ax, rows, label=label, confidence=confidence_level, interval="bootstrap by item, with refits")
record.save_figure(figure, "03_entropy_excess", profile)

# %% [markdown]
# The numbers that the paper, the ledger and the pages name, by key: unadjusted ones. Whole tables lie beside them.

# %%
keys, ends = ["adjustment", "scope", "score", "benchmark", "model"], ["estimate", "ci_low", "ci_high"]
unadjusted = table[table["adjustment"] == "unadjusted"].dropna(subset=["estimate"])
single = unadjusted[unadjusted["score"].isin(["full", "answer"])]
pair = unadjusted.query("p.notna() and (scope != 'cell' or score == 'full - answer')")
numbers = {
    "n_responses": len(items),
    "judges_evidence": main == "evidence",
    "n_truncated": int(truncated.sum()),
    "n_unparsed": int(unparsed.sum()),
    "n_without_answer_span": int(no_answer.sum()),
    "auroc": record.nest(single[[*keys, *ends, "n_wrong", "n_items"]], keys),
    "difference": record.nest(pair[[*keys, *ends, "p", "n_rows", "n_items"]], keys),
    "agreement": record.nest(agreed.dropna(subset=["estimate"])[[*keys[1:], *ends, "n_wrong", "n_items"]], keys[1:]),
    "difference_holm": record.nest(pair.dropna(subset=["p_holm"])[[*keys, "p_holm"]], keys),
}

# %%
of = ["adjustment", "rule", "train", "test", "model"]
named = ["auroc", "refit_low", "refit_high", "gain", "refit_gain_low", "refit_gain_high", "n_test_items"]
elsewhere = "adjustment == 'unadjusted' and train != test"
kept = mean_carried.query(f"{elsewhere} and scaling == 'train' and rule in ['full', 'answer', 'linear']")
rescaled = mean_carried.query(f"{elsewhere} and scaling == 'test' and rule == 'linear'")
kept, rescaled = (rows.assign(model="all") for rows in (kept, rescaled))  # one model is its own mean
by_vision = excess.assign(vision=excess["vision"].str.partition(" (")[0].str.replace(" ", "_"))
beyond = by_vision[["vision", "train", "test", "excess", "excess_low", "excess_high", "n_test_items"]]
numbers |= {
    "transfer": record.nest(kept[[*of, *named]], of),
    "transfer_test_scaling": record.nest(rescaled[[*of, "gain", "gain_low", "gain_high"]], of),
    "excess": record.nest(beyond, ["vision", "train", "test"]),
}

# %%
if not numbers["agreement"].get("pooled"):  # nothing was asked again, or too few of it went wrong
    numbers["has_agreement"] = False
record.save_numbers("03_entropy", numbers, profile)

# %%
whole = {"aurocs": table, "transfer": carried, "shuffled_labels": shuffled, "excess": excess}
whole |= {"agreement": agreed} if len(agreed) else {}
for name, rows in whole.items():
    record.save_table("03_entropy", name, rows, profile)

# %% [markdown]
# What each value is a value of, so that two ways to one quantity can be compared.

# %%
of_all = {"rows": "test", "vision": "", "adjustment": ""}
by_cell = plain[(plain["scope"] == "cell") & plain["estimate"].notna()].reset_index().astype({"score": str})
wrong = by_cell.query("score == 'full'").assign(measure="error rate", method="counted by the AUROC table")
home = carried.query("adjustment == 'unadjusted' and scaling == 'train' and train == test")
home = home[(home["rule"] == "full") & home["model"].isin(manifest["models"])].rename(columns={"test": "benchmark"})
quantities = [
    wrong.assign(value=wrong["n_wrong"] / wrong["n_rows"]),
    by_cell.assign(measure="AUROC of " + by_cell["score"], method="AUROC table", value=by_cell["estimate"]),
    home.assign(measure="AUROC of full", method="rule carried home", value=home["auroc"]),
]
record.save_quantities("03_entropy", [part.assign(**of_all) for part in quantities], profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences below are computed. Three limits stand whatever they say. The answer span of a short answer is one or
# two tokens, and where the reasoning has settled it, its entropy is near zero: "better than the answer's entropy" is a
# low bar there, and the largest token entropy and the length are the opponents to read. Adjustment takes out what a
# line in the covariates explains, no more. A loss under transfer is vision's own only as far as dealt vision spares it.

# %%
for (pair, name), rows in differences.groupby(["score", "adjustment"], sort=False):
    print(describe_signs(f"{name}: {pair.replace(' - ', ' separates better than ')}", rows))
for (rule, name, scaling), rows in gains.query("train != test").groupby(["rule", "adjustment", "scaling"], sort=False):
    claim = f"{name}, on the scale of the {scales[scaling]}: {rule} ranks better than full between two benchmarks"
    ends = rows[["gain", "refit_gain_low", "refit_gain_high"]].set_axis(["estimate", "ci_low", "ci_high"], axis=1)
    print(describe_signs(claim, ends))
for name, rows in on_fit_scale.query("rule == 'full' and train != test").groupby("adjustment", sort=False):
    better = (rows["brier"] < rows["brier_constant"]).sum()
    print(f"{name}: carried over, full has a better Brier score than the constant in {better} of {len(rows)} pairs")

# %%
for name, rows in excess[excess["train"] != "all"].groupby("vision", sort=False):
    ends = rows[["excess", "excess_low", "excess_high"]].set_axis(["estimate", "ci_low", "ci_high"], axis=1)
    print(describe_signs(f"{name}, linear rule: it loses less, or gains more, than dealt vision", ends))

# %% [markdown]
# ## Appendix: other choices
#
# Further scores and differences, per cell.

# %%
figure, axes = plt.subplots(2, 3, figsize=(7, 8.2), sharey=True)
for ax, score in zip(axes.flat, ("max", "last_decile", "length", "vision", "full - max", "full - length"), strict=True):
    draw(ax, score)
figure.suptitle(note, fontsize=7)
record.save_figure(figure, "03_entropy_scores", profile)

# %% [markdown]
# The paper's entropy is said to be that of the 20 most probable tokens, renormalised; ours is exact. Does it matter?

# %%
supports = {"full": ("full_entropy_nats", -1.0), "top20": ("full_top20_entropy_nats", -1.0)}
exact = items.assign(full_entropy_nats=items["exact_full_entropy_nats"])
support_table = entropy.auroc_table(exact, supports, [("full", "top20")], **usable, resampling=light)
record.save_table("03_entropy", "support", support_table, profile)
support_table[support_table["scope"] != "cell"][[*scope[1:], "score", "estimate", "ci_low", "ci_high"]].round(4)

# %% [markdown]
# Does the difference hang on truncated responses?

# %%
duel = {name: entropy.SCORES[name] for name in ("full", "answer")}
truncation = entropy.auroc_table(items[~truncated], duel, [("full", "answer")], **usable, resampling=light)
truncation = truncation.query("score == 'full - answer'")
record.save_table("03_entropy", "truncation", truncation, profile)
truncation.pivot_table("estimate", "benchmark", "model").round(3)

# %% [markdown]
# Calibration: the probability of a correct answer by the rule `full`, fitted per model on the calibration items of the
# same benchmark, judged on test items. `estimate` is the Brier score of the constant accuracy less that of the rule. A
# calibration error depends on its bins and is never zero at a finite number of rows: `ece_calibrated` is what labels
# drawn from the probabilities themselves give.

# %%
predicted = for_both(transfer.predict_rows, fit_items, items)
calibrated = pd.concat(
    entropy.calibration_table(rows, reliability_bins, n_draws=shuffled_deals, resampling=full).assign(adjustment=name)
    for name, rows in predicted.groupby("adjustment", sort=False)
)
record.save_table("03_entropy", "calibration", calibrated, profile)
for name, rows in calibrated[calibrated["scope"] == "cell"].groupby("adjustment", sort=False):
    off = {rule: (rows[f"ece_{rule}"] > rows[f"ece_calibrated_high_{rule}"]).sum() for rule in entropy.BIN_RULES}
    said = ", ".join(f"{n} ({rule.replace('_', ' ')} bins)" for rule, n in off.items())
    print(f"{name}: in {(rows['ci_low'] > 0).sum()} of {len(rows)} cells the Brier score is surely below that of the")
    print(f"constant; the calibration error is beyond that of calibrated labels in {said}")

# %%
curves = pd.concat(
    entropy.reliability_curve(rows["probability"], rows["correct"], reliability_bins, rule, confidence_level)
    .assign(adjustment=name, model=model, benchmark=benchmark, bin_rule=rule)
    for rule in entropy.BIN_RULES
    for (name, model, benchmark), rows in predicted.groupby(["adjustment", *cell])
)  # fmt: skip
record.save_table("03_entropy", "reliability", curves, profile)

# %% [markdown]
# Does a probability keep its promise?

# %%
panels = [("unadjusted", "equal_width"), ("unadjusted", "equal_mass"), ("adjusted", "equal_mass")]
figure, axes = plt.subplots(3, len(benchmarks), figsize=(7, 7.4), sharex=True, sharey=True, squeeze=False)
for (name, rule), line in zip(panels, axes, strict=True):
    for benchmark, ax in zip(sorted(benchmarks), line, strict=True):
        chosen = curves.query("adjustment == @name and bin_rule == @rule and benchmark == @benchmark")
        charts.reliability_curve(ax, chosen, confidence=confidence_level, legend=ax is axes[0, 0])
        ax.set_title(f"{benchmark}\n{name}, {rule.replace('_', ' ')}")
        ax.label_outer()
record.save_figure(figure, "03_entropy_reliability", profile)
