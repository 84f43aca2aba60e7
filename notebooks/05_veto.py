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
# # 05 Veto: does withholding confident but blind answers make the rest safer?
#
# ## 1 Question
#
# The paper reports (C5) that a targeted vision veto cuts selective risk by up to 1.9 percentage points at 90 % coverage
# and does no harm where disengagement is expected. "Up to" is the best of nine cells, which looks good when vision is
# pure noise, and a veto on anything may help: long responses are wrong more often. So: at the same number of accepted
# answers, on items that no threshold has seen, by how much does a rule that uses vision cut the risk below that of
# entropy and length, and by how much more than a veto that does not look at the picture? The vision is declared and
# needs no boxes. (Outside of the target task types the gain is zero by construction.)
#
# $$\text{gain} = \frac{\sum_{s,c} \left(e^{\text{base}}_{sc}(k_{sc}) - e_{sc}\right)}{\sum_{s,c} k_{sc}}$$
#
# In split $s$ and cell $c$ the rule accepts $k_{sc}$ held-out answers, $e_{sc}$ of them wrong, and
# $e^{\text{base}}_{sc}(k)$ is the number of errors among the $k$ held-out answers that entropy and length call surest.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
coverage = 0.9  # share of the answers that a rule accepts
curve_coverages = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # of the risk-coverage curves
targets = ["sustained_visual_reference"]  # task types that the veto is for, declared beforehand
vision = "image"  # the declared one, without boxes
splits = 100  # repeated halves by item: fit on one, judge on the other
fit_share = 0.5  # of the items, that a split fits on
veto_shares = 10  # candidate floors: j / veto_shares of the withheld answers
jackknife_blocks = 20  # blocks of items left out in turn, every fit repeated, for the interval
permutations = 200  # deals of the declared vision within a cell, every fit repeated; of the bounds
other_permutations = 100  # of other visions, placebos and the other base
bootstrap_replicates = 2000  # of the risk-coverage table, where nothing is fitted
confidence_level = 0.95  # of every interval
split_seed = 707  # of splits, blocks, deals and resampling
planted_share = 0.1  # positive control: the blindest answers of the targets are made wrong
min_items = 150  # a smaller cell gets no rule and no certificate
covariates = ["log_n_response_tokens", "noise_level", "chain_length"]  # taken out in the adjusted study
max_risk = 0.1  # of an accepted answer, learn then test
delta = 0.1  # chance that its guarantee may fail
repair_items = 100  # labelled answers of a target that certify a threshold again
guarantee_draws = 50  # divisions of the items by thirds: fit, certify, check

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers. An answer without a number for a vision ranks last
# in it; a cell with too few items or with answers of one class is left out. Splits are drawn by ITEM: none is in both
# halves for two models, and every split halves every jackknife block. Low is the suspect side of every vision, and of
# the placebos: `length` (low is a long response) and `elsewhere` (low is little attention to the question's text).

# %%
from fractions import Fraction
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# %%
from dontblink.figures import charts
from dontblink.params import read_section
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import cells, guarantees, risk_coverage, veto
from dontblink.studies.cells import ORACLES, PLACEBOS
from dontblink.studies.entropy import SCORES
from dontblink.studies.veto_rules import prepare_splits

# %%
measures = read_section(profile, "measures")  # which entropy of a token, and which items
items = read_tables(profile, ["items"], split="test")["items"]
items, visions = cells.choose_visions(items, measures["items"])
items = cells.choose_entropy(items, measures["entropy_support"])
cells.require_cells(items, min_items)
missing = set(targets) - set(items["task_type"].astype(str))
assert not missing, f"targets {missing}: no such task type, expected one of {sorted(set(items['task_type']))}"
assert vision in visions, f"vision {vision}: expected one of {[*visions]}, or measures.items boxed"
V, base = visions[vision], ["full_entropy_nats", "log_n_response_tokens"]
_, answers = veto.select_answers(items, targets, {vision: V}, (), min_items, base)
answers["wrong"] = 1.0 - answers["correct"]
halves = {"n_splits": splits, "fit_share": fit_share, "n_blocks": jackknife_blocks, "seed": split_seed}
drawn = prepare_splits(answers, targets, looks={}, n_shares=veto_shares, **halves)
in_fit = drawn.fits_on[:, drawn.row_item]  # a row a split, a column an answer: is it in the half to fit on?
answers.groupby(["benchmark", "task_type", "model"])["wrong"].agg(["size", "mean"]).round(3)

