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
# # 02 Collapse: does attention to the evidence fall while the model reasons?
#
# ## 1 Question
#
# The paper reports (C1) that attention to the annotated evidence falls by 57 to 91 % from the start to the end of the
# reasoning in all nine model x dataset cells. Attention mass on any fixed set of tokens falls as the context grows. So
# the question has two parts: how far does the evidence mass fall, and how much of the fall remains beyond that
# dilution? In the testbed the chain of thought scripts much of the look (each step reads a named cell), so the recall
# steps, where the model may look again or copy its own text, are shown on their own.
#
# $$\text{collapse} = 1 - \frac{\sum_i m_i(\text{last bin})}{\sum_i m_i(\text{first bin})}$$
#
# with $m_i$ the mean attention mass of item $i$ on its evidence boxes (a token counts by the share that they cover),
# over all heads of the grounding layers (notebook 01, section 4). It is a ratio of sums: a mean of per-item ratios
# would explode on small denominators.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
bins = 10  # equal parts of the reasoning
bootstrap_replicates = 10000  # of the collapse table; item-clustered, stratified by cell
band_replicates = 2000  # of the bands of curves and of the strata
interval = "t"  # of the tables: t (symmetric bootstrap-t), bca or percentile
confidence_level = 0.95  # of every interval
bootstrap_seed = 404  # seed of the resampling
shuffled_deals = 1000  # permutations of the boxes between items (negative control)
picture_model = "qwen3vl-tiny-m"  # whose look is drawn
picture_benchmark = "visual_reference"  # from which question set
picture_quantiles = [0.1, 0.9]  # of the per-item collapse: the more sustained and the more collapsing item

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dontblink.extraction import examples, tables
from dontblink.figures import charts, picture
from dontblink.publish import record
from dontblink.schema import iterate_parts, read_manifest, read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import collapse, deals
from dontblink.studies.cells import describe_signs

# %%
manifest, primary = read_manifest(profile), "grounding_layers"
items = read_tables(profile, ["items"], split="test")["items"]
main_steps = read_tables(profile, ["steps"], split="test", head_set=primary)["steps"]
cells = [(model, benchmark) for model in manifest["models"] for benchmark in manifest["benchmarks"]]
assert picture_model in manifest["models"], f"picture_model {picture_model}: expected one of {manifest['models']}"
cell = ["model", "benchmark"]
response = [*cell, "item_id"]
truncated = items.loc[items["finish_reason"] == "length", response].astype(str)
print(f"{len(cells)} declared cells, {len(items)} responses, of them {len(truncated)} truncated")

# %% [markdown]
# Tokens come in parts, some hundred responses at a time, read when they are needed: a study has too many for a memory.

# %%
seen = [*response, "token_index", "span", "context_length_tokens", "uniform_evidence_share", "evidence_mass"]
parts = iterate_parts(profile, ["tokens", "token_masses"], seen, split="test", head_set=primary)

# %% [markdown]
# ## 4 The estimator, in the open
#
# The reasoning is cut into equal parts, and each response gets the mean mass of its first and of its last part, so that
# an item weighs the same whatever its length. A response without both parts, or without evidence, has no collapse.


# %%
def mark_bins(tokens, n):
    """Return the reasoning tokens with their bin: token t of T (from 0) falls in bin floor(n (t + 1/2) / T)."""
    rows = tokens[tokens["span"] == "reasoning"]
    index = rows.groupby(response, observed=True)["token_index"]
    t, length = index.rank(method="first") - 1, index.transform("size")
    return rows.assign(bin=np.floor(n * (t + 0.5) / length).astype(int))


def mean_masses(rows, k):
    """Return each response's mean mass over its tokens in bin k, in single precision as the bins table holds it."""
    masses = ["evidence_mass", "uniform_evidence_share"]
    return rows[rows["bin"] == k].groupby(response, observed=True)[masses].mean().astype("float32")


