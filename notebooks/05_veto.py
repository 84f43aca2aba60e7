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
# and does no harm where disengagement is expected. "Up to" is the best of nine cells, and the best of nine cells looks
# good when vision is pure noise. So: at the same number of accepted answers, on items that no threshold has seen, by
# how much does a rule that uses vision cut the risk below that of entropy alone, over all cells together? (The ledger
# judges the target benchmark: outside of it the gain is zero by construction.)
#
# $$\text{gain} = \frac{\sum_{s,c} \left(e^{\text{entropy}}_{sc}(k_{sc}) - e_{sc}\right)}{\sum_{s,c} k_{sc}}$$
#
# In split $s$ and cell $c$ the rule accepts $k_{sc}$ held-out answers, $e_{sc}$ of them wrong, and
# $e^{\text{entropy}}_{sc}(k)$ is the number of errors among the $k$ held-out answers of lowest entropy.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
coverage = 0.9  # share of the answers that a rule accepts
curve_coverages = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # of the risk-coverage curves
targets = ["sustained_visual_reference"]  # task types that the veto is for, declared beforehand
splits = 100  # repeated halves by item: fit on one, judge on the other
fit_share = 0.5  # of the items, that a split fits on
veto_shares = 10  # candidate floors: j / veto_shares of the withheld answers
jackknife_blocks = 20  # blocks of items left out in turn, every fit repeated, for the interval
permutations = 200  # deals of vision within a cell, every fit repeated
bootstrap_replicates = 2000  # of the risk-coverage table, where nothing is fitted
confidence_level = 0.95  # of every interval
split_seed = 707  # of splits, blocks, deals and resampling
planted_share = 0.1  # positive control: the blindest answers of the targets are made wrong
min_items = 150  # a smaller cell gets no rule and no certificate
covariates = ["log_n_response_tokens", "noise_level", "chain_length"]  # taken out in the adjusted study
max_risk = 0.1  # of an accepted answer, learn then test
delta = 0.1  # chance that its guarantee may fail

# %% [markdown]
# ## 3 Data
#
# Test items only: the calibration items chose the grounding layers. An answer without a number for entropy or vision is
# left out, and so is a cell with too few items or with answers of one class. Splits are drawn by ITEM: none is in both
# halves for two models, and every split halves every jackknife block.

# %%
from fractions import Fraction
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import cells, risk_coverage, veto
from dontblink.studies.entropy import SCORES
from dontblink.studies.veto_rules import prepare_splits

# %%
items = read_tables(profile, ["items"], split="test")["items"]
cells.require_cells(items, min_items)
missing = set(targets) - set(items["task_type"].astype(str))
assert not missing, f"targets {missing}: no such task type, expected one of {sorted(set(items['task_type']))}"
E, V = "full_entropy_nats", "vision_evidence_mass"
answers = cells.keep_usable(cells.select_rows(items, [E, V]), min_items)
answers["wrong"] = 1.0 - answers["correct"]
halves = {"n_splits": splits, "fit_share": fit_share, "n_blocks": jackknife_blocks, "seed": split_seed}
drawn = prepare_splits(answers, targets, n_shares=veto_shares, **halves)
in_fit = drawn.fits_on[:, drawn.row_item]  # a row a split, a column an answer: is it in the half to fit on?
answers.groupby(["benchmark", "task_type", "model"])["wrong"].agg(["size", "mean"]).round(3)

# %% [markdown]
# ## 4 The estimator, in the open
#
# Answers are accepted in the order of their entropy. Tied answers come in any order, so the number of errors among the
# $k$ surest is the one expected over all orders.


# %%
def count_errors(entropy, wrong, k):
    """Return the errors among the k answers of lowest entropy, expected over all orders of ties."""
    limit = np.sort(entropy)[max(k, 1) - 1]
    surer, tied = entropy < limit, entropy == limit
    return wrong[surer].sum() + (k - surer.sum()) * wrong[tied].mean()


# %% [markdown]
# The veto accepts an answer whose entropy is at most a limit and whose vision is at least a floor. Every candidate
# floor but the first withholds some of the blindest answers of the half it is fitted on, and the limit then lets
# through as many as `coverage` asks for. The candidate wins that saves most errors against entropy alone at its own
# number of accepted answers, the smallest veto among equals: without a saving there is no veto.


# %%
def fit_veto(entropy, vision, wrong):
    """Return the limit of entropy and the floor of vision that save most errors on these answers."""
    k, candidates = ceil(Fraction(str(coverage)) * len(entropy)), []
    for j in range(veto_shares + 1):
        n_vetoed = (len(entropy) - k) * j // veto_shares
        floor = np.sort(vision)[n_vetoed] if n_vetoed else -np.inf
        limit = np.sort(entropy[vision >= floor])[k - 1]
        accepted = (vision >= floor) & (entropy <= limit)
        saved = count_errors(entropy, wrong, accepted.sum()) - wrong[accepted].sum()
        candidates.append((round(saved / accepted.sum(), 12), -n_vetoed, limit, floor))
    return max(candidates)[2:]


