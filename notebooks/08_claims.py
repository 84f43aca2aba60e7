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
# # 08 Claims: which of the paper's claims hold here?
#
# ## 1 Question
#
# Six claims of the paper (C1 to C6), each with a rule that was fixed before the numbers that it judges: reproduced,
# same direction, not reproduced, or not testable in this profile. The rules are data (`paper/claims.yaml`), hold their
# controls inside, and say why they ask what they ask. How often would they fire on noise, and how many items does the
# smallest effect of interest need? Both were simulated (`make simulate`). Some reported numbers can be checked without
# any data: which counts give a gain of so many points, how much of a fall mere dilution explains, what a handful of
# samples can say.
#
# | | |
# |---|---|
# | inputs | the numbers of the notebooks before this one, `paper/claims.yaml`, `figures/simulation`, `figures/seeds` |
# | outputs | the ledger with verdicts, the arithmetic of the report |
# | cost | seconds |
#
# The verdict is about THIS profile's models and benchmarks. In the testbed these are small trained models, and a claim
# that holds there is not thereby shown for the models that the paper measured, nor the reverse.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
reported_points = 1.9  # risk saved, percentage points, as the paper reports it
reported_decimals = 1  # to which it is rounded
coverage = 0.9  # at which it is reported
item_counts = [280, 320]  # answered items of a cell that are tried
reported_falls = [0.57, 0.91]  # of the evidence mass, smallest and largest
reasoning_parts = 10  # between whose first and last it falls
small_counts = [2, 8]  # samples of the extreme quadrants, fewest and most
reported_cells = 9  # that all fall
confidence_level = 0.95  # of every interval

# %% [markdown]
# ## 3 Data
#
# The ledger is read strictly: an unknown key, a condition without its rows or a rule without its conditions stops it.
# The numbers are those that the notebooks before this one have just made.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from scipy.stats import binomtest

from dontblink import paths
from dontblink.figures import charts
from dontblink.publish import changes, claims, record
from dontblink.publish.numbers import Numbers

pd.set_option("display.max_colwidth", None)  # a condition is read as a whole

# %%
numbers = Numbers(profile, paths.outputs(profile))
ledger = claims.build_ledger(numbers)
numbers.stems()

# %% [markdown]
# ## 4 The estimator, in the open
#
# A condition counts the rows whose value lies on the claimed side of its bound; a rule holds if all of its conditions
# do. The first claim by hand: the interval of the fall beyond a uniform look must lie above zero in every
# cell.

# %%
judged = ledger["C1"]["conditions"]["beyond_dilution"]
if "lacks" in judged:
    print(f"C1 {judged['lacks']}")
else:
    falls = numbers.get("02_collapse.collapse.grounding_layers.evidence_over_uniform")
    n_met = sum(row["ci_low"] > 0 for benchmarks in falls.values() for row in benchmarks.values())
    assert (n_met, n_met == judged["n_rows"]) == (judged["n_met"], judged["holds"]), "not the ledger's count"
    print(f"the evidence mass falls beyond a uniform look in {n_met} of {judged['n_rows']} cells")

# %% [markdown]
# The verdicts, with the row that decides: of a claim about every cell the weakest one, of "often" the median.

# %%
pd.DataFrame(
    {
        "claim": name,
        "reported": claim["reported_as"],
        "ours": claims.show_estimate(claim),
        "row": claim.get("headline", {}).get("row", ""),
        "verdict": claims.show_verdict(claim),
        "by the rules before these": claim["first_edition"] if profile == "testbed" else "",
    }
    for name, claim in ledger.items()
)

# %% [markdown]
# What was registered beforehand: the null, what stands against it, and the smallest effect of interest.

# %%
registered = ["estimand", "null_hypothesis", "control", "margin"]
effects = {name: claim["smallest_effect"]["says"] for name, claim in ledger.items()}
pd.DataFrame({name: {key: claim[key] for key in registered} for name, claim in ledger.items()}).T.assign(effect=effects)

# %% [markdown]
# The conditions behind them: how many rows meet each, and how many are needed.

# %%
pd.DataFrame(
    {"claim": name, "condition": claim["rule"]["conditions"][key]["says"]} | judged
    for name, claim in ledger.items()
    for key, judged in claim.get("conditions", {}).items()
)

# %% [markdown]
# Some reported numbers can be checked without data. A uniform look gives a fixed box the share one over the context.
# How long must the reasoning be, counted in prompts, for dilution alone to make the smallest and the largest fall that
# the paper reports? With $K$ parts, $P$ prompt and $T$ reasoning tokens,
#
# $$\frac{1}{1 - \text{fall}} = \frac{1 + (1 - 1/2K) \, T/P}{1 + T/P / 2K} .$$

