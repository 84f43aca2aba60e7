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
# reasoning in all nine model x dataset cells. Attention mass on any fixed set of tokens falls as the context grows, so
# the question here has two parts: how far does the evidence mass fall, and how much of the fall remains beyond that
# dilution? In the testbed the chain of thought scripts much of the look (each step reads a named cell), so the recall
# steps, where the model may look again or copy its own text, are shown on their own.
#
# | | |
# |---|---|
# | inputs | the tables of the extraction, test split |
# | outputs | collapse curves by bin and by step, the collapse table with its controls, pictures of the look |
# | cost | one to two minutes |
#
# $$\text{collapse} = 1 - \frac{\sum_i m_i(\text{last bin})}{\sum_i m_i(\text{first bin})}$$
#
# with $m_i$ the mean attention mass of item $i$ on its evidence boxes, over the grounding layers: a ratio of means,
# with intervals from an item-clustered bootstrap. In the simulation study (`make simulate`) the symmetric bootstrap-t
# holds its level down to the smallest cells, where BCa and percentile intervals are too narrow; hence it leads here.

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
# ## 3 Setup

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd

from dontblink.extraction import examples
from dontblink.extraction.tables import bin_table
from dontblink.figures import plots
from dontblink.publish import record
from dontblink.schema import read_manifest, read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import collapse, deals

full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, interval)
light = replace(full, n_replicates=band_replicates)
band = replace(light, method="percentile")
primary = "grounding_layers"
net_of = ["evidence", "evidence_over_uniform", "evidence_over_control"]

# %% [markdown]
# ## 4 Load and check
#
# Test items only: the calibration items chose the grounding layers.

# %%
tables = read_tables(profile, ["items", "tokens", "token_masses", "steps"], split="test")
items, steps = tables["items"], tables["steps"]
manifest = read_manifest(profile)
cells = [(model, benchmark) for model in manifest["models"] for benchmark in manifest["benchmarks"]]
assert picture_model in manifest["models"], f"picture_model {picture_model}: expected one of {manifest['models']}"
binned = collapse.add_fraction(bin_table(tables["tokens"], tables["token_masses"], bins), items)
steps = collapse.add_fraction(steps, items)
primary_bins = binned[binned["head_set"] == primary]
pairs = collapse.pair_bins(binned)
n_left_out = len(items) - int((pairs["head_set"] == primary).sum())
print(f"{len(cells)} declared cells, {len(items)} responses; without a first or last bin: {n_left_out}")

# %% [markdown]
# ## 5 Compute
#
# Collapse per cell for the evidence and for what it must be held against: the whole image, a random box of equal area
# elsewhere in the same picture, the prompt's text, and a uniform look (the share of evidence tokens among all keys that
# a row sees). `evidence_over_uniform` is the collapse beyond dilution.

# %%
table = collapse.collapse_table(pairs, cells, resampling=full)
evidence = table[(table["head_set"] == primary) & (table["quantity"] == "evidence")]
evidence[
    ["model", "benchmark", "estimate", "ci_low", "ci_high", "rank_biserial", "p_holm", "n_items", "n_degenerate"]
].round(3)

# %% [markdown]
# The same, beyond each control.

# %%
net = table[(table["head_set"] == primary) & table["quantity"].str.startswith("evidence_over")]
net.pivot_table("estimate", ["model", "benchmark"], "quantity", observed=True).round(3)

# %% [markdown]
# Robustness: the single grounding head, the mean over all layers, and layer 0.

# %%
by_heads = table[table["quantity"] == "evidence"].pivot_table(
    "estimate", ["model", "benchmark"], "head_set", observed=True
)
by_heads.round(3)

# %% [markdown]
# Read against recall: within one chain, the evidence mass at the step that must look (`f5 is 3`) and at the step that
# restates the same thing later (`f5 was 3`). Training rewards the right word there whatever its source, the picture or
# the model's own text (which is never wrong in a gold chain, while the picture is noisy).

# %%
recall_pairs = collapse.pair_kinds(steps[steps["head_set"] == primary])
recall = collapse.collapse_table(recall_pairs, cells, quantities=net_of, resampling=full)
print(f"recall chains that restate nothing they read, left out: {recall_pairs.attrs['n_left_out']}")
recall_evidence = recall[recall["quantity"] == "evidence_over_uniform"]
recall_evidence[["model", "benchmark", "estimate", "ci_low", "ci_high", "p_holm", "n_items"]].round(3)

# %% [markdown]
# Raw and stratified: the kind of chain, the noise of the picture, the length of the chain, the side of the prior.

# %%
strata = pd.concat(
    collapse.collapse_by(pairs[pairs["head_set"] == primary], items, column, quantities=net_of, resampling=light)
    for column in ("chain_kind", "noise_level", "chain_length", "prior_side")
)
raw = strata[strata["quantity"] == "evidence"]
raw.pivot_table("estimate", ["benchmark", "column", "stratum"], "model", observed=True).round(3)

# %% [markdown]
# Box overlap of the step-averaged map of the grounding layers, by the kind of step: does the most attended token lie in
# the boxes, how well does the smallest set with half of the image mass match them, and is the map a score for them? The
# last column drops the attention sink among the image tokens.

# %%
overlap_columns = ["pointing_hit", "iou50", "map_auc", "sink_masked_evidence_mass", "evidence_mass"]
overlap = (
    steps[(steps["head_set"] == primary) & (steps["step_kind"] != "")]
    .groupby(["model", "benchmark", "step_kind"], observed=True)[overlap_columns]
    .mean()
    .reset_index()
)
overlap.round(3)

