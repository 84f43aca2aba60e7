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
# # 06 Causes: does the model need the look, and what does a restated word come from?
#
# ## 1 Question
#
# Attention mass is a correlate. Here looks are taken away, replaced and kept up while the model writes. Four things are
# asked, each a family of its own (Holm over the cells):
#
# - **need**: are fewer answers right where the evidence is blocked than where an equal area elsewhere is?
# - **re-reading or copying**: where picture, own text and what earlier rows have seen disagree, which of them does a
#   restated word follow?
# - **preservation**: are more answers right where the attention to the evidence is kept up than where that to an equal
#   area elsewhere is raised as much?
# - **order** (C6): does the accuracy rise along the reasoning while grounding falls, as the paper says it can?
#
# $$\text{need} = P(\text{correct} \mid \text{control blocked}) - P(\text{correct} \mid \text{evidence blocked})$$
#
# The words (needs, ignores, re-reads, copies) are given by rules: `studies/causal.py` held them before any number.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
equivalence_margin = 0.02  # share of the answers that counts as none; controls have to stay within
rewritten_share = 0.5  # of the texts: a model that ignores what it reads rewrites more of them
bootstrap_replicates = 5000  # items drawn with replacement
order_deals = 1000  # permutations of the shares of the reasoning within items (negative control of C6)
confidence_level = 0.95  # of every interval; what is left of it is the level of Holm's p
bootstrap_seed = 606  # seed of the resampling and of the deals
min_items = 20  # a cell with fewer items is left out
min_usable = 100  # items with a usable restated word; a cell with fewer keeps its counts and gets no estimate

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the layers, and the strength of a raise. The tables are those of
# `make causal`. Where nobody ran it the cells about them (tagged `needs_effects`) are left out, and C6 is not judged.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# %%
from dontblink.figures import charts
from dontblink.params import read_section
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import causal

# %%
names = ["effects", "recalls", "forced", "head_losses", "strengths"]
effects, recalls, forced, heads, strengths = (causal.read_causal(profile, name) for name in names)
cell, has_effects = ["model", "benchmark"], len(effects) > 0
usable = recalls[recalls["is_usable"].astype(bool)]
has_recalls = usable.groupby(cell, observed=True)["item_id"].nunique().max() >= min_usable if len(usable) else False
if not has_effects:
    print(f"nobody has run the causal study of this profile: make causal PROFILE={profile}")
print(f"{len(effects)} responses under conditions, {len(forced)} forced answers")
print(f"{usable['item_id'].nunique()} items with a usable restated word; enough in a cell: {has_recalls}")

# %% [markdown]
# The tables take an hour to make and are tracked. Do they belong to the responses of this run? Each that was changed
# has to be as right, and as long, as it is here.

# %% tags=["needs_effects"]
response = [*cell, "item_id"]
now = read_tables(profile, ["items"], split="test")["items"][[*response, "correct", "n_response_tokens"]]
then = effects[effects["condition"] == "baseline"].astype(dict.fromkeys(response, "str"))
both = then.merge(now.astype(dict.fromkeys(response, "str")), on=response, how="left", suffixes=("", "_now"))
is_same = (both["correct"] == both["correct_now"]) & (both["n_response_tokens"] == both["n_response_tokens_now"])
print(f"{is_same.sum()} of {len(both)} changed responses are those of this run")
if not is_same.all():
    print(f"the tables belong to other responses: make causal PROFILE={profile}")
asked = now.groupby(cell, observed=True).head(read_section(profile, "interventions")["n_items"])
n_without = len(asked) - len(both)
print(f"{n_without} of {len(asked)} responses have no row: no reasoning, or no place of their image tokens is known")

# %% [markdown]
# ## 4 The estimator, in the open
#
# An item answers under both conditions, so only the discordant items speak: those that are right with the control
# blocked alone, less those that are right with the evidence blocked alone.


