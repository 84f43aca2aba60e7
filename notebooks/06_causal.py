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
# # 06 Causal: what happens when the look is taken away, swapped, or kept?
#
# ## 1 Question
#
# Attention mass is a correlate: that intervention studies are wanted is the first limit that the paper names. Here the
# look at the picture is changed inside the model, before the softmax, for the rows of the response from some share of
# its own reasoning on. Four questions, each with its control:
#
# - **Need.** Is the answer lost when the evidence is hidden, and not when an equal area elsewhere is?
#   $$\text{need} = P(\text{correct} \mid \text{control hidden}) - P(\text{correct} \mid \text{evidence hidden})$$
# - **Source.** A restated word may come from the picture or from the model's own text. Both are made to disagree: does
#   the word turn when only the picture says another one, or when only the own text does? Hiding alone cannot tell: what
#   has a backup survives it.
# - **Preservation.** Does keeping the look at the evidence up help? The bias is set on calibration items so that the
#   mass rises by half, never by what it does to the answers.
# - **C6.** Does reasoning raise the accuracy while grounding falls? Answers are forced along the own reasoning.
#
# The effect on what is written (total) is not the effect on the own text (direct): the picture acts through the chain.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
equivalence_margin = 0.02  # share of the answers that counts as none; controls have to stay within
rewritten_share = 0.5  # a model that reads and ignores rewrites more of its texts than this
least_parsed = 0.8  # of the answers forced after a tenth of the reasoning; fewer: off the format, no reading of C6
order_deals = 1000  # permutations of the shares of the reasoning within items (null of C6)
bootstrap_replicates = 5000  # item-clustered
confidence_level = 0.95  # of every interval
bootstrap_seed = 606  # seed of the resampling and of the deals
min_items = 20  # a smaller cell gets no estimate
min_usable = 100  # restated words of a cell; fewer: no estimate of where they come from

# %% [markdown]
# ## 3 Data
#
# `make causal` runs every condition and takes an hour, so its tables are tracked; here they are read and held against
# the responses of this run. The words and rules below were committed before them (`studies/causal.py`). Where nobody
# ran it, the cells tagged `needs_effects` are left out, and C6 is not judged.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# %%
from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import causal

# %%
cell = ["model", "benchmark"]
items = read_tables(profile, ["items"], split="test")["items"]
effects, recalls, forced = (causal.read_causal(profile, name) for name in ("effects", "recalls", "forced"))
has_effects = bool(len(effects))
numbers = {"has_effects": has_effects, "n_responses": len(items)}
print(f"{len(items)} responses; rows: {len(effects)} changed, {len(recalls)} of restated words, {len(forced)} forced")

# %% [markdown]
# The tracked effects are of these very responses: each is as right, and as long, as the one of this run.

# %% tags=["needs_effects"]
keys = [*cell, "item_id"]
own = items[[*keys, "correct", "n_response_tokens"]].astype(dict.fromkeys(keys, "str"))
baseline = effects[effects["condition"] == "baseline"].merge(own, on=keys, suffixes=("", "_now"), how="left")
differs = (baseline["correct"] != baseline["correct_now"]) | (
    baseline["n_response_tokens"] != baseline["n_response_tokens_now"]
)
numbers |= {"n_changed": len(baseline), "n_other_responses": int(differs.sum())}
print(f"{len(baseline)} responses were changed; {differs.sum()} of them are not those of this run")
if differs.any():
    print("the effects belong to other responses: run `make causal`")

# %% [markdown]
# ## 4 The estimator, in the open
#
# Of each item the answer under both conditions; the need is the difference of two shares of the same items.


# %% tags=["needs_effects"]
def need(rows, start):
    """Return accuracy with the control region hidden less accuracy with the evidence hidden, per cell."""
    at = rows[np.isclose(rows["start_share"], start) & rows["condition"].isin(["control", "evidence"])]
    pairs = at.pivot(index=[*cell, "item_id"], columns="condition", values="correct").dropna().astype(float)
    return (pairs["control"] - pairs["evidence"]).groupby(level=cell).mean()


# %% [markdown]
# Where a restated word comes from: the share of words that turn into the altered one where the picture alone says it
# (P: the rows from the restatement on see it), less the share where the own text alone does (T: its reading is edited).


# %% tags=["needs_recalls"]
def source(rows):
    """Return the share of restated words that turn by the picture alone less by the own text alone, per cell."""
    turned = rows[rows["is_usable"]].pivot(index=[*cell, "item_id", "word"], columns="condition", values="turned")
    return (turned["P"].astype(float) - turned["T"].astype(float)).groupby(level=cell).mean()


