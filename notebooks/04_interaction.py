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
# hardly looked is a hazard. Here the same coefficient, with what it needs to be read: intervals, covariates, the scale
# of risks, other choices of entropy and vision, and controls that must show nothing.
#
# | | |
# |---|---|
# | inputs | the tables of the extraction, test split |
# | outputs | coefficients and effects on risk, surfaces, quadrants, robustness, negative controls |
# | cost | one to two minutes |
#
# $$\text{logit} P(\text{correct}) = \text{cell} + \beta_E z_E + \beta_V z_V + \beta_{EV} z_E z_V$$
#
# $E$ is the mean token entropy of the response, $V$ the evidence mass over the last third of the reasoning, both
# standardised within the cell (model x benchmark). Negative $\beta_{EV}$: entropy costs more where vision is high, and
# low entropy promises less where vision is low. Attention is observed, not set: no row of this notebook is a cause. The
# noise of the picture can raise $E$, move $V$ and spoil the answer at once; that is what the adjusted columns are for.

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
# ## 3 Setup

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd

from dontblink.extraction.tables import bin_table
from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import deals, interaction, within
from dontblink.studies.cells import require_cells

keys = ["model", "benchmark", "item_id"]
full = Resampling(bootstrap_replicates, bootstrap_seed, confidence_level, interval)
light = replace(full, n_replicates=robustness_replicates)
differences = replace(light, method="bca")  # of risks and of the link
scope = ["scope", "model", "benchmark"]
shown = [*scope[1:], "estimate", "ci_low", "ci_high"]

# %% [markdown]
# ## 4 Load and check
#
# Test items only: the calibration items chose the grounding layers. A task type that spans several benchmarks gets rows
# of its own; where each benchmark is one task type, as in the testbed, those would repeat the benchmark's.

# %%
tables = read_tables(profile, ["items", "tokens", "token_masses", "steps"], split="test")
items = tables["items"]
require_cells(items, min_items)
types = items[["benchmark", "task_type"]].drop_duplicates().astype("str")
by_type = [] if len(types) == types["benchmark"].nunique() == types["task_type"].nunique() else ["task_type"]
scopes = ["cell", "benchmark", *by_type, "pooled"]
print(types.to_string(index=False))
print(f"{len(items)} responses; rows without a number for entropy or vision are left out and counted below")

# %% [markdown]
# ## 5 Compute
#
# The coefficients per cell, per benchmark (its models together, each with its own intercept) and pooled; first as the
# paper has them, then adjusted for length, noise and chain length (standardised within the cell; one that is constant
# adjusts nothing). Interval and p-value are those of the symmetric bootstrap-t, whose level holds in the simulation
# study (`make simulate`) with skewed, tied and clustered answers; at about twenty items or a handful of errors it is
# too wide. Effects on risk have percentile intervals, a little too narrow at fifty items or a dozen errors. Holm runs
# over the benchmarks and over the cells, two families declared here.

# %%
fit = {"scopes": scopes, "resampling": full, "min_items": min_items, "effect_at": effect_at}
raw = interaction.interaction_table(items, **fit)
adjusted = interaction.interaction_table(items, covariates, **fit)
coefficients = {"unadjusted": interaction.add_holm(raw), "adjusted": interaction.add_holm(adjusted)}
coefficients["unadjusted"][[*shown, "p", "p_holm", "n_items", "n_wrong", "n_left_out"]].round(3)

# %%
coefficients["adjusted"][[*shown, "p", "p_holm", "n_items", "n_wrong", "n_left_out"]].round(3)

# %% [markdown]
# Replicates without a maximum-likelihood fit are fitted by Firth's penalty (separated) or count as infinite
# (degenerate); both are counted. Two cross-checks of the standard errors: the cluster sandwich against the spread of
# the bootstrap, and GEE against the sandwich. GEE weights the answers of the models to one item together, so its errors
# may be smaller where those agree; that is a different estimator, not an error.