# %%
def need_from_start(rows):
    """Return the share of items lost by the evidence alone less that lost by the control alone, of one cell."""
    rows = rows[(rows["start_share"] == 0) & rows["condition"].isin(["control", "evidence"])]
    right = rows.pivot(index="item_id", columns="condition", values="correct").dropna().astype(bool)
    lost, gained = right["control"] & ~right["evidence"], right["evidence"] & ~right["control"]
    return (lost.sum() - gained.sum()) / len(right)


# %% [markdown]
# Of the usable restated words, those that turn into the altered one when the picture alone says it, less those that
# turn when the text alone does. An item weighs the same whatever the number of its words.


# %%
def picture_less_text(rows):
    """Return the mean over items of turned under P less turned under T, of one cell."""
    turned = rows.astype({"turned": float}).groupby(["condition", "item_id"], observed=True)["turned"].mean()
    return (turned["P"] - turned["T"]).mean()


# %% [markdown]
# Along the reasoning: the rise in accuracy of answers forced after a tenth and after all of it, and the fall of the
# evidence mass beyond a uniform look over the same range, a ratio of sums.


# %%
def rise_and_fall(rows):
    """Return the gain in accuracy and the fall of evidence mass / uniform look, first to last share, of one cell."""
    masses = ["evidence_mass", "uniform_evidence_share"]
    ends = [rows[np.isclose(rows["reasoning_share"], share)].set_index("item_id") for share in (0.1, 1.0)]
    both = pd.concat(dict(zip(["first", "last"], ends, strict=True)), axis=1, join="inner")
    both = both.dropna(subset=[(end, mass) for end in ("first", "last") for mass in masses])
    first, last = (both[end][["correct", *masses]].astype(float) for end in ("first", "last"))
    lift = [end[masses[0]].sum() / end[masses[1]].sum() for end in (first, last)]
    return last["correct"].mean() - first["correct"].mean(), 1 - lift[1] / lift[0]


# %% tags=["needs_effects"]
opened_need = {key: need_from_start(rows) for key, rows in effects.groupby(cell, observed=True)}
opened_source = {key: picture_less_text(rows) for key, rows in usable.groupby(cell, observed=True)}
opened_order = {key: rise_and_fall(rows) for key, rows in forced.groupby(cell, observed=True)}
pd.Series(opened_need, name="need from the start").round(3)

# %% [markdown]
# ## 5 Intervals
#
# Paired shares have Newcombe's interval and McNemar's exact test (where no pair is discordant, the bound of Clopper and
# Pearson), masses and redundancy a bootstrap by item.

# %% tags=["needs_effects"]
drawn = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, "bca")
by = {"min_items": min_items, "confidence": confidence_level}
need = causal.need_table(effects, **by)
sources = causal.source_table(recalls, min_usable=min_usable, confidence=confidence_level, resampling=drawn)
raised = causal.preservation_table(effects, resampling=drawn, **by)
order = causal.c6_table(forced, order_deals=order_deals, resampling=drawn, **by)
along = causal.accuracy_curve(forced, resampling=drawn, **by)
shown = ["estimate", "ci_low", "ci_high", "p_holm"]
need[[*cell, "start_share", *shown, "n_items", "n_first_only", "n_second_only"]].round(3)

# %% [markdown]
# The open lines are the tables' estimates.

# %% tags=["needs_effects"]
whole = sources[(sources["quantity"] == "picture less text") & (sources["word"] == "all")].dropna(subset=["estimate"])
for rows, opened in ((need[need["start_share"] == 0], opened_need), (whole, opened_source)):
    listed = rows.set_index(cell)["estimate"]
    assert np.allclose(listed, [opened[key] for key in listed.index], rtol=0, atol=1e-12)
if len(order):
    listed = order.set_index(cell)[["gain", "fall"]]
    assert np.allclose(listed, [opened_order[key] for key in listed.index], rtol=0, atol=1e-6)

# %% [markdown]
# Where restated words come from. `n_usable` of `n_items`: own reading right, restated in the same words.

