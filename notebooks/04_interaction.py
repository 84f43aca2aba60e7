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
# # 04 Interaction: does low vision change what low entropy means?
#
# ## 1 Question
#
# The paper reports (C4) that the coefficient of entropy x vision is negative on sustained visual-reference tasks and
# near zero or positive on symbolic ones: where the picture must be looked at again and again, a confident answer that
# hardly looked is a hazard. Is it so here, and does it survive covariates, placebos and every other choice?
#
# The claim is one about two task types, so the answer is a contrast of them. On the scale of risks, over the cells $c$
# (model x benchmark) of a type and among confident answers alone:
#
# $$\text{hazard} = \text{mean}_c [P_c(\text{wrong} | \text{low } V) - P_c(\text{wrong} | \text{high } V)], \quad
# \text{contrast} = \text{hazard}_\text{visual} - \text{hazard}_\text{symbolic}$$
#
# and on that of the logit, where negative $\beta_{EV}$ says that low entropy promises less at low vision:
#
# $$\text{logit} P(\text{correct}) = \text{cell} + \beta_E z_E + \beta_V z_V + \beta_{EV} z_E z_V$$
#
# $E$ is the mean token entropy of the response. $V$ is one of four declared visions of the grounding layers: attention
# to the evidence (an oracle: it needs gold boxes, and a look at the wrong place is low on it as well) or to the whole
# image, over the last third of the reasoning or accumulated over all of it. Where an item has no boxes, either the
# oracles are left out or the item is (`measures.items`). Beside the visions stand two placebos that never look: length,
# and attention to the question. Attention is observed, not set: no row of this notebook is a cause. The
# noise of the picture can raise $E$, move $V$ and spoil the answer at once; that is what the adjusted rows are for.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
bootstrap_replicates = 5000  # of the contrasts, coefficients and effects; item-clustered, stratified by cell
light_replicates = 1000  # of the hazards by scope and of the link within responses
interval = "t"  # symmetric bootstrap-t, or bca or percentile
confidence_level = 0.95  # of every interval
bootstrap_seed = 505  # seed of the resampling and of the deals
min_items = 20  # a smaller cell, or a level of vision with fewer answers, keeps its counts and gets no estimate
covariates = ["log_n_response_tokens", "noise_level", "chain_length"]  # taken out in the adjusted tables
visual_type = "sustained_visual_reference"  # task type of which the claim says that low vision is a hazard
symbolic_type = "symbolic"  # task type of which it says that vision hardly matters
equivalence_margin = 0.25  # log-odds; a smaller b_EV is near zero; set beforehand, from power
effect_at = 1.0  # standard deviations of entropy and of vision that the effects on risk compare
quadrant_share = 0.5  # share of a cell that is called low; the rest is high
extreme_share = 0.2  # the same for the extreme quadrants: lowest and highest share only
surface_reach = 2.0  # standard deviations that the surface shows
surface_min_rows = 3  # answers within a quarter of a standard deviation of a point; fewer: hatched, not drawn
shuffled_deals = 200  # permutations of labels, and of vision, within a cell (negative controls)
specification_deals = 100  # permutations of vision of every kind, each with a whole specification curve

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers. An answer without a number for entropy or vision
# (adjusted: or for a covariate) is left out and counted, and so is a cell with too few items or answers of one class.
# Task types are declared with the items; a benchmark may hold several.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy.special import expit

from dontblink.extraction.tables import read_bins
from dontblink.figures import charts
from dontblink.params import read_section
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import cells, deals, hazard, interaction, specification, within

# %%
measures = read_section(profile, "measures")  # which entropy of a token, and which items
items = read_tables(profile, ["items"], split="test")["items"]
items, visions = cells.choose_visions(items, measures["items"])
items, main = cells.choose_entropy(items, measures["entropy_support"]), cells.name_main(visions)
print(f"vision is the attention to the {main} where one is asked for")

