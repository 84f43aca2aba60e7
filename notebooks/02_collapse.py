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
# would explode on small denominators. The fall of the attention to the whole image has the same estimator and needs no
# boxes; C1 is about the evidence, and needs them.

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
min_items = 20  # a cell with fewer items is left out and named; a smaller stratum gets no estimate
shuffled_deals = 1000  # permutations of the boxes between items (negative control)
picture_model = "qwen3vl-tiny-m"  # whose look is drawn
picture_benchmark = "visual_reference"  # from which question set
picture_quantiles = [0.1, 0.9]  # of the per-item collapse: the more sustained and the more collapsing item

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers. Evidence is estimated over the items whose boxes
# cover one image token or more (a map has one value a token: smaller boxes measure their surroundings, and are a
# stratum of their own in the appendix), the image over all items. Where no cell has enough such items, everything about
# boxes is left out (the cells tagged `needs_boxes`), and C1 is not judged.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# %%
from dontblink.extraction import examples, tables
from dontblink.figures import charts, picture
from dontblink.params import read_section
from dontblink.publish import evidence as recovered
from dontblink.publish import record
from dontblink.questions import registry
from dontblink.schema import iterate_parts, read_manifest, read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import collapse, deals
from dontblink.studies.cells import EVIDENCE, count_evidence, describe_signs, find_cells, of_items, size_evidence

# %%
manifest, primary = read_manifest(profile), "grounding_layers"
items = read_tables(profile, ["items"], split="test")["items"]
main_steps = read_tables(profile, ["steps"], split="test", head_set=primary)["steps"]
boxed, small = (items[size_evidence(items) == size] for size in EVIDENCE[:2])
everything = [(model, benchmark) for model in manifest["models"] for benchmark in manifest["benchmarks"]]
cells, of_image = ([c for c in everything if c in find_cells(own, bins, min_items)] for own in (boxed, items))
assert of_image, f"no cell has {min_items} responses with a reasoning of more than {bins / 2:g} tokens; lower bins"
assert picture_model in manifest["models"], f"picture_model {picture_model}: expected one of {manifest['models']}"
cell = ["model", "benchmark"]
response = [*cell, "item_id"]
truncated = items.loc[items["finish_reason"] == "length", response].astype(str)
has_boxes, n_unreasoned = bool(cells), int((items["n_reasoning_tokens"] == 0).sum())

# %%
print(f"{len(everything)} declared cells, {len(items)} responses, of them {len(truncated)} truncated")
print(f"{count_evidence(items)}; no bins, because they answer without any reasoning: {n_unreasoned}")
for name, kept in {"evidence": cells, "image": of_image}.items():
    for model, benchmark in [c for c in everything if c not in kept]:
        print(f"{name}: {model} x {benchmark} is left out, fewer than {min_items} items with it and both parts")
if not has_boxes:
    print("C1 needs evidence boxes: draw or recover some, or ask a benchmark that ships them; below: the whole image")

# %% [markdown]
# Tokens come in parts, some hundred responses at a time, read when they are needed: a study has too many for a memory.

# %%
regions = {"evidence": ["evidence_mass", "uniform_evidence_share"], "image": ["visual_mass", "uniform_visual_share"]}
seen = [*response, "token_index", "span", "context_length_tokens", *regions["evidence"], *regions["image"]]
parts = iterate_parts(profile, ["tokens", "token_masses"], seen, split="test", head_set=primary)

# %% [markdown]
# ## 4 The estimator, in the open
#
# The reasoning is cut into equal parts, and each response gets the mean mass of its first and of its last part, so that
# an item weighs the same whatever its length. A response without both parts has no collapse, one without evidence none
# of the evidence.


# %%
def mark_bins(tokens, n):
    """Return the reasoning tokens with their bin: token t of T (from 0) falls in bin floor(n (t + 1/2) / T)."""
    rows = tokens[tokens["span"] == "reasoning"]
    index = rows.groupby(response, observed=True)["token_index"]
    t, length = index.rank(method="first") - 1, index.transform("size")
    return rows.assign(bin=np.floor(n * (t + 0.5) / length).astype(int))