# %% [markdown]
# ## 4 The estimator, in the open
#
# The base knows how unsure the model is and how long it wrote, nothing else. In each cell and split a logit of wrong on
# both ($z$-scored), fitted on one half by Newton's method, prices every answer: $c = b_E z_E + b_L z_L$.


# %%
def price(features, wrong, fit):
    """Return the cost of each answer: what its features add to the log-odds of being wrong, fitted on one half."""
    x, b = np.column_stack([features, np.ones(len(wrong))])[fit], np.zeros(features.shape[1] + 1)
    for _ in range(12):
        p = 1 / (1 + np.exp(-x @ b))
        b += np.linalg.lstsq((x.T * (p * (1 - p))) @ x, x.T @ (wrong[fit] - p), rcond=None)[0]
    return features @ b[:-1]


# %% [markdown]
# Answers are accepted in the order of their cost. Tied answers come in any order, so the number of errors among the $k$
# surest is the one expected over all orders.


# %%
def count_errors(cost, wrong, k):
    """Return the errors among the k answers of lowest cost, expected over all orders of ties."""
    limit = np.sort(cost)[max(k, 1) - 1]
    surer, tied = cost < limit, cost == limit
    return wrong[surer].sum() + (k - surer.sum()) * wrong[tied].mean()


# %% [markdown]
# The veto accepts an answer whose cost is at most a limit and whose vision is at least a floor. Every candidate floor
# but the first withholds some of the blindest answers of the half it is fitted on, and the limit then lets through as
# many as `coverage` asks for. The candidate wins that saves most errors against the base at its own number of accepted
# answers, the smallest veto among equals: without a saving there is no veto.


# %%
def fit_veto(cost, vision, wrong):
    """Return the limit of cost and the floor of vision that save most errors on these answers."""
    k, candidates = ceil(Fraction(str(coverage)) * len(cost)), []
    for j in range(veto_shares + 1):
        n_vetoed = (len(cost) - k) * j // veto_shares
        floor = np.sort(vision)[n_vetoed] if n_vetoed else -np.inf
        limit = np.sort(cost[vision >= floor])[k - 1]
        accepted = (vision >= floor) & (cost <= limit)
        saved = count_errors(cost, wrong, accepted.sum()) - wrong[accepted].sum()
        candidates.append((round(saved / accepted.sum(), 12), -n_vetoed, limit, floor))
    return max(candidates)[2:]


# %% [markdown]
# One split fits on one half and judges on the other: how many held-out answers the veto accepts, how many of them are
# wrong, and how many would be if the base had accepted as many. That is equal realised coverage.


# %%
def judge(own, fit):
    """Return accepted held-out answers, errors among them, and errors of the base alone at that number."""
    features, (look, wrong) = own[["zE", "zL"]].to_numpy(), own[["look", "wrong"]].to_numpy().T
    cost = price(features, wrong, fit)
    limit, floor = fit_veto(cost[fit], look[fit], wrong[fit])
    accepted = ~fit & (look >= floor) & (cost <= limit)
    k = accepted.sum()
    return k, wrong[accepted].sum(), count_errors(cost[~fit], wrong[~fit], k)


# %% [markdown]
# The gain of a cell, and of all cells together, is a ratio of sums over splits. Outside of the targets no answer is
# vetoed, so that the veto is the base there.

# %%
within = answers.groupby(["model", "benchmark"])
answers[["zE", "zL"]] = within[base].transform(lambda column: (column - column.mean()) / (column.std(ddof=0) or 1))
answers["look"] = np.where(answers["task_type"].isin(targets), answers[V], np.inf)
sums = {
    cell: np.sum([judge(own, fit) for fit in in_fit[:, own.index]], axis=0)
    for cell, own in answers.groupby(["model", "benchmark"])
}
sums["all", "all"] = np.sum(list(sums.values()), axis=0)
n, errors, by_base = np.array(list(sums.values())).T
risks = {"risk": errors / n, "base_risk": by_base / n, "gain": (by_base - errors) / n}
opened = pd.DataFrame(risks, index=pd.MultiIndex.from_tuples(sums, names=["model", "benchmark"]))
opened.round(4)