# %%
cells.require_cells(items, min_items)
types = items[["benchmark", "task_type"]].drop_duplicates().astype("str")
has_both = {visual_type, symbolic_type} <= {*types["task_type"]}
scopes, scope = ["cell", "benchmark", "task_type", "pooled"], ["scope", "model", "benchmark"]
E, V, looks = "full_entropy_nats", visions[main], visions | cells.PLACEBOS
adjustments = {"unadjusted": [], "adjusted": covariates}
measured = {name: cells.select_rows(items, [E, V, *own]) for name, own in adjustments.items()}
usable = {name: cells.keep_usable(rows, min_items) for name, rows in measured.items()}
looked = cells.select_rows(items, [E, *looks.values()])
for name, rows in usable.items():
    print(f"{name}: {len(rows)} of {len(items)} answers, {rows['cell'].nunique()} cells")
if not has_both:
    print(f"No contrast: it needs items of {visual_type} and {symbolic_type}; found {', '.join(types['task_type'])}")

# %% [markdown]
# ## 4 The estimator, in the open
#
# Low and high are by quantiles of the own cell; at one half every answer is one or the other. Hazard: among the
# confident answers of each cell, risk at low minus risk at high vision; then the mean over cells. Cells weigh the same,
# because a task type is an average over its models and benchmarks, and a model that answers more confidently wrong
# items has no louder voice in it.


# %%
def level(values):
    """Call the values of a cell low at or below its quantile, high above the opposite one."""
    low, high = (np.quantile(values, q, method="inverted_cdf") for q in (quadrant_share, 1 - quadrant_share))
    return np.select([values <= low, values > high], ["low", "high"], "middle")


def hazard_of(rows, look):
    """Mean over the cells of risk at low minus risk at high vision among confident answers."""
    levels = rows.groupby("cell")[[E, look]].transform(level)
    confident = rows[levels[E] == "low"].groupby(["cell", levels[look]])["correct"]
    risk, n = (1 - confident.mean()).unstack(), confident.size().unstack(fill_value=0).reindex(columns=["low", "high"])
    risk = risk[(n >= min_items).all(axis=1)]
    return (risk["low"] - risk["high"]).mean()


# %%
of_type = looked.groupby("task_type")
hazards = pd.DataFrame({name: of_type.apply(hazard_of, look) for name, look in looks.items()}).T
if has_both:
    hazards["contrast"] = hazards[visual_type] - hazards[symbolic_type]
(100 * hazards).round(1)

# %% [markdown]
# Standardised within the cell, a value says how an answer compares with its own cell. Every cell has an intercept of
# its own; the cells of a benchmark share the slopes. A covariate that is constant in a cell adjusts nothing there.


# %%
def fit_logit(rows, covariates):
    """Fit the formula of section 1 to the answers of a benchmark, each covariate standardised as one more term."""
    of_cell = rows.groupby("cell")[[E, V, *covariates]]
    spread = of_cell.transform("std", ddof=0)
    z = (rows[[E, V, *covariates]] - of_cell.transform("mean")) / spread.where(spread > 0)
    z = z.fillna(0).loc[:, lambda z: z.any()].rename(columns={E: "z_E", V: "z_V"})
    formula = " + ".join(["correct ~ C(cell) + z_E * z_V", *z.columns[2:]])
    return smf.logit(formula, z.assign(cell=rows["cell"], correct=rows["correct"].astype(float))).fit(disp=0)


# %% [markdown]
# A coefficient is not a risk. What entropy does to P(correct), from `-effect_at` to `+effect_at` standard deviations,
# is averaged over the answers with their own cell and covariates, at low vision and at high vision. The difference of
# the two is not zero when $\beta_{EV}$ is: the logit is steepest at one half, so entropy costs less where vision has
# already brought the risk close to its floor. A difference with the opposite sign of $\beta_{EV}$ is therefore no
# contradiction; `difference_by_interaction`, which the main effects alone do not make, has its sign.


# %%
def effect(fit, v, beta_EV):
    """What going from low to high entropy does to P(correct) where vision is v."""
    b, rest = fit.params, fit.predict(fit.model.data.frame.assign(z_E=0.0, z_V=0.0), which="linear")
    low, high = (expit(rest + b["z_E"] * e + b["z_V"] * v + beta_EV * e * v).mean() for e in (-effect_at, effect_at))
    return high - low