# %% tags=["needs_effects"]
starts = sorted(set(effects.loc[effects["condition"] == "evidence", "start_share"]))
opened = pd.DataFrame({f"from {100 * start:.0f} %": need(effects, start) for start in starts})
opened.round(3)

# %% tags=["needs_recalls"]
opened_source = source(recalls)
opened_source.round(3)

# %% [markdown]
# ## 5 Intervals
#
# Exact McNemar on the discordant items, Holm over the cells within a share of the reasoning; the interval of the
# difference squares and adds Wilson's (Newcombe), and is exact where no item is discordant. Sources, masses and falls
# are resampled by item (bootstrap-t).

# %% tags=["needs_effects"]
how = {"confidence": confidence_level, "min_items": min_items}
resampling = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, "t")
needs = causal.need_table(effects, **how)
for start in starts:
    listed = needs[np.isclose(needs["start_share"], start)].set_index(cell)["estimate"]
    assert np.allclose(listed, opened.loc[listed.index, f"from {100 * start:.0f} %"], rtol=0, atol=1e-12)
needs[needs["start_share"].isin([0, 0.5, 1])].drop(columns=["condition", "less", "p"]).round(3)

# %% tags=["needs_recalls"]
sources = causal.source_table(recalls, min_usable=min_usable, confidence=confidence_level, resampling=resampling)
whole = sources[sources["word"] == "all"].set_index(cell)
estimated = whole["estimate"].dropna()
assert np.allclose(estimated, opened_source[estimated.index], rtol=0, atol=1e-12)
sources[[*cell, "word", "n_words", "n_items", "n_asked", "turned_P", "turned_T", "turned_M", "turned_TMP"]].round(2)

# %% [markdown]
# What becomes of the responses under every condition: total effect (accuracy, texts rewritten) and direct effect (nats
# that the own response loses under the same condition).

# %% tags=["needs_effects"]
changed = causal.effect_table(effects, confidence_level)
record.save_table("06_causal", "effects", changed, profile)
shown = ["n_items", "accuracy", "rewritten", "no_parse", "answer_lost_nats", "reasoning_lost_nats"]
changed[changed["start_share"].isin([0, 0.5, 1])].pivot_table(shown, ["condition", "start_share"], "benchmark").round(2)

# %% [markdown]
# ## 6 What it is held against
#
# Every control has to leave the accuracy within the margin, with its whole interval; a cell whose control region does
# not at the start is flagged and gets no word. `empty` runs the machinery and changes nothing.

# %% tags=["needs_effects"]
controls = causal.control_table(effects, equivalence_margin, **how)
record.save_table("06_causal", "controls", controls, profile)
print(f"{controls['is_flagged'].sum()} of {len(controls)} controls are not shown to stay within {equivalence_margin:g}")
controls.groupby(["condition", "start_share"])[["ci_low", "ci_high"]].agg({"ci_low": "min", "ci_high": "max"}).round(3)

# %% [markdown]
# Another item's picture is the level of the prior; a picture that is only hidden is off every distribution that the
# model knows, so the two may differ.

# %% tags=["needs_effects"]
prior = changed[changed["condition"].isin(["baseline", "image", "other_picture", "other_prompt"])]
prior[prior["start_share"] == 0].pivot_table("accuracy", cell, "condition").round(3)

# %% [markdown]
# The words, by rule. *needs*: the need from the start on is above zero, Holm included. *ignores*: with the evidence
# hidden most texts change, and the accuracy does not, within the margin. *re-reads* and *copies*: restated words turn
# more by the picture alone than by the own text alone, or less. Anything else is undecided.

# %% tags=["needs_effects"]
rule = {"equivalence_margin": equivalence_margin, "rewritten_share": rewritten_share}
known = sources if len(recalls) else recalls
words = causal.find_words(effects, needs, controls, known, rule, confidence_level)
words.round(3)

# %% [markdown]
# ## 7 Figure and numbers
#
# What there is to lose: the accuracy of the unchanged responses.

# %%
figure, ax = plt.subplots(figsize=(7, 2.6))
charts.accuracy_panel(ax, items, confidence_level)
record.save_figure(figure, "06_causal", profile)

# %% [markdown]
# Where a restated word comes from: who turns it, and what is left of it where something is hidden.