# %%
def find_ends(tokens, token_masses):
    """Return the mean masses of each response in its first and in its last part."""
    looks = mark_bins(tokens, bins).merge(token_masses, on=[*response, "token_index"], validate="1:1")
    looks = looks.dropna(subset=["uniform_evidence_share"])  # an item without boxes has no evidence mass
    check_dilution(looks)
    return pd.concat({"first": mean_masses(looks, 0), "last": mean_masses(looks, bins - 1)}, axis=1, join="inner")


# %% [markdown]
# Dilution is what a look loses that is spread evenly over all keys which a token sees: its share on the evidence is the
# number of evidence tokens over the number of these keys. That number of evidence tokens must not change in a response.


# %%
def check_dilution(looks):
    """Stop where the uniform look is not evidence tokens / keys seen."""
    evidence_tokens = looks["uniform_evidence_share"] * looks["context_length_tokens"]
    at_start = evidence_tokens.groupby([looks[key] for key in response], observed=True).transform("first")
    assert np.allclose(evidence_tokens, at_start, rtol=1e-5), "the uniform look is not evidence tokens / keys seen"


# %%
ends = pd.concat(find_ends(*part.values()) for part in parts)
ends = ends[ends["first", "uniform_evidence_share"] > 0]
n_left_out = len(items) - len(ends)
print(f"{len(ends)} responses with evidence and with both parts; left out: {n_left_out}")

# %% [markdown]
# The collapse of a cell, of the evidence and of the uniform look, and of the evidence beyond the uniform look.

# %%
sums = ends.astype(float).groupby(cell, observed=True).sum()
kept = sums["last"] / sums["first"]  # the share of the mass that is left, a ratio of sums
opened = pd.DataFrame(
    {
        "evidence": 1 - kept["evidence_mass"],
        "uniform": 1 - kept["uniform_evidence_share"],
        "evidence_over_uniform": 1 - kept["evidence_mass"] / kept["uniform_evidence_share"],
    }
)
opened.round(3)

# %% [markdown]
# ## 5 Intervals
#
# The library resamples items and repeats the lines above, for every head set and every mass. The symmetric bootstrap-t
# leads because it holds its level down to the smallest cells in the simulation study (`make simulate`), where BCa and
# percentile intervals are too narrow. The test is the signed rank of the two ends, item by item (of a
# mass held against another: of its share of both), adjusted by Holm over the cells; it is no test of the ratio of sums.

# %%
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, interval)
light = replace(full, n_replicates=band_replicates)
band = replace(light, method="percentile")
binned = collapse.add_fraction(tables.read_bins(profile, bins, split="test"), items)
pairs = collapse.pair_bins(binned)
table = collapse.collapse_table(pairs, cells, resampling=full)

# %% [markdown]
# The open lines are the table's estimates.

# %%
main = table[table["head_set"] == primary]
for quantity, by_cell in opened.items():
    listed = main[main["quantity"] == quantity].set_index(cell)["estimate"]
    assert np.allclose(listed, [by_cell[c] for c in listed.index], rtol=0, atol=1e-12), quantity

# %%
evidence = main[main["quantity"] == "evidence"]
shown = ["estimate", "ci_low", "ci_high", "rank_biserial", "p_holm", "n_items", "n_degenerate"]
evidence[[*cell, *shown]].round(3)

# %% [markdown]
# ## 6 What it is held against
#
# The collapse beyond each control: a uniform look (dilution), a random box of equal area elsewhere in the same picture,
# the whole image and the prompt's text. Held against $D$:
# $1 - (\sum m_{last} / \sum m_{first}) / (\sum D_{last} / \sum D_{first})$.

# %%
main[main["quantity"].str.startswith("evidence_over")].pivot_table("estimate", cell, "quantity").round(3)

# %% [markdown]
# Read against recall: within one chain, the evidence mass at the step that must look (`f5 is 3`) and at the step that
# restates the same thing later (`f5 was 3`). Training rewards the right word there whatever its source, the picture or
# the model's own text (which is never wrong in a gold chain, while the picture is noisy).