# %% tags=["needs_effects"]
sources[sources["quantity"].isin(["picture less text", "redundancy"])].drop(columns=["condition", "p"]).round(3)

# %% [markdown]
# ## 6 What it is held against
#
# The accuracy under each condition less that of the stored responses. A control (nothing blocked, an equal area
# elsewhere, as many random image tokens) is flagged unless its interval lies within the margin; one flag takes every
# word of its cell. A blocked picture is unlike anything in training: the picture of another item is the other level of
# knowing nothing.

# %% tags=["needs_effects"]
controls = causal.control_table(effects, equivalence_margin=equivalence_margin, **by)
levels = controls.assign(condition=controls["condition"] + " from " + controls["start_share"].map("{:.0%}".format))
levels.pivot_table("estimate", "condition", cell, observed=True).round(3)

# %% tags=["needs_effects"]
own = controls[controls["condition"].isin(causal.CONTROLS)]
own[[*cell, "condition", "start_share", "estimate", "ci_low", "ci_high", "is_flagged"]].round(3)

# %% [markdown]
# The manipulation check of the raises: the mass that each aims at, as a ratio of sums to the stored response's. A raise
# that lifts no mass says nothing about the answers. The strength was chosen by this mass on calibration items.

# %% tags=["needs_effects"]
checks = raised[raised["quantity"] != "accuracy"] if len(raised) else raised
print(strengths[strengths["is_chosen"].astype(bool)].to_string(index=False))
checks[[*cell, "quantity", "condition", "estimate", "ci_low", "ci_high", "n_items"]].round(3) if len(checks) else checks

# %% [markdown]
# The order of the reasoning, held against shares that are dealt within items, and the form of the forced answers.

# %% tags=["needs_effects"]
order.round(4)

# %% [markdown]
# ## 7 Figure and numbers
#
# What turns a restated word, and what is left of it when sources are blocked. Where blocking one keeps the word and
# blocking both does not, the two back each other up, and a knockout of one understates its use.

# %% tags=["needs_effects"]
every, wilson = need.loc[need["start_share"] == 0, cell], "Wilson, by item"
rows = sources[sources["word"] == "all"].dropna(subset=["estimate"])
swapped, blocked = (dict(list(rows[rows["quantity"] == name].groupby("condition"))) for name in ("turned", "kept"))
panels = {
    "who turns the word": ("P", swapped, {"text alone": "T", "memory alone": "M"}, "words turned (%)"),
    "what is kept": ("block_both", blocked, {"cell blocked": "block_cell", "reading blocked": "block_read",
                     "image blocked": "block_image", "other cell blocked": "block_other_cell"}, "words kept (%)"),
}  # fmt: skip

# %%
if not has_effects:
    figure, ax = plt.subplots(figsize=(7, 0.6))
    ax.set_title("no response was changed in this profile").axes.set_axis_off()
    record.save_figure(figure, "06_causal", profile)

# %% tags=["needs_effects"]
figure, axes = plt.subplots(1, 2, figsize=(7, 3.9), sharey=True)
for ax, (title, (main, found, others, label)) in zip(axes, panels.items(), strict=True):
    ax.set_title(title, pad=58)
    marks = {words: found[name] for words, name in others.items() if name in found}
    said = {"P": "picture alone", "block_both": "cell and reading blocked"}[main]
    named = every.merge(found.get(main, rows.head(0)), how="left", on=cell).assign(quantity=said)
    charts.forest(ax, named, label=label, scale=100, controls=marks, confidence=confidence_level, interval=wilson)
record.save_figure(figure, "06_causal", profile)

# %% [markdown]
# The accuracy when looks are blocked from a share of the reasoning on. A cell whose control is outside is marked.