# %% tags=["needs_recalls"]
drawn = sources[(sources["word"] == "all") & sources["estimate"].notna()].assign(quantity="picture less own text")
figure, axes = plt.subplots(1, 2, figsize=(7, 4.2), sharey=True)
turns = {f"{words} alone": drawn.assign(estimate=drawn[f"turned_{name}"]) for name, words in charts.SOURCES.items()}
charts.forest(axes[0], drawn, label="restated words that turn (share)", controls=turns, confidence=confidence_level)
left = drawn.assign(quantity="one for the other", **{f"{e}": drawn[f"redundancy{s}"] for e, s in charts.SPARE.items()})
keeps = {words: left.assign(estimate=left[f"kept_{name}"]) for name, words in charts.HIDDEN.items()}
charts.forest(axes[1], left, label="words that stay (share)", controls=keeps, confidence=confidence_level)
record.save_figure(figure, "06_causal_sources", profile)

# %% [markdown]
# The accuracy where the look is changed, against the share of the reasoning that was left as it was.

# %% tags=["needs_effects"]
flagged = {tuple(row) for row in words.loc[words["is_flagged"], cell].to_numpy()}
figure = charts.knockout_grid(changed, flagged, confidence=confidence_level)
record.save_figure(figure, "06_causal_knockout", profile)

# %% [markdown]
# Attention against use, word by word: does a restated word whose row looks more at its cell turn more with the picture?

# %% tags=["needs_recalls"]
uses = causal.use_table(recalls, confidence_level)
rows = recalls[recalls["is_usable"] & (recalls["condition"] == "P")]
benchmarks = sorted(rows["benchmark"].unique())
figure, axes = plt.subplots(1, len(benchmarks), figsize=(7, 2.9), sharey=True, squeeze=False)
for ax, benchmark in zip(axes[0], benchmarks, strict=True):
    turned = uses[(uses["use"] == "turned") & (uses["benchmark"] == benchmark)]
    charts.use_panel(ax, rows[rows["benchmark"] == benchmark], turned)
    ax.set_title(benchmark.replace("_", " "))
    ax.label_outer()
record.save_figure(figure, "06_causal_use", profile)

# %% [markdown]
# Preservation: the evidence raised less the control region raised, and the same for the own map, which needs no boxes.

# %% tags=["needs_effects"]
preserved = causal.preservation_table(effects, **how)
masses = causal.mass_table(effects, resampling)
if len(preserved):
    both = {name: part for name, part in preserved[preserved["less"] == "raise_control"].groupby("condition")}
    figure, ax = plt.subplots(figsize=(7, 3.4))
    raised = both["raise_evidence"].assign(quantity="evidence raised")
    label = "accuracy, less that with the control region raised (points)"
    own = {"own map raised": both["raise_own"]}
    charts.forest(ax, raised, label=label, scale=100, controls=own, confidence=confidence_level, interval="Newcombe")
    record.save_figure(figure, "06_causal_preservation", profile)

# %% [markdown]
# C6: the accuracy of forced answers and the attention to the evidence along the reasoning.

# %% tags=["needs_effects"]
curve = causal.accuracy_curve(forced, confidence_level)
how = {"least_parsed": least_parsed, "n_deals": order_deals, "min_items": min_items, "resampling": resampling}
grounding = causal.grounding_table(forced, **how)
record.save_table("06_causal", "forced", curve, profile)
figure = charts.grounding_grid(curve, confidence=confidence_level)
record.save_figure(figure, "06_causal_grounding", profile)
grounding.round(3)

# %% [markdown]
# The numbers of paper and ledger.

# %% tags=["needs_effects"]
ends = ["estimate", "ci_low", "ci_high"]
named = {"start_share": lambda rows: [f"from_{100 * share:.0f}" for share in rows["start_share"]]}
own = needs.assign(**named)[["start_share", *cell, *ends, "n_items", "p_holm"]]
numbers["need"] = record.nest(own, ["start_share", *cell])
own = controls.assign(**named)[["condition", "start_share", *cell, *ends, "is_flagged"]]
numbers["controls"] = record.nest(own, ["condition", "start_share", *cell])
numbers |= {"n_controls": len(controls), "n_controls_flagged": int(controls["is_flagged"].sum())}
numbers["words"] = record.nest(words, cell)
numbers["grounding"] = record.nest(grounding, cell)
own = preserved[["condition", "less", *cell, *ends, "half_width", "p_holm"]]
numbers["preservation"] = record.nest(own, ["condition", "less", *cell])
numbers["masses"] = record.nest(masses[["condition", *cell, *ends]], ["condition", *cell]) if len(masses) else {}
record.save_table("06_causal", "needs", needs, profile)