# %%
main_steps = collapse.add_fraction(main_steps, items)
recall_pairs = collapse.pair_kinds(main_steps)
net_of = ["evidence", "evidence_over_uniform", "evidence_over_control"]
recall = collapse.collapse_table(recall_pairs, cells, quantities=net_of, resampling=full)
recall_evidence = recall[recall["quantity"] == "evidence_over_uniform"]
print(f"recall chains that restate nothing they read, left out: {recall_pairs.attrs['n_left_out']}")
recall_evidence[[*cell, "estimate", "ci_low", "ci_high", "p_holm", "n_items"]].round(3)

# %% [markdown]
# Negative control: the lift of the evidence (its share of the image mass over its share of the image), and the lift
# after the boxes were dealt to other items of the cell, which has to be one.

# %%
maps = {c: examples.mean_maps(profile, *c) for c in cells}
dealt = [deals.shuffled_lift(*maps[c], n_deals=shuffled_deals) for c in cells]
shuffled = pd.DataFrame([dict(zip(cell, c, strict=True)) | lift for c, lift in zip(cells, dealt, strict=True)])
noise = (shuffled["shuffled_high"] - shuffled["shuffled_low"]) / 4 / shuffled_deals**0.5  # of a mean over the deals
assert ((shuffled["shuffled_lift"] - 1).abs() < 0.1 + 4 * noise).all(), "shuffled boxes should have a lift of 1"
shuffled.round(3)

# %% [markdown]
# ## 7 Figure and numbers
#
# Collapse with its controls, and what restating adds.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
label = "collapse = 1 - last / first (share)"
falls, recalled = (dict(list(part.groupby("quantity"))) for part in (main, recall))
controls = {words: falls[name] for name, words in charts.CONTROLS.items()}
charts.forest(axes[0], falls["evidence"], label=label, controls=controls, confidence=confidence_level)
controls = {"evidence": recalled["evidence"]}
charts.forest(axes[1], recalled["evidence_over_uniform"], label=label, controls=controls, confidence=confidence_level)
axes[0].set_title("first to last bin", pad=38)
axes[1].set_title("read steps to recall steps", pad=38)
record.save_figure(figure, "02_collapse_forest", profile)

# %% [markdown]
# The same along the whole reasoning.

# %%
drawn = ["evidence", "evidence_lift", "evidence_over_uniform", "visual"]
along = collapse.curves(binned[binned["head_set"] == primary], quantities=drawn, resampling=band)
figure = charts.curve_grid(along, drawn, confidence=confidence_level)
record.save_figure(figure, "02_collapse", profile)

# %% [markdown]
# What it looks like: a more sustained and a more collapsing item, taken at fixed quantiles of the per-item collapse
# among correct answers with at least the median mass at the start. "Sustained" is relative: see its collapse.

# %%
picked = examples.pick_by_collapse(pairs, items, picture_model, picture_benchmark, picture_quantiles)
strips = examples.load_strips(profile, picture_model, picked)
names = ("sustained", "collapsing")
for name, item_id, quantile, strip in zip(names, picked, picture_quantiles, strips, strict=True):
    figure = plt.figure(figsize=(7, 2.9))
    picture.evidence_strip(figure, **strip)
    own = examples.item_collapse(pairs, picture_model, item_id)
    place = f"the {quantile:.0%} quantile of the correct answers"
    figure.suptitle(f"{item_id}, {picture_model}: its collapse is {own:.2f}, {place}")
    record.save_figure(figure, f"02_collapse_{name}", profile)

# %% [markdown]
# The numbers that the paper, the ledger and the pages name, by key. Whole tables lie beside them.

# %%
keys, named = ["head_set", "quantity", *cell], ["estimate", "ci_low", "ci_high", "p", "p_holm", "n_items"]
leading = main[main["quantity"].isin(["evidence", "evidence_over_uniform", "evidence_over_prompt", "control_box"])]
numbers = {
    "n_cells": len(cells),
    "n_without_both_bins": n_left_out,
    "n_truncated": len(truncated),
    "collapse": record.nest(leading[[*keys, *named]], keys),
    "recall": record.nest(recall_evidence[[*keys, *named]], keys),
    "shuffled_boxes": record.nest(shuffled, cell),
    "pictures": dict(zip(names, picked, strict=True)),
}
record.save_numbers("02_collapse", numbers, profile)
for name, whole in {"cells": table, "recall": recall, "curve_by_bin": along}.items():
    record.save_table("02_collapse", name, whole, profile)