# %%
for name, table in (("unadjusted", raw), ("adjusted", adjusted)):
    rows = table[table["unit"] == "log-odds per sd"]
    counts = rows.drop_duplicates(scope)[["n_separated", "n_degenerate", "separated"]].sum()
    print(f"{name}: {', '.join(f'{key} {int(n)}' for key, n in counts.items())}, over {rows['scope'].size // 3} scopes")
    checked = rows.dropna(subset=["sandwich_se", "gee_se"])
    for one, other in (("sandwich_se", "bootstrap_se"), ("gee_se", "sandwich_se")):
        off = (checked[one] / checked[other] - 1).abs()
        worst = checked.loc[off.idxmax()]
        where = f"{worst['term']}, {worst['model']} x {worst['benchmark']}"
        print(f"  {one} / {other}: off by at most {off.max():.1%} ({where})")

# %% [markdown]
# A coefficient is not a risk. The effect of entropy on P(correct), from `-effect_at` to `+effect_at` standard
# deviations, at low vision and at high vision, and the difference of the two. That difference is not zero when
# $\beta_{EV}$ is: the logit is steepest at one half, so entropy costs less where vision has already brought the risk
# close to its floor. `difference_without_interaction` is what the main effects alone would make of it, and
# `difference_by_interaction` the rest, which has the sign of $\beta_{EV}$ and is zero if that is. A difference of risks
# with the opposite sign of $\beta_{EV}$ is therefore no contradiction.

# %%
effects = {
    "unadjusted": raw[raw["unit"] == "probability"].reset_index(drop=True),
    "adjusted": adjusted[adjusted["unit"] == "probability"].reset_index(drop=True),
}
effects["unadjusted"].pivot_table("estimate", scope, "term", sort=False)[list(interaction.EFFECTS)].round(3)

# %%
by_interaction = effects["adjusted"][effects["adjusted"]["term"] == "difference_by_interaction"]
by_interaction[shown].round(3)

# %% [markdown]
# The surface that each benchmark's adjusted fit draws, averaged over its models and covariates.

# %%
surface = interaction.surface_table(items, covariates, reach=surface_reach, min_items=min_items)
seen = surface["n_near"] >= surface_min_rows
print(f"points of the surfaces with enough answers beside them: {seen.mean():.0%}")

# %% [markdown]
# Quadrants, which assume no model: risk by low or high entropy and low or high vision, at the median of the cell and at
# its extremes. The hazardous quadrant of the paper is low entropy with low vision; the paper had 2 to 8 answers in its
# extreme quadrants. Within a cell every answer is to another item, so Wilson's interval is right there; over several
# models it would be too narrow, hence the difference below is bootstrapped by item.

# %%
quarters = interaction.quadrant_table(items, share=quadrant_share, scopes=scopes, confidence=confidence_level)
extremes = interaction.quadrant_table(items, share=extreme_share, scopes=scopes, confidence=confidence_level)
hazardous = extremes[(extremes["entropy_level"] == "low") & (extremes["vision_level"] == "low")]
hazardous[[*scope[1:], "n", "n_quadrant_wrong", "risk", "ci_low", "ci_high"]].round(3)

# %% [markdown]
# What low vision adds to the risk of a confident answer (low entropy), and of an unsure one: risk at low vision minus
# risk at high vision, within the same level of entropy, at the median split.

# %%
hazard = interaction.hazard_table(
    items, share=quadrant_share, scopes=scopes, min_items=min_items, resampling=differences
)
hazard[[*scope[1:], "entropy_level", "n_low_vision", "n_high_vision", "estimate", "ci_low", "ci_high"]].round(3)

# %% [markdown]
# Robustness of $\beta_{EV}$ per benchmark: other entropies, other visions (evidence mass over a uniform look takes the
# length of the context out), and a flexible form. The last adds $z_E^2$ and $z_V^2$ and, where adjusted, the products
# of every covariate with $z_E$ and $z_V$: a bend in entropy or vision can pass for an interaction, and so can a
# covariate that changes what entropy means. The logarithm of entropy asks the same of the scale of $E$; of two fits
# with as many columns, the one with the higher log-likelihood describes the answers better.