# %%
def describe(rows, covariates):
    """Return the interaction of a benchmark, on the scale of the logit and on that of risks."""
    fit = fit_logit(rows, covariates)
    beta_EV = fit.params["z_E:z_V"]
    low, high = (effect(fit, v, beta_EV) for v in (-effect_at, effect_at))
    without = effect(fit, effect_at, 0) - effect(fit, -effect_at, 0)
    risks = {"effect_at_low_vision": low, "effect_at_high_vision": high, "effect_difference": high - low}
    found = {"entropy:vision": beta_EV} | risks | {"difference_by_interaction": high - low - without}
    return found if fit.mle_retvals["converged"] else dict.fromkeys(found, np.nan)  # separated: no maximum


# %%
opened = {
    (name, benchmark): describe(own, adjustments[name])
    for name, rows in usable.items()
    for benchmark, own in rows.groupby("benchmark")
}
opened = pd.DataFrame(opened).T
opened.round(3)

# %% [markdown]
# Quadrants show the counts behind both: the share of wrong answers at low or high entropy and vision. The hazardous
# quadrant of the paper is low entropy with low vision.

# %%
rows, quadrant = measured["unadjusted"], [*scope[1:], "entropy_level", "vision_level"]
levels = rows.groupby("cell")[[E, V]].transform(level).set_axis(quadrant[2:], axis=1)
risks = 1 - rows.join(levels).groupby(quadrant)["correct"].mean()
risks.unstack(quadrant[2:]).round(3)

# %% [markdown]
# ## 5 Intervals
#
# The library repeats all of it on resampled items. Items are drawn within their cells, so that those of the two task
# types, which have none in common, are drawn side by side, and one replicate holds every vision and placebo: their
# differences are paired. Levels of entropy and vision are held fixed: an answer keeps the level that it has. The
# p-value, and by default the interval, are those of the symmetric bootstrap-t, whose level holds in the simulation
# study (`make simulate`) with skewed, tied and clustered answers; at about twenty items or a handful of errors it is
# too wide. In one cell the hazard has Newcombe's interval.
#
# Effects on risk have percentile intervals, a little too narrow at fifty items or a dozen errors. Replicates without a
# maximum-likelihood fit are fitted by Firth's penalty (separated) or count as infinite (degenerate). Holm runs within
# the benchmarks, within the cells, and for each adjustment by itself. The cluster sandwich and GEE check the standard
# errors of the benchmarks' unadjusted fits; GEE weights the answers of all models to one item together.

# %%
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, interval)
light = replace(full, n_replicates=light_replicates)
options = {"share": quadrant_share, "min_items": min_items}
kinds = visual_type, symbolic_type
contrasts = hazard.contrast_table(items, *kinds, visions, **options, resampling=full).dropna(subset="ci_low")
table = hazard.hazard_table(items, looks, **options, scopes=scopes, resampling=light)
by_look = {"vision": table["vision"].map(hazard.name_look)}
table[table["scope"] != "cell"].assign(**by_look)[["vision", *scope, "estimate", "ci_low", "ci_high", "p"]].round(3)

# %%
contrasts.assign(vision=contrasts["vision"].map(hazard.name_look)).round(4)

# %% [markdown]
# $\beta_{EV}$ by scope for the one vision, and by task type for all visions with the contrast of the two types.
# That an interval holds zero does not make a coefficient near zero. That is tested for: two one-sided tests against
# `equivalence_margin`, by the interval whose error on either side is the level of the test. The margin was set before
# the numbers: with the testbed's items the test has power for this margin if the truth is zero, and none for a much
# smaller one.

# %%
fitted, betas = {}, {}
for name, own in adjustments.items():
    kept, checked = {"resampling": full, "min_items": min_items}, [] if own else ["benchmark"]
    at = {"scopes": scopes, "effect_at": effect_at, "checked": checked, "vision": V}
    coefs = interaction.interaction_table(items, own, **kept, **at)
    fitted[name] = coefs.merge(interaction.add_holm(coefs)[[*scope, "term", "p_holm"]], how="left")
    betas[name] = interaction.contrast_table(items, *kinds, own, visions, **kept, margin=equivalence_margin)