# %% [markdown]
# ## 5 Intervals
#
# The library does the same for all visions and placebos, and again without each block of items, every fit repeated. In
# the simulation study (`make simulate`; over entropy alone), with `min_items` and more in a cell, this block jackknife
# is about right or a little too wide for the veto. Where the veto acts in no split the interval has no width, which is
# too narrow: read `p` beside it. `evidence` and `cumulative evidence` are oracles, they need the gold boxes; the
# rule `oracle` knows the answers.

# %%
looks = {**visions, **PLACEBOS}
study = halves | {"n_shares": veto_shares, "confidence": confidence_level, "min_items": min_items}
study |= {"coverages": (coverage,), "base": "entropy_length"}
deals = dict.fromkeys(looks, other_permutations) | {vision: permutations}
judged = veto.run_study(items, targets, visions=looks, rules=("entropy", "veto", "oracle"), n_deals=deals, **study)
main = judged.gains()
shown = ["benchmark", "vision", "rule", "realised_coverage", "risk", "base_risk", "gain", "ci_low", "ci_high", "p"]
aims = main["scope"].eq("task_type") & main["benchmark"].isin(targets)
main.loc[aims | main["scope"].eq("pooled"), [*shown, "veto_share", "n_separated"]].round(4)

# %% [markdown]
# The open lines are the table's estimates (a logit that is separated in a split is Firth's in the table).

# %%
vetoes = main[main["rule"] == "veto"]
declared = vetoes[vetoes["vision"] == vision]
table = declared[declared["n_separated"] == 0].set_index(["model", "benchmark"])
table = table[table["scope"].isin(["cell", "pooled"])]
for name, value in opened.items():
    assert np.allclose(table[name], value.loc[table.index], rtol=0, atol=1e-12), name
print(f"{len(table)} of {len(opened)} rows compared")

# %% [markdown]
# ## 6 What it is held against
#
# **Chance.** Vision dealt anew within the cell, every fit repeated. Fitting a threshold to noise costs risk, so the
# null is expected at or below zero. A small `p` says that vision tells something about errors; whether acting on it
# helps is the gain's interval. The best of the cells must be held against the largest gain that ANY cell reaches when
# vision is dealt anew (`p_max`; `null_max_high` is its one-sided upper end, `null_high` the two-sided one of one cell's
# null), not against its own null.

# %%
chance = ["p", "null_mean", "null_high", "p_max", "null_max_high"]
declared.loc[declared["scope"] == "cell", ["model", "benchmark", "gain", *chance, "veto_share"]].round(4)

# %% [markdown]
# **Placebos.** The same veto with something that does not look at the picture. Only what a vision gains beyond both
# placebos speaks for looking. Both are fitted in the same splits and without the same blocks.

# %%
over = judged.compare(visions, PLACEBOS)
over[over["scope"].eq("task_type") & over["benchmark"].isin(targets)].drop(columns=["scope", "model"]).round(4)

# %% [markdown]
# **Entropy alone** as the base, the easier opponent: a veto may gain here because it repeats what length says.

# %%
fewer = dict.fromkeys(looks, other_permutations)
options = study | {"base": "entropy"}
second = veto.run_study(items, targets, visions=looks, rules=("entropy_length", "veto"), n_deals=fewer, **options)
easier = second.gains()
over = pd.concat([over, second.compare(visions, PLACEBOS)])
easier.loc[easier["scope"].eq("task_type") & easier["benchmark"].isin(targets), shown].round(4)

# %% [markdown]
# **The bound.** The largest gain that ANY veto on that vision could have reached on these answers at `coverage`: no
# split, the best of all floors and limits, chosen on the answers that judge it. No held-out choice of a floor is
# expected to do better. It is too good to be true by its choice; dealt vision shows how much of it is luck.