# %%
thirds = bin_table(tables["tokens"], tables["token_masses"], 3)
late = thirds[(thirds["head_set"] == "grounding_layers") & (thirds["bin"] == 2)].astype(dict.fromkeys(keys, "str"))
late = late.assign(vision_over_uniform=late["evidence_mass"] / late["uniform_evidence_share"])
items = items.astype(dict.fromkeys(keys, "str")).merge(late[[*keys, "vision_over_uniform"]], on=keys, how="left")

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
lighter = {"scopes": ["benchmark"], "resampling": light, "min_items": min_items, "brief": True}
columns = {"unadjusted": [], "adjusted": covariates}
tried = [
    interaction.interaction_table(items, names, **lighter, **choice).assign(adjustment=adjustment, choice=label)
    for adjustment, names in columns.items()
    for label, choice in choices.items()
]
robustness = pd.concat(tried, ignore_index=True).query("term == 'entropy:vision'")
robustness[["adjustment", "choice", *shown[1:], "p", "log_likelihood"]].round(3)

# %% [markdown]
# The same steps within one response, where the picture cannot differ: do the entropy and the evidence mass of a step
# move together? Over all steps the script drives both (a read step looks, a compute step does not), so the read steps
# stand beside them. Fisher's interval takes the steps of a response as independent given its mean; the bootstrap by
# response does not.

# %%
link = within.link_table(within.join_step_entropy(tables["steps"], tables["tokens"]), resampling=differences)
link.round(3)

# %% [markdown]
# Negative controls: the unadjusted fit after labels, or vision, were dealt to other items of the cell (the same deal
# for all models of a benchmark). Dealt labels lose every effect, dealt vision those of vision; `p` is the share of
# deals at least as far from zero as the observed coefficient, two-sided.

# %%
dealt = pd.concat(
    deals.dealt_table(items, what, scopes=scopes, n_deals=shuffled_deals, seed=bootstrap_seed, min_items=min_items)
    for what in ("labels", "vision")
)
dealt[["dealt", *scope[1:], "observed", "mean", "sd", "low", "high", "p"]].round(3)

# %% [markdown]
# ## 6 Figure

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (name, rows) in zip(axes, coefficients.items(), strict=True):
    charts.forest(ax, rows, label="entropy x vision (log-odds per sd²)", confidence=confidence_level)
    ax.set_title(name)
record.save_figure(figure, "04_interaction", profile)

# %% [markdown]
# The same on the scale of risks (adjusted): how the effect of entropy differs between high and low vision in all, and
# the part of it that is the interaction's.

# %%
panels = {"effect_difference": "all of it", "difference_by_interaction": "the part of the interaction"}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharex=True, sharey=True)
for ax, (term, title) in zip(axes, panels.items(), strict=True):
    rows = effects["adjusted"][effects["adjusted"]["term"] == term]
    charts.forest(ax, rows, label="P(correct), percentage points", scale=100, confidence=confidence_level)
    ax.set_title(title)
figure.suptitle("Effect of entropy on P(correct): at high vision minus at low vision (adjusted)")
record.save_figure(figure, "04_interaction_risks", profile)

# %%
names = sorted(surface["benchmark"].unique())
figure, axes = plt.subplots(1, len(names), figsize=(7, 2.5), squeeze=False)
for k, name in enumerate(names):
    rows = surface[surface["benchmark"] == name]
    charts.interaction_surface(axes[0, k], rows, min_near=surface_min_rows, colour_bar=k == len(names) - 1)
    axes[0, k].label_outer()
figure.suptitle(f"P(correct) by the adjusted fit; hatched: fewer than {surface_min_rows} answers near")
record.save_figure(figure, "04_interaction_surface", profile)