def mean_masses(rows, k):
    """Return each response's mean mass over its tokens in bin k, in single precision as the bins table holds it."""
    masses = rows[rows["bin"] == k].groupby(response, observed=True)[[*regions["evidence"], *regions["image"]]]
    return masses.mean().astype("float32")


# %%
def find_ends(tokens, token_masses):
    """Return the mean masses of each response in its first and in its last part."""
    looks = mark_bins(tokens, bins).merge(token_masses, on=[*response, "token_index"], validate="1:1")
    check_dilution(looks)
    return pd.concat({"first": mean_masses(looks, 0), "last": mean_masses(looks, bins - 1)}, axis=1, join="inner")


# %% [markdown]
# Dilution is what a look loses that is spread evenly over all keys which a token sees: its share on a region is the
# number of the region's tokens over the number of these keys. The number of its tokens must not change in a response.


# %%
def check_dilution(looks):
    """Stop where a uniform look is not the tokens of its region / keys seen."""
    for region, (_, uniform) in regions.items():
        tokens = looks[uniform] * looks["context_length_tokens"]  # none where the item has no boxes
        at_start = tokens.groupby([looks[key] for key in response], observed=True).transform("first")
        assert np.allclose(tokens, at_start, rtol=1e-5, equal_nan=True), f"{region}: not its tokens / keys seen"


# %%
ends = pd.concat(find_ends(*part.values()) for part in parts)
with_evidence = ends[ends.index.isin(boxed.set_index(response).index)]
n_left_out = len(boxed) - len(with_evidence)
print(f"{len(with_evidence)} responses with evidence and with both parts; left out: {n_left_out}")

# %% [markdown]
# The collapse of a cell, of a region and of the uniform look, and of the region beyond the uniform look.


# %%
def fall(rows, mass, uniform):
    """Return the collapse of a mass and of the uniform look, and that of the one held against the other."""
    sums = rows.astype(float).groupby(cell, observed=True).sum()
    kept = sums["last"] / sums["first"]  # the share of the mass that is left, a ratio of sums
    return 1 - kept[mass], 1 - kept[uniform], 1 - kept[mass] / kept[uniform]


names = ["evidence", "uniform", "evidence_over_uniform", "visual", "uniform_visual", "visual_over_uniform"]
falls = [*fall(with_evidence, *regions["evidence"]), *fall(ends, *regions["image"])]
opened = pd.DataFrame(dict(zip(names, falls, strict=True)))
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
options = {"min_items": min_items, "resampling": full}
image_pairs = collapse.pair_bins(binned, collapse.BOX_FREE)
image_table = collapse.collapse_table(image_pairs, of_image, **options)
image = image_table[image_table["head_set"] == primary]

# %% [markdown]
# The whole image, which needs no boxes, over all items. (Beside the evidence below it is over the items with evidence.)

# %%
shown = ["estimate", "ci_low", "ci_high", "rank_biserial", "p_holm", "n_items", "n_degenerate"]
image[["quantity", *cell, *shown]].round(3)

# %% tags=["needs_boxes"]
boxed = boxed[pd.MultiIndex.from_frame(boxed[cell].astype(str)).isin(cells)]  # of the cells that have enough
pairs = collapse.pair_bins(of_items(binned, boxed))
table = collapse.collapse_table(pairs, cells, **options)
main = table[table["head_set"] == primary]

# %% [markdown]
# The open lines are the table's estimates.

# %%
for quantity, by_cell in opened.items():
    rows = image if "visual" in quantity else main if has_boxes else image.head(0)
    listed = rows[rows["quantity"] == quantity].set_index(cell)["estimate"]
    assert np.allclose(listed, [by_cell[c] for c in listed.index], rtol=0, atol=1e-12), quantity

# %% tags=["needs_boxes"]
evidence = main[main["quantity"] == "evidence"]
evidence[[*cell, *shown]].round(3)