both_betas = pd.concat(betas, names=["adjustment"]).reset_index("adjustment")
both_betas.assign(vision=both_betas["vision"].map(hazard.name_look)).round(3)

# %% [markdown]
# The open lines are the tables' estimates (one of very few answers is Firth's there, or has no maximum here,
# and is not compared).

# %%
listed = table[table["scope"] == "task_type"].dropna(subset=["estimate"])
own = [hazards.loc[row["vision"], row["benchmark"]] for _, row in listed.iterrows()]
assert np.allclose(listed["estimate"], own, rtol=0, atol=1e-12), "hazards"
listed = contrasts[contrasts["over"] == ""].set_index("vision")["estimate"].astype(float)
assert not len(listed) or np.allclose(listed, hazards.loc[listed.index, "contrast"], rtol=0, atol=1e-12), "contrast"

# %%
for name, coefs in fitted.items():
    rows = coefs[(coefs["scope"] == "benchmark") & coefs["term"].isin(opened.columns)].dropna(subset=["estimate"])
    listed = rows[rows["method"] != "firth profile"].set_index(["benchmark", "term"])["estimate"]
    own = opened.loc[name].stack().reindex(listed.index).dropna()
    assert np.allclose(listed[own.index], own, rtol=0, atol=1e-10), name
shown = {"scopes": scopes, "confidence": confidence_level, "vision": V}
quadrants = interaction.quadrant_table(items, share=quadrant_share, **shown)
filled = quadrants[(quadrants["scope"] == "cell") & (quadrants["n"] > 0)]
listed = filled.set_index(quadrant)["risk"]
assert np.allclose(listed, risks[listed.index], rtol=0, atol=1e-12), "quadrants"

# %%
coefficients = {name: coefs[coefs["term"] == "entropy:vision"] for name, coefs in fitted.items()}
shown = [*scope[1:], "estimate", "ci_low", "ci_high"]
checks = ["bootstrap_se", "sandwich_se", "gee_se", "n_items", "n_wrong", "n_left_out", "n_separated", "n_degenerate"]
pd.concat(coefficients)[[*shown, "p", "p_holm", *checks]].round(3)

# %% [markdown]
# ## 6 What it is held against
#
# **Placebos.** The table of contrasts above holds them, and each vision's contrast beyond theirs. Short answers, or
# answers that attend to the question, may be worse for reasons of their own; a vision has to say more than that.
#
# **Dealt data.** The unadjusted fit after labels, or vision, were dealt to other items of the cell (the same deal for
# all models of a benchmark). Dealt labels lose every effect, dealt vision those of vision; `p` is the share of deals
# at least as far from zero as the observed coefficient, two-sided.

# %%
dealing = {"vision": V, "n_deals": shuffled_deals, "seed": bootstrap_seed, "min_items": min_items}
dealt = pd.concat(deals.dealt_table(items, what, scopes=scopes[:2], **dealing) for what in ("labels", "vision"))
strayed = deals.find_biased(dealt)
assert strayed.empty, f"dealt labels or vision should leave no interaction:\n{strayed}"
dealt[["dealt", *scope[1:], "observed", "mean", "sd", "low", "high", "p"]].round(3)

# %% [markdown]
# **All choices at once.** Ten looks (three without boxes), three entropies, four forms and up to four adjustments,
# every combination fitted to the same answers. Forms: the product alone; with $z_E^2$ and $z_V^2$, because a bend can
# pass for an interaction; `flexible`, with the products of every covariate with $z_E$ and $z_V$ as well, because so can
# a covariate that changes what entropy means; and the product of ranks, which no scale of entropy or vision moves.
# (Without a covariate, `flexible` is `squares` once more, so that each choice occurs equally often with every other;
# and the lift is the share of the image where all evidence of a cell has one size.) Then the same for dealt vision: a
# deal moves an item's looks of every kind together. `p_median` is two-sided, `p_share` that of as many specifications
# below zero. A single specification is not tested.