# %%
for stem, table in (("quadrants", quarters), ("extremes", extremes)):
    own = table[table["scope"] == "cell"]
    models, names = (sorted(own[name].unique()) for name in ("model", "benchmark"))
    figure, axes = plt.subplots(len(models), len(names), figsize=(7, 1.9 * len(models)), squeeze=False)
    for (model, name), rows in own.groupby(["model", "benchmark"]):
        ax = axes[models.index(model), names.index(name)]
        charts.quadrant_risk(ax, rows, confidence=confidence_level, legend=ax is axes[0, 0]).label_outer()
    figure.suptitle(f"Low and high: the {table['share'].iloc[0]:.0%} at either end of the model's answers")
    record.save_figure(figure, f"04_interaction_{stem}", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 4.8), sharex=True, sharey=True)
for ax, (name, rows) in zip(axes, robustness.groupby("adjustment", sort=False), strict=True):
    rows = rows.assign(scope="cell", model=rows["choice"])
    charts.forest(ax, rows, label="entropy x vision (log-odds per sd²)", confidence=confidence_level)
    ax.set_title(name)
record.save_figure(figure, "04_interaction_robustness", profile)

# %% [markdown]
# ## 7 Record numbers

# %%
facts = ["estimate", "ci_low", "ci_high", "method", "n_items", "n_wrong", "n_separated", "n_degenerate"]
numbers = {"n_responses": len(items)}
for name in coefficients:
    rows = coefficients[name]
    numbers[f"coefficients_{name}"] = record.nest(rows[[*scope, *facts, "p", "p_holm"]], scope)
    numbers[f"effects_{name}"] = record.nest(effects[name][[*scope, "term", *facts]], [*scope, "term"])

# %%
tried_facts = robustness[["adjustment", "choice", "benchmark", *facts, "p", "log_likelihood"]]
levels = ["entropy_level", "vision_level"]
for name, table in (("quadrants", quarters), ("extremes", extremes)):
    filled = table[table["n"] > 0]
    numbers[name] = record.nest(
        filled[[*scope, *levels, "n", "n_quadrant_wrong", "risk", "ci_low", "ci_high"]], [*scope, *levels]
    )
numbers["hazard"] = record.nest(hazard.dropna(subset=["estimate"]), [*scope, "entropy_level"])
numbers["robustness"] = record.nest(tried_facts, ["adjustment", "choice", "benchmark"])
numbers["within_response"] = record.nest(link, ["kind", "model", "benchmark"])
numbers["dealt"] = record.nest(dealt, ["dealt", *scope])
record.save_numbers("04_interaction", numbers, profile)

# %% [markdown]
# ## 8 Checks and reading
#
# The sentences below are computed. Read the adjusted ones first: a coefficient that moves with the covariates was in
# part theirs. One that the flexible form brings close to zero cannot be told from a bend of entropy or vision, or from
# what a covariate does; one that depends on the scale of entropy is a statement about that scale. And one that survives
# all of them is still an association: that the model looked less may be a sign of the error, not its cause.

# %%
kind = items.drop_duplicates("benchmark").set_index("benchmark")["task_type"]
for name, rows in coefficients.items():
    own = rows[rows["scope"] == "cell"]
    for benchmark, part in own.groupby("benchmark"):
        print(f"{name}, cells of {benchmark} ({kind[benchmark]}): {interaction.describe_signs(part)}")
    for _, row in rows[rows["scope"] != "cell"].iterrows():
        print(f"{name}, {row['scope']} {row['benchmark']}: {interaction.describe_row(row)}")
for _, row in robustness[robustness["choice"].str.startswith("Flexible")].iterrows():
    print(f"{row['choice']}, {row['adjustment']}, {row['benchmark']}: {interaction.describe_row(row)}")

# %%
confident = hazard[(hazard["entropy_level"] == "low") & (hazard["scope"] == "benchmark")]
for _, row in confident.iterrows():
    print(f"confident answers of {row['benchmark']}, risk at low minus high vision: {interaction.describe_row(row)}")
strayed = deals.find_biased(dealt)
assert strayed.empty, f"dealt labels or vision should leave no interaction:\n{strayed}"