# %% tags=["needs_effects"]
drawn_conditions = {
    "evidence": "evidence blocked", "control": "equal area elsewhere", "random": "random image tokens",
    "image": "whole image", "other_picture": "another picture's keys",
}  # fmt: skip
ends = {"equivalence_margin": equivalence_margin, "confidence": confidence_level}
words = causal.find_words(
    need, controls, causal.effect_table(effects, min_items=min_items), sources, rewritten_share=rewritten_share, **ends
)
flagged = [tuple(key) for key in words.loc[words["is_flagged"], cell].to_numpy()]
there = {name: said for name, said in drawn_conditions.items() if (controls["condition"] == name).any()}
look = {"margin": equivalence_margin, "flagged": flagged, "confidence": confidence_level}
figure = charts.knockout_grid(controls, there, **look)
record.save_figure(figure, "06_causal_knockout", profile)

# %% [markdown]
# Accuracy of answers that are forced along the reasoning, above the evidence mass there.

# %% tags=["needs_effects"]
if len(along):
    kinds = [name for name in ("accuracy", "evidence", "evidence_over_uniform") if (along["quantity"] == name).any()]
    figure = charts.curve_grid(along, kinds, position="reasoning_share", confidence=confidence_level)
    record.save_figure(figure, "06_causal_order", profile)

# %% [markdown]
# What keeping the look up does to the accuracy (filled: evidence less control, hollow: own map less control), beside
# the manipulation check (filled: evidence mass under its raise; square: the control's under its own).

# %% tags=["needs_effects"]
if len(raised):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
    found = dict(list(raised.groupby(["quantity", "condition", "against"])))
    main, beside = (found["accuracy", f"raise_{name}", "raise_control"] for name in ("evidence", "own"))
    ways = {"confidence": confidence_level, "interval": "Newcombe, paired"}
    charts.forest(axes[0], main, label="accuracy gained (points)", scale=100, beside=beside, **ways)
    axes[0].set_title("less control raised\n(filled: evidence, hollow: own map)", fontsize="small")
    mass = found["evidence_mass", "raise_evidence", "baseline"].assign(quantity="evidence raised")
    others = {"control raised": found["control_box_mass", "raise_control", "baseline"]}
    label = "mass under the raise / without (ratio)"
    charts.forest(axes[1], mass, label=label, zero=1, controls=others, confidence=confidence_level)
    record.save_figure(figure, "06_causal_raised", profile)

# %% [markdown]
# Attention to the cell at the row that predicts a restated word, against how far the picture turns that word.

# %% tags=["needs_effects"]
seen = read_tables(profile, ["items"], split="test")["items"] if len(recalls) else None
use = causal.use_table(recalls, effects, seen, min_usable=min_usable, confidence=confidence_level)
if has_recalls:
    keys = [*cell, "item_id", "word"]
    wide = usable.astype(dict.fromkeys([*keys, "condition"], "str")).set_index([*keys, "condition"]).unstack()
    odds = wide["log_odds_nats"]
    pairs = pd.DataFrame({"attention": wide["cell_mass", "none"], "use": odds["P"] - odds["none"]}).reset_index()
    label = "log-odds turned (nats)"
    figure = charts.use_grid(pairs, use[use["use"] == "picture"], label=label, confidence=confidence_level)
    record.save_figure(figure, "06_causal_use", profile)

# %% [markdown]
# The numbers that the paper and the ledger name, by key. Whole tables lie beside them.

# %%
numbers, tables = {"has_effects": has_effects, "has_recalls": bool(has_recalls), "judges_order": False}, {}

# %% tags=["needs_effects"]
at = need.assign(start="from_" + (100 * need["start_share"]).round().astype(int).astype(str))
known = sources.dropna(subset=["estimate"]).replace({"condition": {"": "all"}})
numbers |= {
    "n_changed": len(both), "n_without_row": n_without, "n_other_responses": int((~is_same).sum()),
    "judges_order": len(order) > 0, "n_flagged": len(flagged), "n_cells": len(words),
    "need": record.nest(at.drop(columns="start_share"), ["start", *cell]),
    "words": record.nest(words, cell),
    "n_words": {name: int((words[["need_word", "source_word"]] == name).to_numpy().sum())
                for name in (causal.NEEDS, causal.IGNORES, causal.REREADS, causal.COPIES)},
    "sources": record.nest(known, ["word", "quantity", "condition", *cell], optional=["p", "p_holm"]),
    "use": record.nest(use, ["use", *cell]),
    "c6": record.nest(order, cell) if len(order) else {},
}  # fmt: skip

