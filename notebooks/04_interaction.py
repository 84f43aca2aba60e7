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
# hardly looked is a hazard. Is it so here, and does it survive covariates, other choices and controls?
#
# $$\text{logit} P(\text{correct}) = \text{cell} + \beta_E z_E + \beta_V z_V + \beta_{EV} z_E z_V$$
#
# $E$ is the mean token entropy of the response, $V$ the evidence mass of the grounding layers over the last third of
# the reasoning, both standardised within the cell (model x benchmark). Negative $\beta_{EV}$: low entropy promises less
# at low vision. Attention is observed, not set: no row of this notebook is a cause. The noise of the picture can raise
# $E$, move $V$ and spoil the answer at once; that is what the adjusted rows are for.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
bootstrap_replicates = 5000  # of the coefficients and effects; item-clustered, stratified by cell
robustness_replicates = 1000  # of the other choices of entropy and vision, the risk differences and the link
interval = "t"  # symmetric bootstrap-t, or bca or percentile
confidence_level = 0.95  # of every interval
bootstrap_seed = 505  # seed of the resampling and of the deals
min_items = 20  # a smaller cell keeps its counts and gets no estimate
covariates = ["log_n_response_tokens", "noise_level", "chain_length"]  # taken out in the adjusted tables
effect_at = 1.0  # standard deviations of entropy and of vision that the effects on risk compare
quadrant_share = 0.5  # share of a cell that is called low; the rest is high
extreme_share = 0.2  # the same for the extreme quadrants: lowest and highest share only
surface_reach = 2.0  # standard deviations that the surface shows
surface_min_rows = 3  # answers within a quarter of a standard deviation of a point; fewer: hatched, not drawn
shuffled_deals = 200  # permutations of labels, and of vision, within a cell (negative controls)

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers. An answer without a number for entropy or vision
# (adjusted: or for a covariate) is left out and counted, and so is a cell with too few items or answers of one class. A
# task type gets rows of its own unless each benchmark is one, as in the testbed.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy.special import expit

from dontblink.extraction.tables import read_bins
from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import cells, deals, interaction, within

# %%
items = read_tables(profile, ["items"], split="test")["items"]
cells.require_cells(items, min_items)
types = items[["benchmark", "task_type"]].drop_duplicates().astype("str")
by_type = [] if len(types) == types["benchmark"].nunique() == types["task_type"].nunique() else ["task_type"]
scopes, scope = ["cell", "benchmark", *by_type, "pooled"], ["scope", "model", "benchmark"]
E, V = "full_entropy_nats", "vision_evidence_mass"
adjustments = {"unadjusted": [], "adjusted": covariates}
measured = {name: cells.select_rows(items, [E, V, *own]) for name, own in adjustments.items()}
usable = {name: cells.keep_usable(rows, min_items) for name, rows in measured.items()}
for name, rows in usable.items():
    print(f"{name}: {len(rows)} of {len(items)} answers, {rows['cell'].nunique()} cells")

# %% [markdown]
# ## 4 The estimator, in the open
#
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


def describe(rows, covariates):
    """Return the interaction of a benchmark, on the scale of the logit and on that of risks."""
    fit = fit_logit(rows, covariates)
    beta_EV = fit.params["z_E:z_V"]
    low, high = (effect(fit, v, beta_EV) for v in (-effect_at, effect_at))
    without = effect(fit, effect_at, 0) - effect(fit, -effect_at, 0)
    risks = {"effect_at_low_vision": low, "effect_at_high_vision": high, "effect_difference": high - low}
    return {"entropy:vision": beta_EV} | risks | {"difference_by_interaction": high - low - without}


# %%
opened = {
    (name, benchmark): describe(own, adjustments[name])
    for name, rows in usable.items()
    for benchmark, own in rows.groupby("benchmark")
}
opened = pd.DataFrame(opened).T
opened.round(3)

# %% [markdown]
# Quadrants assume no model: the share of wrong answers at low or high entropy and vision, by quantiles of the own cell.
# The hazardous quadrant of the paper is low entropy with low vision.


# %%
def level(values):
    """Call the values of a cell low at or below its quantile, high above the opposite one."""
    low, high = (np.quantile(values, q, method="inverted_cdf") for q in (quadrant_share, 1 - quadrant_share))
    return np.select([values <= low, values > high], ["low", "high"], "middle")


rows, quadrant = measured["unadjusted"], [*scope[1:], "entropy_level", "vision_level"]
levels = rows.groupby("cell")[[E, V]].transform(level).set_axis(quadrant[2:], axis=1)
risks = 1 - rows.join(levels).groupby(quadrant)["correct"].mean()
risks.unstack(quadrant[2:]).round(3)

# %% [markdown]
# ## 5 Intervals
#
# The library repeats the fit on resampled items, for every scope. The p-value, and by default the interval, are those
# of the symmetric bootstrap-t, whose level holds in the simulation study (`make simulate`) with skewed, tied and
# clustered answers; at about twenty items or a handful of errors it is too wide. Effects on risk have percentile
# intervals, a little too narrow at fifty items or a dozen errors. Replicates without a maximum-likelihood fit are
# fitted by Firth's penalty (separated) or count as infinite (degenerate). Holm runs within the benchmarks, within the
# cells, and for each adjustment by itself. The cluster sandwich and GEE check the standard errors; GEE weights the
# answers of all models to one item together.