# %% [markdown]
# ## 6 What it is held against
#
# The collapse beyond each control: a uniform look (dilution), a random box of equal area elsewhere in the same picture,
# the whole image and the prompt's text. Held against $D$:
# $1 - (\sum m_{last} / \sum m_{first}) / (\sum D_{last} / \sum D_{first})$.

# %% tags=["needs_boxes"]
main[main["quantity"].str.startswith("evidence_over")].pivot_table("estimate", cell, "quantity").round(3)

# %% [markdown]
# Read against recall: within one chain, the evidence mass at the step that must look (`f5 is 3`) and at the step that
# restates the same thing later (`f5 was 3`). Training rewards the right word there whatever its source, the picture or
# the model's own text (which is never wrong in a gold chain, while the picture is noisy).

# %% tags=["needs_boxes"]
main_steps = collapse.add_fraction(of_items(main_steps, boxed), items)
recall_pairs = collapse.pair_kinds(main_steps)
net_of = ["evidence", "evidence_over_uniform", "evidence_over_control"]
sizes = recall_pairs.groupby(cell).size()
restated = [c for c in cells if sizes.get(c, 0) >= min_items]  # real chains have no read and recall steps
recall = collapse.collapse_table(recall_pairs, restated, quantities=net_of, **options) if restated else table.head(0)
recall_evidence = recall[recall["quantity"] == "evidence_over_uniform"]
print(f"recall chains that restate nothing they read, left out: {recall_pairs.attrs['n_left_out']}")
recall_evidence[[*cell, "estimate", "ci_low", "ci_high", "p_holm", "n_items"]].round(3)

# %% [markdown]
# Negative control: the lift of the evidence (its share of the image mass over its share of the image), and the lift
# after the boxes were dealt to other items of the cell whose pictures have the same grid, which has to be one where the
# boxes lie anywhere in a picture, as in the testbed. `n_alone` items have no such partner. In real pictures attention
# and boxes may share a favourite place, the middle say: what is left of the lift when it is divided is that place's.

# %% tags=["needs_boxes"]
own_ids = boxed.groupby(cell, observed=True)["item_id"].agg(lambda ids: {*ids.astype(str)})
maps = {c: examples.mean_maps(profile, *c, own_ids[c]) for c in cells}
dealt = [deals.shuffled_lift(maps[c], n_deals=shuffled_deals) for c in cells]
shuffled = pd.DataFrame([dict(zip(cell, c, strict=True)) | lift for c, lift in zip(cells, dealt, strict=True)])
noise = (shuffled["shuffled_high"] - shuffled["shuffled_low"]) / 4 / shuffled_deals**0.5  # of a mean over the deals
generated = ~shuffled["benchmark"].isin([*registry.REAL])
strayed = generated & ~((shuffled["shuffled_lift"] - 1).abs() < 0.1 + 4 * noise)
assert not strayed.any(), "shuffled boxes should have a lift of 1"
shuffled.round(3)

# %% [markdown]
# ## 7 Figure and numbers
#
# The fall of the attention to the whole image, with its controls.

# %%
label, falls = "collapse = 1 - last / first (share)", dict(list(image.groupby("quantity")))
figure, ax = plt.subplots(figsize=(7, 3.6))
controls = {"prompt text": falls["prompt"], "uniform look": falls["uniform_visual"]}
charts.forest(ax, falls["visual"], label=label, controls=controls, confidence=confidence_level)
record.save_figure(figure, "02_collapse_image", profile)

# %% [markdown]
# Collapse of the evidence with its controls, and what restating adds.

# %% tags=["needs_boxes"]
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
falls, recalled = (dict(list(part.groupby("quantity"))) for part in (main, recall))
controls = {words: falls[name] for name, words in charts.CONTROLS.items()}
charts.forest(axes[0], falls["evidence"], label=label, controls=controls, confidence=confidence_level)
axes[0].set_title("first to last bin", pad=38)
axes[1].set_title("read steps to recall steps", pad=38)
if restated:
    controls, rows = {"evidence": recalled["evidence"]}, recalled["evidence_over_uniform"]
    charts.forest(axes[1], rows, label=label, controls=controls, confidence=confidence_level)