# %% [markdown]
# One split fits on one half and judges on the other: how many held-out answers the veto accepts, how many of them are
# wrong, and how many would be if entropy alone had accepted as many. That is equal realised coverage.


# %%
def judge(entropy, vision, wrong, fit):
    """Return accepted held-out answers, errors among them, and errors of entropy alone at that number."""
    limit, floor = fit_veto(entropy[fit], vision[fit], wrong[fit])
    accepted = ~fit & (vision >= floor) & (entropy <= limit)
    k = accepted.sum()
    return k, wrong[accepted].sum(), count_errors(entropy[~fit], wrong[~fit], k)


# %% [markdown]
# The gain of a cell, and of all cells together, is a ratio of sums over splits. Outside of the targets no answer is
# vetoed, so that the veto is the entropy rule there.

# %%
answers["look"] = np.where(answers["task_type"].isin(targets), answers[V], np.inf)
sums = {
    cell: np.sum([judge(*own[[E, "look", "wrong"]].to_numpy().T, fit) for fit in in_fit[:, own.index]], axis=0)
    for cell, own in answers.groupby(["model", "benchmark"])
}
sums["all", "all"] = np.sum(list(sums.values()), axis=0)
n, errors, by_entropy = np.array(list(sums.values())).T
risks = {"risk": errors / n, "entropy_risk": by_entropy / n, "gain": (by_entropy - errors) / n}
opened = pd.DataFrame(risks, index=pd.MultiIndex.from_tuples(sums, names=["model", "benchmark"]))
opened.round(4)

# %% [markdown]
# ## 5 Intervals
#
# The library does the same for every rule (`linear` and `interaction` are ONE logit per model over all its benchmarks;
# the oracle knows the answers), and again without each block of items, every fit repeated. In the simulation study
# (`make simulate`), with `min_items` and more in a cell, this block jackknife is about right or a little too wide for
# the veto and clearly too wide for the linear rule. In smaller cells the veto often acts in no split; its interval then
# has no width, which is too narrow.

# %%
study = halves | {"n_shares": veto_shares, "confidence": confidence_level, "min_items": min_items}
main = veto.veto_table(items, targets, coverages=(coverage,), n_deals=permutations, **study)
keys = ["scope", "model", "benchmark", "rule"]
shown = [*keys[1:], "realised_coverage", "risk", "entropy_risk", "gain", "ci_low", "ci_high"]
main.query("scope != 'cell'")[[*shown, "veto_share"]].round(4)

# %% [markdown]
# The open lines are the table's estimates.

# %%
vetoed = main[main["rule"] == "veto"].set_index(["model", "benchmark"])
for name, value in opened.items():
    assert np.allclose(vetoed.loc[value.index, name], value, rtol=0, atol=1e-12), name

# %% [markdown]
# ## 6 What it is held against
#
# Vision dealt anew within the cell, every fit repeated. Fitting a threshold to noise costs risk, so the null is
# expected at or below zero. A small `p` says that vision tells something about errors; whether acting on it helps is
# the gain's interval. The best of the cells must be held against the largest gain that ANY cell reaches when vision is
# dealt anew (`p_max`; `null_max_high` is its one-sided upper end, `null_high` the two-sided one of one cell's null),
# not against its own null.

# %%
vetoed[["gain", "ci_low", "ci_high", "p", "null_mean", "null_high", "p_max", "null_max_high", "veto_share"]].round(4)

# %% [markdown]
# Positive control: what the paper describes, put into the data. In the targeted cells the answers with the least vision
# are made wrong, whatever their entropy. A study that finds nothing here could not have found anything; the gain
# here shows which size it can see. Untargeted: the veto in every task, which shows what targeting spares.

# %%
options = {"coverages": (coverage,), "rules": ("veto",), "n_deals": permutations, **study}
planted = veto.veto_table(veto.plant_blind_errors(items, targets, planted_share), targets, **options)
untargeted = veto.veto_table(items, None, **options)
for name, table in {"veto": vetoed, "planted": planted}.items():
    null_mean, low, high = table.loc[table["scope"] == "pooled", ["null_mean", "null_low", "null_high"]].iloc[0]
    noise = (high - low) / 4 / permutations**0.5  # of the mean over so many deals
    assert abs(null_mean) < 0.005 + 4 * noise, f"{name}: dealt vision should gain nothing, found {null_mean}"
pd.concat({"planted": planted, "in every task": untargeted}).query("scope != 'cell'")[[*shown, "p"]].round(4)

# %% [markdown]
# Adjusted: entropy and vision less what `covariates` say about them within the cell, fitted over all items without
# labels.

# %%
rules = ("linear", "interaction", "veto")
adjusted = veto.veto_table(items, targets, coverages=(coverage,), rules=rules, covariates=covariates, **study)
adjusted.query("scope == 'pooled'")[shown].round(4)