# %%
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, interval)
light = replace(full, n_replicates=robustness_replicates)
differences = replace(light, method="bca")  # of risks and of the link
fitted = {}
for name, own in adjustments.items():
    options = {"scopes": scopes, "resampling": full, "min_items": min_items, "effect_at": effect_at}
    table = interaction.interaction_table(items, own, **options)
    fitted[name] = table.merge(interaction.add_holm(table)[[*scope, "term", "p_holm"]], how="left")

# %% [markdown]
# The open lines are the tables' estimates.

# %%
for name, table in fitted.items():
    rows = table[(table["scope"] == "benchmark") & table["term"].isin(opened.columns)]
    listed = rows.pivot(index="benchmark", columns="term", values="estimate")
    own = opened.loc[name]
    assert np.allclose(listed.loc[own.index, own.columns], own, rtol=0, atol=1e-10), name
quadrants = interaction.quadrant_table(items, share=quadrant_share, scopes=scopes, confidence=confidence_level)
filled = quadrants[(quadrants["scope"] == "cell") & (quadrants["n"] > 0)]
listed = filled.set_index(quadrant)["risk"]
assert np.allclose(listed, risks[listed.index], rtol=0, atol=1e-12), "quadrants"

# %%
coefficients = {name: table[table["term"] == "entropy:vision"] for name, table in fitted.items()}
shown = [*scope[1:], "estimate", "ci_low", "ci_high"]
checks = ["bootstrap_se", "sandwich_se", "gee_se", "n_items", "n_wrong", "n_left_out", "n_separated", "n_degenerate"]
pd.concat(coefficients)[[*shown, "p", "p_holm", *checks]].round(3)

# %% [markdown]
# ## 6 What it is held against
#
# Dealt data: the unadjusted fit after labels, or vision, were dealt to other items of the cell (the same deal for all
# models of a benchmark). Dealt labels lose every effect, dealt vision those of vision; `p` is the share of deals at
# least as far from zero as the observed coefficient, two-sided.

# %%
dealt = pd.concat(
    deals.dealt_table(items, what, scopes=scopes, n_deals=shuffled_deals, seed=bootstrap_seed, min_items=min_items)
    for what in ("labels", "vision")
)
strayed = deals.find_biased(dealt)
assert strayed.empty, f"dealt labels or vision should leave no interaction:\n{strayed}"
dealt[["dealt", *scope[1:], "observed", "mean", "sd", "low", "high", "p"]].round(3)

# %% [markdown]
# Other entropies, other visions (evidence mass over a uniform look takes the length of the context out), and a flexible
# form: $z_E^2$ and $z_V^2$ and the products of every covariate with $z_E$ and $z_V$. A bend in entropy or vision can
# pass for an interaction, and so can a covariate that changes what entropy means, or the scale of $E$. Of two fits with
# as many columns, the one with the higher log-likelihood describes the answers better.

# %%
choices = {
    "As above": {},
    "E: largest token": {"entropy": "max_entropy_nats"},
    "E: last tenth": {"entropy": "last_decile_entropy_nats"},
    "E: logarithm": {"entropy": "log_full_entropy_nats"},
    "V: whole image": {"vision": "vision_visual_mass"},
    "V: over uniform": {"vision": "vision_over_uniform"},
    "Flexible": {"flexible": True},
    "Flexible, log E": {"flexible": True, "entropy": "log_full_entropy_nats"},
}

# %%
keys = ["model", "benchmark", "item_id"]
thirds = read_bins(profile, 3, split="test", head_set="grounding_layers").astype(dict.fromkeys(keys, "str"))
late = thirds[thirds["bin"] == 2]
late = late.assign(vision_over_uniform=late["evidence_mass"] / late["uniform_evidence_share"])
wider = items.astype(dict.fromkeys(keys, "str")).merge(late[[*keys, "vision_over_uniform"]], on=keys, how="left")
lighter = {"scopes": ["benchmark"], "resampling": light, "min_items": min_items, "brief": True}
results = [
    interaction.interaction_table(wider, own, **lighter, **choice).assign(adjustment=name, choice=label)
    for name, own in adjustments.items()
    for label, choice in choices.items()
]
robustness = pd.concat(results, ignore_index=True).query("term == 'entropy:vision'")
robustness[["adjustment", "choice", *shown[1:], "p", "log_likelihood"]].round(3)

# %% [markdown]
# ## 7 Figure and numbers

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (name, rows) in zip(axes, coefficients.items(), strict=True):
    charts.forest(ax, rows, label="entropy x vision (log-odds per sd²)", confidence=confidence_level)
    ax.set_title(name)
record.save_figure(figure, "04_interaction", profile)