# %%
bounds = veto.bound_table(
    items, targets, visions=looks, base="entropy_length", coverage=coverage, n_deals=permutations,
    min_items=min_items, seed=split_seed,
)  # fmt: skip
bounds[bounds["scope"].eq("task_type") & bounds["benchmark"].isin(targets)].drop(columns=["scope", "model"]).round(4)

# %% [markdown]
# **Positive control**: what the paper describes, put into the data. In the targeted cells the answers with the least of
# the declared vision are made wrong, whatever their entropy. A study that finds nothing here, or not more than its
# placebos do, could not have found anything. **Untargeted**: the veto in every task, which shows what targeting spares.

# %%
blinded = veto.plant_blind_errors(items, targets, planted_share, V)
own = {vision: V}
options = study | {"rules": ("veto",)}
deals = dict.fromkeys(PLACEBOS, other_permutations) | {vision: permutations}
control = veto.run_study(blinded, targets, visions=own | PLACEBOS, n_deals=deals, **options)
planted, planted_over = control.gains(), control.compare(own, PLACEBOS)
untargeted = veto.veto_table(items, None, visions=own, n_deals=other_permutations, **options)
for name, rows in {"veto": declared, "planted": planted[planted["vision"] == vision]}.items():
    null_mean, low, high = rows.loc[rows["scope"] == "pooled", ["null_mean", "null_low", "null_high"]].iloc[0]
    noise = (high - low) / 4 / permutations**0.5  # of the mean over so many deals
    assert abs(null_mean) < 0.005 + 4 * noise, f"{name}: dealt vision should gain nothing, found {null_mean}"
pd.concat({"planted": planted, "in every task": untargeted}).query("scope in ['benchmark', 'pooled']")[shown].round(4)

# %% [markdown]
# **Adjusted**: entropy and vision less what `covariates` say about them within the cell, fitted over all items without
# labels.

# %%
adjusted = veto.veto_table(
    items, targets, visions=own, covariates=covariates, n_deals=other_permutations, **options
)  # fmt: skip
adjusted.query("scope in ['task_type', 'pooled']")[shown].round(4)

# %% [markdown]
# **A promise and its domain.** Learn then test: the laxest threshold whose risk is below `max_risk` with probability
# 1 - `delta`, from candidates fixed on one third of the items of a cell, certified on the second. Home: checked on the
# last third. Shifted: the same threshold on another benchmark of the same model. Repaired: certified again on
# `repair_items` labelled answers of the target, checked on its others. In many draws; a violation is a certified
# threshold whose accepted answers have a risk above `max_risk`, a sure one has its Clopper-Pearson interval above it.
# `delta` limits the violations among all draws (`share_of_draws`), not among those that end with a certificate
# (`share`): where the risk is close to the limit few are certified, and of these many by luck.

# %%
shifts = guarantees.shift_table(
    items, targets, vision=V, max_risk=max_risk, delta=delta, coverage=coverage, n_shares=veto_shares,
    n_draws=guarantee_draws, repair_items=repair_items, confidence=confidence_level, min_items=min_items,
    seed=split_seed,
)  # fmt: skip
pairs, kinds = guarantees.summarise_pairs(shifts), guarantees.summarise_kinds(shifts)
print(shifts["guarantee"].iloc[shifts["threshold"].notna().argmax()])
kinds.round(3)

# %% [markdown]
# ## 7 Figure and numbers

# %%
aimed_at = answers.loc[answers["task_type"].isin(targets), "benchmark"].unique()
style = {"label": "risk saved beyond entropy + length\n(percentage points)", "scale": 100}


def pick(rows, name="", column="vision"):
    """Return the rows of the target's benchmarks and the pooled one, of one vision."""
    kept = rows["scope"].eq("pooled") | rows["scope"].isin(["cell", "benchmark"]) & rows["benchmark"].isin(aimed_at)
    return rows[kept & (rows[column] == name)] if name else rows[kept]


# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharey=True)
marks = {f"placebo: {name}": pick(vetoes, name) for name in PLACEBOS}
marks |= {"evidence (oracle)": pick(vetoes, "evidence")} if "evidence" in visions else {}
marks |= {f"bound ({vision}, in sample)": pick(bounds, vision)}
quantity = pick(declared).assign(quantity=f"{vision} veto")
limits = {"confidence": confidence_level, "interval": "block jackknife", **style}
charts.forest(axes[0], quantity, "gain", null="null_high", controls=marks, **limits)
rows = over[(over["vision"] == vision) & (over["base"] == "entropy_length")]
less = [pick(rows, name, "placebo") for name in PLACEBOS]
charts.forest(axes[1], less[0], beside=less[1], **limits | {"label": "difference of risk saved\n(percentage points)"})
axes[1].set_title(f"{vision} veto less placebo veto\n(filled: {list(PLACEBOS)[0]}; hollow: {list(PLACEBOS)[1]})")
record.save_figure(figure, "05_veto", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8), sharey=True)
drawn_rows = planted[planted["scope"] != "task_type"]
marks = {f"placebo: {name}": drawn_rows[drawn_rows["vision"] == name] for name in PLACEBOS}
found = drawn_rows[drawn_rows["vision"] == vision].assign(quantity=f"{vision} veto, planted")
charts.forest(axes[0], found, "gain", null="null_high", controls=marks, **limits)
charts.forest(axes[1], untargeted[untargeted["scope"] != "task_type"], "gain", null="null_high", **limits)
axes[1].set_title("veto in every task")
record.save_figure(figure, "05_veto_controls", profile)

# %%
named = pairs.query("monitor == 'entropy_length'").assign(row=lambda t: t["source"] + " to " + t["target"])
models = named.loc[named["kind"] == "shifted", "model"].unique()
figure, axes = plt.subplots(1, len(models), figsize=(7, 3.6), sharex=True, sharey=True, squeeze=False)
for ax, model in zip(axes[0], models, strict=True):
    home, shifted, repaired = (named[(named["model"] == model) & (named["kind"] == k)] for k in guarantees.KINDS)
    charts.guarantee_panel(ax, shifted, repaired, home, max_risk=max_risk, confidence=confidence_level)
    ax.set_title(model)
axes[0, 0].figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
record.save_figure(figure, "05_veto_guarantees", profile)

# %% [markdown]
# The numbers that the paper and the ledger name, by key; of single cells only the declared vision and evidence. Whole
# tables: CSV.

# %%
keys = ["base", "vision", "scope", "model", "benchmark"]
values = ["gain", "ci_low", "ci_high", "realised_coverage", "risk", "base_risk", "n_rows", "n_items", *chance]
studies = {"gain": pd.concat([main, easier]), "planted": planted, "untargeted": untargeted, "adjusted": adjusted}
underscored, numbers = {look: look.replace(" ", "_") for look in looks}, {}
for name, rows in studies.items():
    is_cited = rows["rule"].eq("veto") & rows["gain"].notna()  # a cell too small for a rule has no key
    is_cited &= (rows["scope"] != "cell") | rows["vision"].isin([vision, "evidence"])
    cited = rows[is_cited].replace({"vision": underscored})
    numbers[name] = record.nest(cited.reindex(columns=[*keys, *values]), keys, optional=chance)
compared = over[over["scope"] != "cell"].replace({"vision": underscored})
keys = ["base", "vision", "placebo", "scope", "model", "benchmark"]
numbers["over_placebo"] = record.nest(compared[[*keys, "estimate", "ci_low", "ci_high"]], keys)