# %%
late = [read_bins(profile, 3, split="test", head_set=name) for name in ("grounding_layers", "grounding_heads")]
wider, claimed = specification.add_looks(items, pd.concat(late)), kinds if has_both else None
tried = [look for look in specification.LOOKS if {*cells.ORACLES} <= {*visions} or look not in specification.BOXED]
curves = specification.fit_curves(
    wider, covariates, looks=tried, types=claimed, n_deals=specification_deals, seed=bootstrap_seed, min_items=min_items
).contrast(*kinds)
joint = specification.summarise_curves(curves, confidence_level)
joint.round(3)

# %% [markdown]
# Which choice matters: the share of the spread of a curve that each choice explains by itself (eta squared).

# %%
spread = specification.explain_spread(curves)
spread.pivot(index="factor", columns="task_type", values="eta_squared").round(2)

# %% [markdown]
# **What was not measured.** The E-value says how strongly a common cause would have to go with low vision and with
# error, as a risk ratio beyond the cell's own, to make all of a hazard; `e_value_end` the same for the end of the
# interval nearer to no hazard, and 1 there means that any would do.

# %%
strength = ["risk_ratio", "ratio_low", "ratio_high", "e_value", "e_value_end"]
e_values = table[table["scope"] == "task_type"].reindex(columns=["vision", "benchmark", *strength]).dropna()
e_values.assign(vision=e_values["vision"].map(hazard.name_look)).round(2)

# %% [markdown]
# **How well vision is measured.** The correlation of a response's vision over its odd and its even steps, stepped up to
# the whole (Spearman and Brown). Within kinds: less the mean of the cell's steps of that kind, because a read step
# looks and a compute step does not, whoever answers. Noise in $V$ attenuates: at reliability $\rho$ a coefficient is
# $\rho$ times what it would be for a vision without noise of the same scale ($\sqrt\rho$ times, for one standard
# deviation of each). A coefficient near zero where $\rho$ is low is therefore no evidence that vision does not matter.

# %%
steps = cells.of_items(read_tables(profile, ["steps"], split="test", head_set="grounding_layers")["steps"], items)
reliability = hazard.reliability_table(steps, min_items, visions)
halved = reliability.merge(types, on="benchmark").groupby(["task_type", "vision"], sort=False)
halved[["reliability", "reliability_within_kind"]].agg(["mean", "count"]).round(2)

# %% [markdown]
# ## 7 Figure and numbers
#
# Left the hazards and their contrast, right $\beta_{EV}$ and its contrast, unadjusted and (hollow) adjusted.

# %%
heads = {"contrast": "visual minus symbolic"} if has_both else {}
heads |= {name: name for name in ((visual_type, symbolic_type) if has_both else sorted({*types["task_type"]}))}
by_type = [contrasts[contrasts["over"] == ""].assign(task_type="contrast")] if has_both else []
by_type = pd.concat([*by_type, table[table["scope"] == "task_type"].assign(task_type=table["benchmark"])])


def arrange(part):
    """Order rows as the figure shows them: the contrast, then the task types, a look a row."""
    rows = pd.concat(part[part["task_type"] == name] for name in heads)
    named = rows.assign(benchmark=rows["task_type"].map(heads), model=rows["vision"].map(hazard.name_look))
    return named[["benchmark", "model", "estimate", "ci_low", "ci_high"]]


# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 5))
style = {"confidence": confidence_level, "in_order": True}
charts.forest(axes[0], arrange(by_type), label="hazard of low vision (percentage points)", scale=100, **style)
axes[0].set_title("confident answers: risk added")
first, second = (arrange(betas[name]) for name in adjustments)
if len(first):
    charts.forest(axes[1], first, label="entropy x vision (log-odds per sd²)", beside=second, **style)
    axes[1].set_title("all answers: coefficient")
record.save_figure(figure, "04_interaction", profile)

# %% [markdown]
# The specification curves, each against those of dealt vision, and the choices that made them.