# %% [markdown]
# The numbers that the paper and the ledger name, by key. Whole tables lie beside them.

# %%
found, tried = ["estimate", "ci_low", "ci_high"], ["adjustment", "choice", "benchmark"]
named = [*scope, *found, "p", "p_holm", "n_items", "n_wrong"]
numbers = {f"coefficients_{name}": record.nest(own[named], scope) for name, own in coefficients.items()}
is_cited = robustness["choice"].isin(["Flexible", "Flexible, log E", "V: whole image"])
cited = robustness[is_cited & (robustness["adjustment"] == "adjusted")]
numbers["robustness"] = record.nest(cited[[*tried, *found]], tried)
facts = dealt.loc[dealt["scope"] == "benchmark", ["dealt", *scope, "n_rows", "observed", "mean", "p"]]
numbers["dealt"] = record.nest(facts, ["dealt", *scope])
record.save_numbers("04_interaction", numbers | {"n_responses": len(items)}, profile)
whole = pd.concat(table.assign(adjustment=name) for name, table in fitted.items())
for name, table in {"coefficients": whole, "robustness": robustness, "dealt": dealt}.items():
    record.save_table("04_interaction", name, table, profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences below are computed. A coefficient that moves with the covariates was in part theirs. One that the
# flexible form brings close to zero cannot be told from a bend of entropy or vision, or from what a covariate does; one
# that depends on the scale of entropy is a statement about that scale. And one that survives all of them is still an
# association: that the model looked less may be a sign of the error, not its cause.

# %%
kind = types.groupby("benchmark")["task_type"].agg(", ".join)
for name, rows in coefficients.items():
    for benchmark, part in rows[rows["scope"] == "cell"].groupby("benchmark"):
        print(cells.describe_signs(f"{name}, cells of {benchmark} ({kind[benchmark]}): b_EV is positive", part))
    for _, row in rows[rows["scope"] != "cell"].iterrows():
        print(f"{name}, {row['scope']} {row['benchmark']}: {interaction.describe_row(row)}")
for _, row in cited.iterrows():
    print(f"{row['choice']}, {row['adjustment']}, {row['benchmark']}: {interaction.describe_row(row)}")

# %% [markdown]
# ## Appendix: other choices
#
# The other choices of section 6 as a figure.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 4.8), sharex=True, sharey=True)
for ax, (name, rows) in zip(axes, robustness.groupby("adjustment", sort=False), strict=True):
    rows = rows.assign(scope="cell", model=rows["choice"])
    charts.forest(ax, rows, label="entropy x vision (log-odds per sd²)", confidence=confidence_level)
    ax.set_title(name)
record.save_figure(figure, "04_interaction_robustness", profile)

# %% [markdown]
# The adjusted fit on the scale of risks: how the effect of entropy differs between high and low vision in all, and the
# part of it that is the interaction's.

# %%
panels = {"effect_difference": "all of it", "difference_by_interaction": "the part of the interaction"}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (term, title) in zip(axes, panels.items(), strict=True):
    rows = fitted["adjusted"][fitted["adjusted"]["term"] == term]
    charts.forest(ax, rows, label="P(correct), percentage points", scale=100, confidence=confidence_level)
    ax.set_title(title)
figure.suptitle("Effect of entropy on P(correct): at high vision minus at low vision (adjusted)")
record.save_figure(figure, "04_interaction_risks", profile)

# %% [markdown]
# The surface that each benchmark's adjusted fit draws, averaged over its models and covariates.

# %%
surface = interaction.surface_table(items, covariates, reach=surface_reach, min_items=min_items)
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
extremes = interaction.quadrant_table(items, share=extreme_share, scopes=scopes, confidence=confidence_level)
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
# What low vision adds to the risk of a confident answer (low entropy), and of an unsure one: risk at low vision minus
# risk at high vision, within the same level of entropy, at `quadrant_share`. Newcombe's interval in a cell, BCa
# by item over several models.

# %%
options = {"share": quadrant_share, "scopes": scopes, "min_items": min_items}
hazard = interaction.hazard_table(items, **options, resampling=differences)
record.save_table("04_interaction", "hazard", hazard, profile)
for _, row in hazard[(hazard["entropy_level"] == "low") & (hazard["scope"] == "benchmark")].iterrows():
    print(f"confident answers of {row['benchmark']}, risk at low minus high vision: {interaction.describe_row(row)}")
hazard[[*scope[1:], "entropy_level", "n_low_vision", "n_high_vision", *found]].round(3)

# %% [markdown]
# Within one response, where the picture cannot differ: do the entropy and the evidence mass of a step move together
# (repeated-measures correlation: values less the mean of their response)?
# Over all steps the script drives both (a read step looks, a compute step does not), so the read steps stand beside
# them. Fisher's interval takes the steps of a response as independent given its mean; the bootstrap does not.

# %%
steps = read_tables(profile, ["steps"], split="test", head_set="grounding_layers")["steps"]
link = within.link_table(steps, resampling=differences)
record.save_table("04_interaction", "within_response", link, profile)
link.round(3)