record.save_figure(figure, "02_collapse_forest", profile)

# %% [markdown]
# The same along the whole reasoning.

# %%
drawn = ["evidence", "evidence_lift", "evidence_over_uniform"] if has_boxes else ["visual_over_uniform"]
drawn, own = [*drawn, "visual"], boxed if has_boxes else items
rows, by = of_items(binned[binned["head_set"] == primary], own), {"min_items": min_items, "resampling": band}
along = collapse.curves(rows, quantities=drawn, **by)
figure = charts.curve_grid(along, drawn, confidence=confidence_level)
record.save_figure(figure, "02_collapse", profile)

# %% [markdown]
# What it looks like: a more sustained and a more collapsing item, taken at fixed quantiles of the per-item collapse
# among correct answers with at least the median mass at the start. "Sustained" is relative: see its collapse.

# %% tags=["needs_boxes"]
picked = examples.pick_by_collapse(pairs, items, picture_model, picture_benchmark, picture_quantiles)
strips = examples.load_strips(profile, picture_model, picked)
names = ("sustained", "collapsing")
for name, item_id, quantile, strip in zip(names, picked, picture_quantiles, strips, strict=False):
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
numbers = {
    "n_cells": len(cells),
    "judges_evidence": has_boxes,
    "n_without_both_bins": n_left_out,
    "n_without_reasoning": n_unreasoned,
    "n_truncated": len(truncated),
    "image": record.nest(image[[*keys, *named]], keys),
}
whole = {"image": image_table, "curve_by_bin": along}

# %% tags=["needs_boxes"]
leading = main[main["quantity"].isin(["evidence", "evidence_over_uniform", "evidence_over_prompt", "control_box"])]
numbers |= {
    "collapse": record.nest(leading[[*keys, *named]], keys),
    "recall": record.nest(recall_evidence[[*keys, *named]], keys),
    "shuffled_boxes": record.nest(shuffled, cell, optional=["lift", *shuffled.filter(like="shuffled_"), "p"]),
    "pictures": dict(zip(names, picked, strict=False)),
}
whole |= {"cells": table} | ({"recall": recall} if len(recall) else {})  # only generated chains are known to recall

# %%
record.save_numbers("02_collapse", numbers, profile)
for name, rows in whole.items():
    record.save_table("02_collapse", name, rows, profile)

# %% [markdown]
# ## 8 Reading
#
# The counts below are computed. A fall of the raw evidence mass is expected from dilution alone. A fall beyond the
# uniform look is more than dilution, but in chains that read first and work on text afterwards the script itself causes
# it: only the recall steps speak of a choice.

# %%
beyond = image[image["quantity"] == "visual_over_uniform"]
claims = {
    "image mass falls": image[image["quantity"] == "visual"],
    "image mass falls beyond a uniform look": beyond,
    "image mass falls beyond the attention to the prompt's text": image[image["quantity"] == "visual_over_prompt"],
}
for claim, rows in claims.items():
    print(describe_signs(claim, rows, tested="rank_biserial"))
if not has_boxes:
    print("what falls of the evidence (C1): needs evidence boxes")

# %% tags=["needs_boxes"]
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
image_table[image_table["quantity"] == "visual"].pivot_table("estimate", cell, "head_set").round(3)

# %% tags=["needs_boxes"]
table[table["quantity"] == "evidence"].pivot_table("estimate", cell, "head_set").round(3)

# %% [markdown]
# Raw and stratified: the kind of chain, the noise of the picture, the length of the chain, the side of the prior.
# Strata that are too small have a count and no estimate. Items whose boxes cover less than one token are a stratum as
# well (column `evidence`), where there are any: the tables above are without them.