# %%
drawn = [name for name in (visual_type, symbolic_type, "contrast") if has_both] or list(curves.types)
specified = curves.table().set_index("task_type").loc[drawn].reset_index()
figure = charts.specification_grid(
    specified, curves.bands(confidence_level), specification.FACTORS, label="b_EV (log-odds per sd²)",
    confidence=confidence_level,
)  # fmt: skip
record.save_figure(figure, "04_interaction_specification", profile)

# %% [markdown]
# $\beta_{EV}$ of every cell and benchmark, for the one vision.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (name, rows) in zip(axes, coefficients.items(), strict=True):
    rows = rows[rows["scope"] != "task_type"]
    charts.forest(ax, rows, label=f"entropy x {main} (log-odds per sd²)", confidence=confidence_level)
    ax.set_title(name)
record.save_figure(figure, "04_interaction_coefficients", profile)

# %% [markdown]
# The numbers that the paper and the ledger name, by key. Whole tables lie beside them.

# %%
found = ["estimate", "ci_low", "ci_high"]
named = [*scope, *found, "p", "p_holm", "n_items", "n_wrong"]
numbers = {f"coefficients_{name}": record.nest(own[named], scope, found[1:]) for name, own in coefficients.items()}
facts = dealt.loc[dealt["scope"] == "benchmark", ["dealt", *scope, "n_rows", "observed", "mean", "p"]]
numbers["dealt"] = record.nest(facts, ["dealt", *scope])
named = {name: name.replace(" ", "_") for name in looks}
own, sides = contrasts.replace({"vision": named, "over": named}), ["n_low_vision", "n_high_vision"]
alone = own[own["over"] == ""]
numbers["hazard_contrast"] = record.nest(alone[["vision", *found, "p", "n_items", "n_rows"]], ["vision"])
numbers["hazard_over_placebo"] = record.nest(own.loc[own["over"] != "", ["vision", "over", *found]], ["vision", "over"])
own = table.dropna(subset=found).replace({"vision": named})
numbers["hazard"] = record.nest(own[["vision", *scope, *found, *sides]], ["vision", *scope])
numbers["e_value"] = record.nest(e_values.replace({"vision": named}), ["vision", "benchmark"])

# %%
own, tried = both_betas.dropna(subset=found).replace({"vision": named}), ["adjustment", "vision"]
pairs = own.loc[own["task_type"] == "contrast", [*tried, *found, "p", "n_items"]]
ends = {"equal_low": "ci_low", "equal_high": "ci_high", "p_equivalence": "p"}
near = own.loc[own["task_type"] == symbolic_type, [*tried, "estimate", "margin", *ends]].rename(columns=ends)
numbers |= {"beta_contrast": record.nest(pairs, tried), "equivalence": record.nest(near, tried)}
numbers["beta"] = record.nest(own[["task_type", *tried, *found, "p", "n_items"]], ["task_type", *tried])
numbers["specification"] = record.nest(joint, ["task_type"])
numbers["spread"] = record.nest(spread[["task_type", "factor", "eta_squared"]], ["task_type", "factor"])
own = reliability.drop(columns="is_oracle").replace({"vision": named})
optional = [name for name in own if name.startswith(("halves", "reliability"))]
numbers["reliability"] = record.nest(own, ["vision", "model", "benchmark"], optional)
facts = {"n_responses": len(items), "judges_evidence": main == "evidence"}
facts["has_both_types"] = has_both and bool(numbers["hazard_over_placebo"])  # and enough items of each
record.save_numbers("04_interaction", numbers | facts, profile)

# %%
whole = pd.concat(own.assign(adjustment=name) for name, own in fitted.items())
tables = {"coefficients": whole, "dealt": dealt, "hazard": table, "contrasts": contrasts, "betas": both_betas}
tables |= {"specifications": curves.table(), "curves": joint, "curve_deals": specification.list_deals(curves)}
tables |= {"spread": spread, "reliability": reliability}
for name, own in tables.items():
    if len(own):
        record.save_table("04_interaction", name, own, profile)

# %% [markdown]
# What each value is a value of, so that two ways to one quantity can be compared.