# %%
keys = ["vision", "scope", "model", "benchmark"]
cited = bounds.replace({"vision": underscored})[[*keys, "gain", "null_mean", "null_high"]]
numbers["bound"] = record.nest(cited, keys)
cited = kinds[kinds["monitor"] == "entropy_length"].drop(columns="monitor")
numbers["guarantee"] = record.nest(cited, ["kind"], optional=["share", "worst_risk"])
in_target = declared["scope"].eq("cell") & declared["benchmark"].isin(aimed_at)
numbers |= {"best_cell": float(declared.loc[in_target, "gain"].max()), "coverage": coverage}
numbers["judges_evidence"] = "evidence" in visions
record.save_numbers("05_veto", numbers, profile)
tables = {"gains": pd.concat(studies, names=["study"]), "bounds": bounds, "guarantees": kinds, "pairs": pairs}
tables["draws"] = shifts[shifts["monitor"] == "entropy_length"].drop(columns=["monitor", "guarantee"])
tables["over_placebo"] = pd.concat({"items": over, "planted": planted_over}, names=["study"])
for name, rows in tables.items():
    record.save_table("05_veto", name, rows, profile)

# %% [markdown]
# What each value is a value of, so that two ways to one quantity can be compared.

# %%
counted = declared[declared["scope"] == "cell"].assign(measure="error rate", vision="", rows="test")
gains = {"measure": "gain of the veto over entropy and length", "rows": "test, held-out halves", "vision": vision}
quantities = [
    counted.assign(method="counted by the veto table", value=counted["n_wrong"] / counted["n_rows"]),
    table.reset_index().assign(**gains, method="veto table", value=table["gain"].to_numpy()),
    opened.reset_index().assign(**gains, method="open lines", value=opened["gain"].to_numpy()),
]
record.save_quantities("05_veto", [part.assign(adjustment="") for part in quantities], profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences below are computed. A gain whose interval holds zero is not shown to be one.

# %%
for target in targets:
    for look in looks:
        kind = "oracle" if look in ORACLES else "placebo" if look in PLACEBOS else "vision"
        print(veto.describe_gain(f"{look} ({kind})", vetoes[vetoes["vision"] == look], target))
    print(veto.describe_gain(f"{vision} veto, adjusted", adjusted, target))
    print(veto.describe_gain(f"{vision} veto, planted", planted[planted["vision"] == vision], target))
print(veto.describe_gain(f"{vision} veto in every task", untargeted))

# %%
print(veto.describe_differences(over[over["base"] == "entropy_length"], targets))
print(veto.describe_differences(planted_over, targets), "(planted)")
print(veto.describe_bounds(bounds, targets))
print(guarantees.describe_kinds(kinds[kinds["monitor"] == "entropy_length"], max_risk, delta))

# %% [markdown]
# ## Appendix: other choices
#
# Nothing fitted: entropy of the whole response, entropy of the answer and vision as confidences; an answer without the
# score ranks last. AURC is the mean risk of the $k$ surest over all $k$; `aurc_oracle` (right answers first) and
# `error_rate` (a random order) are its bounds.

# %%
scores = {name: SCORES[name] for name in ("full", "answer")}
scores |= {look: (column, 1.0) for look, column in visions.items()}
resampling = Resampling(bootstrap_replicates, split_seed, confidence_level)
selective = risk_coverage.selective_table(items, scores, coverage=coverage, resampling=resampling)
record.save_table("05_veto", "selective", selective, profile)
selective.pivot_table("aurc", ["benchmark", "model"], "score").join(
    selective.query("score == 'full'").set_index(["benchmark", "model"])[["aurc_oracle", "error_rate", "risk"]]
).round(3)

# %% [markdown]
# Risk against coverage, held out; the gain is over entropy and length.

# %%
rules = ("entropy", "linear", "veto")
options = study | {"coverages": curve_coverages}
curves = veto.veto_table(items, targets, visions=own, rules=(*rules, "entropy_length", "oracle"), **options)
record.save_table("05_veto", "curves", curves, profile)
figure, axes = plt.subplots(2, 4, figsize=(7, 4.4), sharex=True, sharey="row")
panels = curves[curves["scope"].isin(["benchmark", "pooled"])].groupby(["scope", "benchmark"], sort=True)
for column, (name, rows) in zip(axes.T, panels, strict=False):
    charts.risk_coverage_curves(column[0], rows, confidence=confidence_level, legend=name == ("pooled", "all"))
    charts.risk_coverage_curves(column[1], rows, rules, value="gain", bands=rules, legend=False).set_title("")
    column[0].label_outer(), column[1].label_outer()
record.save_figure(figure, "05_veto_curves", profile)