# %% tags=["needs_boxes"]
by = {"quantities": net_of, "min_items": min_items, "resampling": light}
strata = [
    collapse.collapse_by(pairs[pairs["head_set"] == primary], items, column, **by)
    for column in ("chain_kind", "noise_level", "chain_length", "prior_side")
]
tiny = collapse.pair_bins(of_items(binned[binned["head_set"] == primary], small))
if len(tiny):
    size = {"column": "evidence", "stratum": EVIDENCE[1]}
    below = collapse.collapse_by(tiny, small, "evidence_missing", **by).query("stratum == 'all'").assign(**size)
    strata.append(below)
strata = pd.concat(strata)
record.save_table("02_collapse", "strata", strata, profile)
raw = strata[strata["quantity"] == "evidence"]
raw.pivot_table("estimate", ["benchmark", "column", "stratum"], "model", observed=True).round(3)

# %% [markdown]
# By step. Later steps exist in longer chains only, so a curve changes its items as it goes; `n_items` in the table says
# how many are left. Steps that fewer than `min_items` items reach are not drawn.

# %% tags=["needs_boxes"]
by = {"min_items": min_items, "resampling": band}
by_step = collapse.curves(main_steps, "step_index", quantities=drawn, **by).dropna(subset=["ci_low"])
record.save_table("02_collapse", "curve_by_step", by_step, profile)
figure = charts.curve_grid(by_step, drawn, position="step_index", confidence=confidence_level)
record.save_figure(figure, "02_collapse_steps", profile)

# %% [markdown]
# Box overlap of the step-averaged map of the grounding layers, by the kind of step: does the most attended token lie in
# the boxes, how well does the smallest set with half of the image mass match them, and is the map a score for them? The
# sink-masked mass drops the attention sink among the image tokens.

# %% tags=["needs_boxes"]
measures = ["pointing_hit", "iou50", "map_auc", "sink_masked_evidence_mass", "evidence_mass"]
known = main_steps[main_steps["step_kind"] != ""]  # of generated chains
of_kind = (known if len(known) else main_steps.assign(step_kind="any")).groupby([*cell, "step_kind"], observed=True)
overlap = of_kind[measures].mean().reset_index()
record.save_table("02_collapse", "overlap", overlap, profile)
overlap.round(3)

# %% [markdown]
# Truncated responses are kept and marked. Collapse without them, where there are any:

# %% tags=["needs_boxes"]
is_cut = pd.MultiIndex.from_frame(pairs[response]).isin(pd.MultiIndex.from_frame(truncated))
rows = pairs[~is_cut & (pairs["head_set"] == primary)]
sizes = rows.groupby(cell).size()
enough = [c for c in cells if sizes.get(c, 0) >= min_items]
by = {"quantities": ["evidence"], "min_items": min_items, "resampling": light}
without = collapse.collapse_table(rows, enough, **by) if enough else evidence.head(0)
moved = without.set_index(cell)["estimate"].sub(evidence.set_index(cell)["estimate"]).dropna()
print(f"leaving the {len(truncated)} truncated responses out moves the collapse by at most {abs(moved).max():.3f},")
print(f"in {len(enough)} of {len(cells)} cells that have enough others")

# %% [markdown]
# Cross-check: per-item log-ratios, by a paired t per cell and by a mixed model with a random intercept per item.

# %% tags=["needs_boxes"]
check = collapse.log_ratio_check(pairs, primary)
record.save_table("02_collapse", "log_ratio", check, profile)
check.round(3)

# %% [markdown]
# Evidence without annotators. `make evidence` reads correct responses of other models by covering regions of the
# picture, and keeps the image tokens whose absence costs the response's own words. How far is a collapse over these
# from the true one? Its results are tracked and not made here. Beside them stands what a shortcut gives: the densest
# half of the studied model's OWN attention. Where that passes the rule as well, passing says nothing.

# %%
proposed = recovered.read_rows(profile)
if len(proposed):
    print(recovered.describe(proposed, read_section(profile, "occlusion")))
proposed[[c for c in recovered.SHOWN if c in proposed]].round(3)