# %%
lengths = [claims.explain_by_dilution(fall, reasoning_parts) for fall in reported_falls]
edge = 1 / (2 * reasoning_parts)
for fall, length in zip(reported_falls, lengths, strict=True):
    assert abs(1 - (1 + edge * length) / (1 + (1 - edge) * length) - fall) < 1e-12
dict(zip(reported_falls, lengths, strict=True))

# %% [markdown]
# ## 5 Intervals
#
# The paper counts two to eight samples in its extreme quadrants. What do so many say about an error rate, if none is
# wrong, and if half are? And how surprising is it that every cell falls, were the cells independent and each a coin?

# %%
small = claims.bound_small_counts(small_counts, confidence_level)
sign_p = float(binomtest(reported_cells, reported_cells).pvalue)
print(f"all {reported_cells} cells one way: p = {sign_p:.4f}, if they were independent (they share items and models)")
small.round(3)

# %% [markdown]
# ## 6 What it is held against
#
# The rules on noise: the share of deals in which a rule fires although its claim's null is true in the dealt tables
# of the testbed, with its exact interval; of C6, which says that two things happen in one cell, the share of drawn
# studies, for the least favourable way in which its null can be true and then for each. `holds_bar`: no interval has
# its lower end above the nominal level, or its upper end above half as much again. And the items of a benchmark at
# which the smallest effect of interest is found in 80 of 100 simulated studies, beside those that this profile has.

# %%
simulated = {name: claim["simulated"] for name, claim in ledger.items() if claim["tested"]}
rates = {(name, rule): rate for name, own in simulated.items() for rule, rate in own.get("false_positive", {}).items()}
needed = ["n_items", "n_at_80", "is_underpowered", "holds_bar"]
pd.DataFrame(rates).T.round(3)

# %%
nulls = [(name, own["nulls"]) for name, own in simulated.items() if "nulls" in own]
by_null = {(name, null["says"], rule): null[rule] for name, own in nulls for null in own.values() for rule in null
           if rule != "says"}  # fmt: skip
pd.DataFrame(by_null).T.round(3)

# %%
pd.DataFrame({name: {key: own.get(key) for key in needed} for name, own in simulated.items()}).T

# %% [markdown]
# Does a verdict hang on one training run? The small model was trained again from another seed and took the place of the
# first in the whole study (`params/seeds.yaml`). What changes in the ledger, verdict by verdict and condition by
# condition:

# %%
other_seed = claims.read_other_seed(profile)
retrained = changes.compare_verdicts({"claims": ledger}, other_seed) if other_seed else []
moved = [change for change in retrained if change.differs or change.conditions]
print(changes.describe_verdicts(retrained) if retrained else "no study of another training seed beside this profile")
print("\n".join(change.describe() for change in moved))

# %% [markdown]
# A gain in selective risk is a whole number of saved errors over a whole number of accepted answers,
# $k = \lceil \text{coverage} \cdot n \rceil$. Which pairs round to the gain that the paper reports?

# %%
points = claims.explain_points(reported_points, reported_decimals, coverage, *item_counts)
points

# %% [markdown]
# ## 7 Figure and numbers

# %%
drawn = {name: claim for name, claim in ledger.items() if "headline" in claim}
layout = [["C1", "C2", "C3"], ["C6", "C4", "C5"], ["note"] * 3]
figure, axes = plt.subplot_mosaic(
    layout, figsize=(7, 6.2), empty_sentinel="", height_ratios=[1, 1, 0.15], width_ratios=[1.1, 1, 1]
)
for name, ax in axes.items():
    charts.claim_panel(ax, name, drawn[name]) if name in drawn else ax.set_axis_off()
charts.note_panel(axes["note"], ledger, confidence_level)
record.save_figure(figure, "08_claims", profile)

# %%
recorded = {
    "coverage": coverage,
    "claims": ledger,
    "points": record.nest(points, ["saved_errors"]),
    "dilution_smallest_prompts": lengths[0],
    "dilution_largest_prompts": lengths[1],
    "small_counts": record.nest(small, ["n"]),
    "sign_probability": sign_p,
}

# %%
if retrained:
    recorded["retrained"] = {
        "n_claims": len(retrained), "n_verdicts_changed": sum(change.differs for change in retrained),
        "n_conditions_changed": sum(len(change.conditions) for change in retrained),
        "says": "; ".join(change.describe() for change in moved) or "nothing",
    }
record.save_numbers("08_claims", recorded, profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences are computed. A verdict is as good as its rule, and a rule that somebody would have written otherwise
# is in `paper/claims.yaml` to be changed: `make diff` then shows what moved.

# %%
for name, claim in ledger.items():
    failed = [key for key, judged in claim.get("conditions", {}).items() if not judged["holds"]]
    print(f"{name} {claim['title']}: {claims.show_verdict(claim)}; not met: {', '.join(failed) or 'nothing'}")