# %%
long = pd.concat([own.assign(adjustment=name) for name, own in coefficients.items()], ignore_index=True)
long = long.assign(value=long["estimate"], method="interaction table", measure="b_EV of a " + long["scope"])
counted = long[(long["scope"] == "cell") & (long["adjustment"] == "unadjusted")]
counted = counted.assign(measure="error rate", vision="", adjustment="", value=counted["n_wrong"] / counted["n_rows"])
wide = opened["entropy:vision"].rename_axis(["adjustment", "benchmark"]).reset_index(name="value")
lines = hazards.rename_axis("vision").reset_index().melt("vision", var_name="benchmark", value_name="value")
listed = pd.concat([table[table["scope"] == "task_type"], contrasts[contrasts["over"] == ""]], ignore_index=True)
listed = listed.assign(value=listed["estimate"], benchmark=listed["benchmark"].fillna("contrast"))

# %%
b_EV, risen = {"vision": main}, {"measure": "hazard of a task_type", "adjustment": "unadjusted"}
by_fit = both_betas.assign(benchmark=both_betas["task_type"], value=both_betas["estimate"])
quantities = [
    counted,
    long.assign(**b_EV),
    wide.assign(measure="b_EV of a benchmark", method="open lines", **b_EV),
    by_fit.assign(measure="b_EV of a task_type", method="contrast table"),
    lines.assign(method="open lines", **risen),
    listed.assign(method="hazard table", **risen),
]
quantities = [part.assign(rows="test", model=part.get("model", pd.Series(dtype=str)).reindex(part.index).fillna("all"))
              for part in quantities]  # fmt: skip