# %% tags=["needs_effects"]
if len(raised):
    keys = ["quantity", "condition", "against", *cell]
    plain = raised[[*keys, "estimate", "ci_low", "ci_high", "width", "n_items", "p", "p_holm"]]
    numbers["raised"] = record.nest(plain, keys, ["p", "p_holm"])
    against = raised[(raised["quantity"] == "accuracy") & (raised["against"] == "raise_control")]
    numbers["raised_n_gains"] = int(((against["ci_low"] > 0) & (against["p_holm"] < 1 - confidence_level)).sum())
    numbers["raised_n_losses"] = int(((against["ci_high"] < 0) & (against["p_holm"] < 1 - confidence_level)).sum())
    numbers |= {"raised_n": len(against), "raised_largest_width": float(against["width"].max())}
    numbers |= {"raised_lowest_mass_ratio": float(checks["estimate"].min())}
    numbers |= {"raised_highest_mass_ratio": float(checks["estimate"].max())}

# %% tags=["needs_effects"]
what = causal.effect_table(effects, min_items=min_items)
shares = causal.head_table(heads, min_items=min_items, resampling=drawn) if len(heads) else heads
tables = {"need": need, "controls": controls, "effects": what, "sources": sources, "raised": raised, "order": order,
          "along": along, "use": use, "heads": shares, "words": words}  # fmt: skip

# %%
record.save_numbers("06_causal", numbers, profile)
for name, rows in tables.items():
    if len(rows):
        record.save_table("06_causal", name, rows, profile)

# %% [markdown]
# ## 8 Reading
#
# The words are given by the rules. "Undecided" is no weak word for one of the others: it says that this study cannot
# tell. An empty word means that a control is not shown to stay within the margin, or that there were too few usable
# restated words.

# %% tags=["needs_effects"]
for name, n in numbers["n_words"].items():
    print(f"{name}: {n} of {len(words)} cells")
print(f"no word, because a control is not shown to stay within the margin: {len(flagged)}")
words

# %% tags=["needs_effects"]
if len(raised):
    n, gains, losses = (numbers[key] for key in ("raised_n", "raised_n_gains", "raised_n_losses"))
    print(f"keeping the look up gains beyond its control in {gains} of {n} comparisons and loses in {losses};")
    width = 100 * numbers["raised_largest_width"]
    print(f"the widest interval spans {width:.1f} points, and the raises lift their mass")
    low, high = (numbers[f"raised_{end}_mass_ratio"] for end in ("lowest", "highest"))
    print(f"by a factor of {low:.2f} to {high:.2f}")
if len(order):
    print(f"accuracy rises while grounding falls in {(order['joint_low'] > 0).sum()} of {len(order)} cells")

# %% [markdown]
# ## Appendix: other choices
#
# What becomes of the responses under every condition: total effects of the text that is written, and direct effects in
# the replay of the own response, whose chain still says what was read.

# %% tags=["needs_effects"]
what.set_index([*cell, "condition", "start_share"]).round(3)

# %% [markdown]
# By kind of word, and the rank correlations of attention and use.

# %% tags=["needs_effects"]
by_word = sources[(sources["word"] != "all") & (sources["quantity"] == "picture less text")]
by_word[[*cell, "word", "estimate", "ci_low", "ci_high", "n_usable", "n_items"]].round(3)

# %% tags=["needs_effects"]
use.round(3)

# %% [markdown]
# Heads: the share of the nats that all heads lose together when the evidence is blocked in the top heads alone, and in
# as many random ones of the same layers. Where single heads lose little of it, they back each other up.

# %% tags=["needs_effects"]
shares.round(3)