# %% [markdown]
# Truncated responses are kept and marked. Collapse without them, where there are any:

# %%
cut = items.loc[items["finish_reason"] == "length", ["model", "item_id"]].astype(str)
is_cut = pd.MultiIndex.from_frame(pairs[["model", "item_id"]]).isin(pd.MultiIndex.from_frame(cut))
whole = collapse.collapse_table(
    pairs[~is_cut & (pairs["head_set"] == primary)], cells, quantities=["evidence"], resampling=light
)
moved = whole["estimate"].to_numpy() - evidence["estimate"].to_numpy()
print(f"truncated responses: {len(cut)}; leaving them out moves the collapse by at most {abs(moved).max():.3f}")

# %% [markdown]
# Negative control: the lift of the evidence, and the lift after the boxes were dealt to other items of the cell.

# %%
shuffled = pd.DataFrame(
    {
        "model": m,
        "benchmark": b,
        **deals.shuffled_lift(*examples.mean_maps(profile, m, b), n_deals=shuffled_deals),
    }
    for m, b in cells
)
shuffled.round(3)

# %% [markdown]
# Cross-check: per-item log-ratios, by a paired t per cell and by a mixed model with a random intercept per item.

# %%
check = collapse.log_ratio_check(pairs, primary)
check.round(3)

# %% [markdown]
# ## 6 Figure
#
# The picture to look at first: a more sustained and a more collapsing item, taken at fixed quantiles of the per-item
# collapse among correct answers with at least the median mass at the start. "Sustained" is relative: see its collapse.

# %%
picked = examples.pick_by_collapse(pairs, items, picture_model, picture_benchmark, picture_quantiles)
for name, item_id, quantile in zip(("sustained", "collapsing"), picked, picture_quantiles, strict=True):
    figure = plt.figure(figsize=(7, 2.9))
    plots.evidence_strip(figure, **examples.load_strip(profile, picture_model, item_id))
    own = examples.item_collapse(pairs, picture_model, item_id)
    figure.suptitle(f"{item_id}, {picture_model}: its collapse is {own:.2f}, the {quantile:.0%} quantile of this cell")
    record.save_figure(figure, f"02_collapse_{name}", profile)

# %%
shown = ["evidence", "evidence_lift", "evidence_over_uniform", "visual"]
along = collapse.curves(primary_bins, quantities=shown, resampling=band)
figure = plots.curve_grid(along, shown, confidence=confidence_level)
record.save_figure(figure, "02_collapse", profile)

# %% [markdown]
# By step. Later steps exist in longer chains only, so a curve changes its items as it goes; `n_items` in the numbers
# says how many are left. Steps that fewer than twenty items reach are not drawn.

# %%
by_step = collapse.curves(steps[steps["head_set"] == primary], "step_index", quantities=shown, resampling=band)
figure = plots.curve_grid(by_step.dropna(subset=["ci_low"]), shown, position="step_index", confidence=confidence_level)
record.save_figure(figure, "02_collapse_steps", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
plots.collapse_forest(axes[0], table[table["head_set"] == primary], confidence=confidence_level)
plots.collapse_forest(
    axes[1], recall, quantity="evidence_over_uniform", controls=["evidence"], confidence=confidence_level
)
axes[0].set_title("first to last bin", pad=38)
axes[1].set_title("read steps to recall steps", pad=38)
record.save_figure(figure, "02_collapse_forest", profile)

# %% [markdown]
# ## 7 Record numbers

# %%
curves = {"bin": along, "step_index": by_step}
numbers = {
    "n_cells": len(cells),
    "n_without_both_bins": n_left_out,
    "n_truncated": len(cut),
    "collapse": record.nest(table, ["head_set", "quantity", "model", "benchmark"]),
    "recall": record.nest(recall, ["head_set", "quantity", "model", "benchmark"]),
    "strata": record.nest(strata.dropna(subset=["estimate"]), ["quantity", "column", "stratum", "model", "benchmark"]),
    "n_strata_too_small": int(strata["estimate"].isna().sum()),
    "overlap": record.nest(overlap, ["model", "benchmark", "step_kind"]),
    "shuffled_boxes": record.nest(shuffled, ["model", "benchmark"]),
    "log_ratio_check": record.nest(check, ["model", "benchmark"]),
    "pictures": dict(zip(("sustained", "collapsing"), picked, strict=True)),
}

# %%
for position, line in curves.items():
    rows = line.dropna(subset=["ci_low"]).drop(columns=["head_set"])
    numbers[f"curve_by_{position}"] = record.nest(rows, ["quantity", "model", "benchmark", position])
record.save_numbers("02_collapse", numbers, profile)

# %% [markdown]
# ## 8 Checks and reading
#
# The counts below are computed. A fall of the raw evidence mass is expected from dilution alone. A fall beyond the
# uniform look is more than dilution, but in chains that read first and work on text afterwards the script itself causes
# it: only the recall steps speak of a choice.

# %%
beyond = table[(table["head_set"] == primary) & (table["quantity"] == "evidence_over_uniform")]
print(collapse.describe_cells("evidence mass falls", evidence))
print(collapse.describe_cells("evidence mass falls beyond a uniform look", beyond))
print(
    collapse.describe_cells(
        "evidence mass at recall steps is below that at read steps, beyond a uniform look", recall_evidence
    )
)
assert shuffled["shuffled_lift"].between(0.9, 1.1).all(), "shuffled boxes should have a lift of 1"