# %% [markdown]
# ## 8 Reading
#
# The counts below are computed. A fall of the raw evidence mass is expected from dilution alone. A fall beyond the
# uniform look is more than dilution, but in chains that read first and work on text afterwards the script itself causes
# it: only the recall steps speak of a choice.

# %%
beyond = main[main["quantity"] == "evidence_over_uniform"]
claims = {
    "evidence mass falls": evidence,
    "evidence mass falls beyond a uniform look": beyond,
    "evidence mass falls beyond the attention to the prompt's text": main[main["quantity"] == "evidence_over_prompt"],
    "evidence mass at recall steps is below that at read steps, beyond a uniform look": recall_evidence,
}
for claim, rows in claims.items():
    print(describe_signs(claim, rows, tested="rank_biserial"))

# %% [markdown]
# ## Appendix: other choices
#
# Other heads: the grounding heads, the mean over all layers, and layer 0.

# %%
table[table["quantity"] == "evidence"].pivot_table("estimate", cell, "head_set").round(3)

# %% [markdown]
# Raw and stratified: the kind of chain, the noise of the picture, the length of the chain, the side of the prior.
# Strata that are too small have a count and no estimate.

# %%
strata = pd.concat(
    collapse.collapse_by(pairs[pairs["head_set"] == primary], items, column, quantities=net_of, resampling=light)
    for column in ("chain_kind", "noise_level", "chain_length", "prior_side")
)
record.save_table("02_collapse", "strata", strata, profile)
raw = strata[strata["quantity"] == "evidence"]
raw.pivot_table("estimate", ["benchmark", "column", "stratum"], "model", observed=True).round(3)

# %% [markdown]
# By step. Later steps exist in longer chains only, so a curve changes its items as it goes; `n_items` in the table says
# how many are left. Steps that fewer than twenty items reach are not drawn.

# %%
by_step = collapse.curves(main_steps, "step_index", quantities=drawn, resampling=band).dropna(subset=["ci_low"])
record.save_table("02_collapse", "curve_by_step", by_step, profile)
figure = charts.curve_grid(by_step, drawn, position="step_index", confidence=confidence_level)
record.save_figure(figure, "02_collapse_steps", profile)

# %% [markdown]
# Box overlap of the step-averaged map of the grounding layers, by the kind of step: does the most attended token lie in
# the boxes, how well does the smallest set with half of the image mass match them, and is the map a score for them? The
# sink-masked mass drops the attention sink among the image tokens.

# %%
measures = ["pointing_hit", "iou50", "map_auc", "sink_masked_evidence_mass", "evidence_mass"]
of_kind = main_steps[main_steps["step_kind"] != ""].groupby([*cell, "step_kind"], observed=True)
overlap = of_kind[measures].mean().reset_index()
record.save_table("02_collapse", "overlap", overlap, profile)
overlap.round(3)

# %% [markdown]
# Truncated responses are kept and marked. Collapse without them, where there are any:

# %%
is_cut = pd.MultiIndex.from_frame(pairs[response]).isin(pd.MultiIndex.from_frame(truncated))
whole = pairs[~is_cut & (pairs["head_set"] == primary)]
without = collapse.collapse_table(whole, cells, quantities=["evidence"], resampling=light)
moved = without["estimate"].to_numpy() - evidence["estimate"].to_numpy()
print(f"leaving the {len(truncated)} truncated responses out moves the collapse by at most {abs(moved).max():.3f}")

# %% [markdown]
# Cross-check: per-item log-ratios, by a paired t per cell and by a mixed model with a random intercept per item.

# %%
check = collapse.log_ratio_check(pairs, primary)
record.save_table("02_collapse", "log_ratio", check, profile)
check.round(3)