# %% tags=["needs_effects"]
found = [word for column in ("need", "recall") for word in words[column] if word != "undecided"]
numbers["n_words"] = {word: found.count(word) for word in ("needs", "ignores", "re-reads", "copies")}
at_answer = needs[(needs["start_share"] == 1) & (needs["ci_low"] > 0)]
numbers |= {"n_cells": len(words), "n_needed_at_answer": len(at_answer), "raised": {}, "sources": {}}
for condition in ("raise_evidence", "raise_own") if len(preserved) else ():
    rows = preserved[(preserved["condition"] == condition) & (preserved["less"] == "raise_control")]
    own = masses.loc[masses["condition"] == condition, "estimate"]
    numbers["raised"][condition] = {
        "n_gains": int((rows["ci_low"] > 0).sum()), "n_costs": int((rows["ci_high"] < 0).sum()),
        "lowest": rows["ci_low"].min(), "highest": rows["ci_high"].max(), "widest": rows["half_width"].max(),
        "least_mass": own.min(), "largest_mass": own.max(),
    }  # fmt: skip

# %% tags=["needs_recalls"]
optional = [name for name in sources if name not in ("n_words", "n_items", "n_asked")]
own = sources[sources["word"] == "all"].drop(columns="word")
numbers["sources"] = record.nest(own, cell, [name for name in optional if name in own])
record.save_table("06_causal", "sources", sources, profile)
record.save_table("06_causal", "uses", uses, profile)
numbers["uses"] = record.nest(uses, ["use", *cell])

# %%
record.save_numbers("06_causal", numbers, profile)

# %% [markdown]
# ## 8 Reading

# %% tags=["needs_effects"]
for word, column in (("needs", "need"), ("ignores", "need"), ("re-reads", "recall"), ("copies", "recall")):
    found = words[words[column] == word]
    print(f"{word}: {len(found)} of {len(words)} cells: " + ", ".join(f"{m} x {b}" for m, b in found[cell].to_numpy()))
print(f"no word, because a control moved: {int(words['is_flagged'].sum())}")

# %% tags=["needs_effects"]
for name, own in numbers["raised"].items():
    print(f"{name}: evidence mass x {own['least_mass']:.2f} to {own['largest_mass']:.2f}; more accuracy than with")
    print(f"  the control raised in {own['n_gains']}, less in {own['n_costs']} of {len(words)} cells; intervals reach")
    print(f"  from {100 * own['lowest']:.1f} to {100 * own['highest']:.1f} points")
holds = (grounding["least_margin"] > 0) & (grounding["p_holm"] < 0.05)
print(f"C6: accuracy rises and grounding falls, answers in their format, in {holds.sum()} of {len(grounding)} cells")

# %% [markdown]
# ## Appendix: other choices
#
# Does attention say how much a look is used? V (late evidence mass) against the nats that the own reasoning loses where
# the evidence is hidden, and a restated word's attention to its cell against its use: rank correlations.

# %% tags=["needs_effects"]
vision = causal.vision_table(effects, items, confidence_level)
record.save_table("06_causal", "vision", vision, profile)
vision.round(2)

# %% tags=["needs_recalls"]
uses.round(2)

# %% [markdown]
# Single heads back each other up: what is lost where the evidence is hidden from the heads that look at it most, and
# from as many others of the same layers, as a share of what is lost where no head sees it.

# %% tags=["needs_effects"]
losses = causal.read_causal(profile, "head_losses")
heads = causal.head_table(losses) if len(losses) else losses
if len(heads):
    record.save_table("06_causal", "heads", heads, profile)
heads.pivot_table("share", ["n_heads", "chosen"], "benchmark").round(2) if len(heads) else heads

# %% [markdown]
# Where the prior and the picture disagree: accuracy of the items whose prior is against the picture.

# %% tags=["needs_effects"]
sides = items[[*keys, "prior_side"]].astype(dict.fromkeys(keys, "str"))
against = effects.merge(sides, on=keys)
against = against[(against["prior_side"] == "against") & (against["start_share"] == 0)]
against.pivot_table("correct", cell, "condition").round(2) if len(against) else against

# %% [markdown]
# By the kind of restated word.

# %% tags=["needs_recalls"]
by_word = sources[(sources["word"] != "all") & sources["estimate"].notna()]
by_word[[*cell, "word", *ends, "n_words", "turned_P", "turned_T", "kept_block_cell", "kept_block_read"]].round(2)