# %% [markdown]
# ## 7 Figure and numbers

# %%
style = {"label": "risk saved (percentage points)", "scale": 100, "null": "null_high", "interval": "block jackknife"}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
for ax, rule in zip(axes, ("veto", "linear"), strict=True):
    charts.forest(ax, main[main["rule"] == rule], "gain", confidence=confidence_level, **style)
    ax.set_title(f"{charts.RULE_NAMES[rule]} against entropy alone")
record.save_figure(figure, "05_veto", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
controls = {"planted: the blindest are wrong": planted, "veto in every task": untargeted}
for ax, (title, rows) in zip(axes, controls.items(), strict=True):
    charts.forest(ax, rows, "gain", confidence=confidence_level, **style)
    ax.set_title(title)
record.save_figure(figure, "05_veto_controls", profile)

# %% [markdown]
# The numbers that the paper and the ledger name, by key; of single cells only the targeted veto. Whole tables: CSV.

# %%
gains = {"rules": main, "adjusted": adjusted, "untargeted": untargeted, "planted": planted}
chance = ["p", "null_mean", "null_high", "p_max", "null_max_high"]
named = [*keys, "coverage", *shown[3:], "n_rows", "n_items", *chance]
numbers = {}
for name, table in gains.items():
    is_cited = (table["scope"] != "cell") | ((table["rule"] == "veto") & (name == "rules"))
    rows = table[is_cited & table["rule"].isin(["veto", "linear"])].reindex(columns=named)
    numbers[name] = record.nest(rows, keys, optional=chance)
aimed_at = answers.loc[answers["task_type"].isin(targets), "benchmark"]
targeted = main["benchmark"].isin(aimed_at) & (main["scope"] == "cell") & (main["rule"] == "veto")
numbers["best_cell"] = float(main.loc[targeted, "gain"].max())
record.save_numbers("05_veto", numbers, profile)
record.save_table("05_veto", "gains", pd.concat(gains, names=["study"]), profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences below are computed. A gain whose interval holds zero is not shown to be one.

# %%
of_rule = dict(list(main.groupby("rule")))
print(veto.describe_gain("targeted veto", of_rule["veto"]))
print(veto.describe_gain("one linear rule", of_rule["linear"]))
print(veto.describe_gain("targeted veto, adjusted", adjusted[adjusted["rule"] == "veto"]))
print(veto.describe_gain("veto in every task", untargeted))
print(veto.describe_gain("targeted veto, planted", planted))

# %% [markdown]
# ## Appendix: other choices
#
# Nothing fitted: entropy of the whole response, entropy of the answer and vision as confidences. AURC is the mean risk
# of the $k$ surest over all $k$; `aurc_oracle` (right answers first) and `error_rate` (a random order) are its bounds.

# %%
scores = {name: SCORES[name] for name in ("full", "answer", "vision")}
resampling = Resampling(bootstrap_replicates, split_seed, confidence_level)
selective = risk_coverage.selective_table(items, scores, coverage=coverage, resampling=resampling)
record.save_table("05_veto", "selective", selective, profile)
selective.pivot_table("aurc", ["benchmark", "model"], "score").join(
    selective.query("score == 'full'").set_index(["benchmark", "model"])[["aurc_oracle", "error_rate", "risk"]]
).round(3)

# %% [markdown]
# Risk against coverage, held out.

# %%
curves = veto.veto_table(items, targets, coverages=curve_coverages, **study)
record.save_table("05_veto", "curves", curves, profile)
figure, axes = plt.subplots(2, 4, figsize=(7, 4.4), sharex=True, sharey="row")
panels = curves[curves["scope"] != "cell"].groupby(["scope", "benchmark"], sort=True)
for column, (name, rows) in zip(axes.T, panels, strict=False):
    charts.risk_coverage_curves(column[0], rows, confidence=confidence_level, legend=name == ("pooled", "all"))
    charts.risk_coverage_curves(column[1], rows, rules, value="gain", bands=rules, legend=False).set_title("")
    column[0].label_outer(), column[1].label_outer()
record.save_figure(figure, "05_veto_curves", profile)

# %% [markdown]
# Learn then test: per cell, the laxest threshold whose risk is below `max_risk` with probability 1 - `delta`, from
# candidates fixed on one third of the items, tested on the second and checked on the third. The guarantee is for one
# cell and for new items like these.

# %%
certified = veto.certify_table(
    items, targets, max_risk=max_risk, delta=delta, coverage=coverage, n_shares=veto_shares,
    confidence=confidence_level, min_items=min_items, seed=split_seed,
)  # fmt: skip
record.save_table("05_veto", "certified", certified, profile)
print(certified["guarantee"].iloc[certified["threshold"].notna().argmax()])
columns = ["n_certifying", "n_accepted", "risk", "checked_coverage", "checked_risk", "ci_low", "ci_high"]
certified[["model", "benchmark", "rule", *columns]].round(3)