record.save_quantities("04_interaction", quantities, profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences below are computed, each by a rule: holds where the whole interval lies on the claim's side, and for
# the curve where the p-value is below the level of the intervals. A vision that passes the contrast but not the
# placebos says no more than they do. A coefficient that moves with the covariates was in part theirs. And what
# survives all of it is still an association: that the model looked less may be a sign of the error, not its cause.


# %%
def judge(claim, holds):
    """Print whether a condition holds."""
    print(f"{'holds' if holds else 'does not hold'}: {claim}")


# %%
for _, row in contrasts[~contrasts["vision"].isin(cells.PLACEBOS)].iterrows():
    judge(f"{hazard.describe_contrast(row)}; above zero", row["ci_low"] > 0)
for _, row in both_betas[both_betas["task_type"] == "contrast"].iterrows():
    words = f"{row['adjustment']}, {hazard.name_look(row['vision'])}: contrast of b_EV {interaction.describe_row(row)}"
    judge(f"{words}; below zero", row["ci_high"] < 0)
for _, row in both_betas[both_betas["task_type"] == symbolic_type].iterrows():
    words = f"{row['adjustment']}, {hazard.name_look(row['vision'])}: b_EV of {symbolic_type} {row['estimate']:+.3f}"
    near = f"[{row['equal_low']:+.3f}, {row['equal_high']:+.3f}] within {row['margin']:g}, p {row['p_equivalence']:.3g}"
    judge(f"{words}; near zero {near}", row["p_equivalence"] < 1 - confidence_level)

# %%
for _, row in joint.iterrows():
    words = f"{row['task_type']}: median b_EV of {row['n_specifications']} specifications {row['median']:+.3f}"
    words += f", of dealt vision from {row['low']:+.3f} to {row['high']:+.3f}, p {row['p_median']:.3g}"
    words += f"; {row['share_below_zero']:.0%} of them below zero, p {row['p_share']:.3g}"
    is_beyond = row["p_median"] < 1 - confidence_level
    judge(f"{words}; the median is below that of dealt vision", row["median"] < 0 and is_beyond)
for name, own in spread.groupby("task_type", sort=False):
    shares = ", ".join(f"{row['factor']} {row['eta_squared']:.0%}" for _, row in own.iterrows())
    print(f"{name}: what explains the spread of its specifications: {shares}")

# %%
kind = types.groupby("benchmark")["task_type"].agg(", ".join)
for name, rows in coefficients.items():
    for benchmark, part in rows[rows["scope"] == "cell"].groupby("benchmark"):
        print(cells.describe_signs(f"{name}, cells of {benchmark} ({kind[benchmark]}): b_EV is positive", part))
    for _, row in rows[rows["scope"] != "cell"].iterrows():
        print(f"{name}, {row['scope']} {row['benchmark']}: {interaction.describe_row(row)}")
for _, row in e_values.iterrows():
    print(f"{hazard.name_look(row['vision'])}, {row['benchmark']}: risk ratio {row['risk_ratio']:.2f}, E-value "
          f"{row['e_value']:.2f}, at the interval's end {row['e_value_end']:.2f}")  # fmt: skip

# %% [markdown]
# ## Appendix: other choices
#
# The adjusted fit on the scale of risks: how the effect of entropy differs between high and low vision in all, and the
# part of it that is the interaction's.

# %%
panels = {"effect_difference": "all of it", "difference_by_interaction": "the part of the interaction"}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (term, title) in zip(axes, panels.items(), strict=True):
    rows = fitted["adjusted"][fitted["adjusted"]["scope"] != "task_type"]
    rows = rows[rows["term"] == term]
    charts.forest(ax, rows, label="P(correct), percentage points", scale=100, confidence=confidence_level)
    ax.set_title(title)
figure.suptitle("Effect of entropy on P(correct): at high vision minus at low vision (adjusted)")
record.save_figure(figure, "04_interaction_risks", profile)

# %% [markdown]
# The surface that each benchmark's adjusted fit draws, averaged over its models and covariates.

# %%
surface = interaction.surface_table(items, covariates, reach=surface_reach, min_items=min_items, vision=V)
names = sorted(surface["benchmark"].unique())
figure, axes = plt.subplots(1, len(names), figsize=(7, 2.5), squeeze=False)
for k, name in enumerate(names):
    rows = surface[surface["benchmark"] == name]
    charts.interaction_surface(axes[0, k], rows, min_near=surface_min_rows, colour_bar=k == len(names) - 1)
    axes[0, k].label_outer()
figure.suptitle(f"P(correct) by the adjusted fit; hatched: fewer than {surface_min_rows} answers near")
record.save_figure(figure, "04_interaction_surface", profile)

# %% [markdown]
# Quadrants at `quadrant_share` of the cell and at its extremes, where the paper had 2 to 8 answers. Within a cell every
# answer is to another item, so Wilson's interval is right there; over several models it would be too narrow.

# %%
extremes = interaction.quadrant_table(items, share=extreme_share, scopes=scopes, confidence=confidence_level, vision=V)
record.save_table("04_interaction", "quadrants", pd.concat([quadrants, extremes]), profile)
for stem, table in (("quadrants", quadrants), ("extremes", extremes)):
    own = table[table["scope"] == "cell"]
    models, names = (sorted(own[name].unique()) for name in ("model", "benchmark"))
    figure, axes = plt.subplots(len(models), len(names), figsize=(7, 1.9 * len(models)), squeeze=False)
    for (model, name), rows in own.groupby(["model", "benchmark"]):
        ax = axes[models.index(model), names.index(name)]
        charts.quadrant_risk(ax, rows, confidence=confidence_level, legend=ax is axes[0, 0]).label_outer()
    figure.suptitle(f"Low and high: the {table['share'].iloc[0]:.0%} at either end of the model's answers")
    record.save_figure(figure, f"04_interaction_{stem}", profile)

# %% [markdown]
# Within one response, where the picture cannot differ: do the entropy and the vision of a step move together
# (repeated-measures correlation: values less the mean of their response)?
# Over all steps the script drives both (a read step looks, a compute step does not), so the read steps stand beside
# them. Fisher's interval takes the steps of a response as independent given its mean; the bootstrap does not.

# %%
mass = {"evidence": "evidence_mass", "image": "visual_mass"}[main]
link = within.link_table(steps, resampling=replace(light, method="bca"), mass=mass)
record.save_table("04_interaction", "within_response", link, profile)
link.round(3)
