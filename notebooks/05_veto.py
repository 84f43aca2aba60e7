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
# how much does a rule that uses vision cut the risk below that of entropy alone, over all cells together?
#
# | | |
# |---|---|
# | inputs | the items table of the extraction, test split |
# | outputs | risk-coverage table, gains with intervals and a permutation null, certified thresholds |
# | cost | about two minutes |
#
# With $k$ answers accepted of $n$, the selective risk $r(k/n)$ is the share of wrong ones among the $k$ surest,
# expected over all orders of ties, and AURC is the mean of $r(k/n)$ over $k$. The gain of a rule that accepts $k_{sc}$
# held-out answers in split $s$ and cell $c$, $e_{sc}$ of them wrong, is
#
# $$\text{gain} = \frac{\sum_{s,c} \left(e^{\text{entropy}}_{sc}(k_{sc}) - e_{sc}\right)}{\sum_{s,c} k_{sc}}$$
#
# with $e^{\text{entropy}}_{sc}(k)$ the errors among the $k$ held-out answers of lowest entropy: equal realised
# coverage.

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
coverage = 0.9  # share of the answers that a rule accepts
curve_coverages = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # of the risk-coverage curves
targets = ["sustained_visual_reference"]  # task types that the veto is for, declared beforehand
splits = 100  # repeated halves by item: fit on one, judge on the other
fit_share = 0.5  # of the items, that a split fits on
veto_shares = 10  # candidate vetoes: j / 10 of the withheld answers
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
# ## 3 Setup

# %%
import matplotlib.pyplot as plt

from dontblink.figures import charts
from dontblink.publish import record
from dontblink.schema import read_tables
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import entropy, risk_coverage, veto
from dontblink.studies.cells import require_cells

study = {
    "n_splits": splits, "fit_share": fit_share, "n_shares": veto_shares, "n_blocks": jackknife_blocks,
    "confidence": confidence_level, "min_items": min_items, "seed": split_seed,
}  # fmt: skip
keys = ["scope", "model", "benchmark", "rule"]
shown = [*keys[1:], "realised_coverage", "risk", "entropy_risk", "gain", "ci_low", "ci_high"]

# %% [markdown]
# ## 4 Load and check
#
# Test items only: the calibration items chose the grounding layers. Every split halves the ITEMS, so that no item is in
# both halves for two models.

# %%
items = read_tables(profile, ["items"], split="test")["items"]
require_cells(items, min_items)
missing = set(targets) - set(items["task_type"].astype(str))
assert not missing, f"targets {missing}: no such task type, expected one of {sorted(set(items['task_type']))}"
items.groupby(["benchmark", "task_type", "model"], observed=True)["correct"].agg(["size", "mean"]).round(3)

# %% [markdown]
# ## 5 Compute
#
# Entropy of the whole response, entropy of the answer and vision as confidences, nothing fitted: AURC and the risk of
# the surest answers. `aurc_oracle` (right answers first) and `error_rate` (a random order) are the bounds.

# %%
scores = {name: entropy.SCORES[name] for name in ("full", "answer", "vision")}
resampling = Resampling(bootstrap_replicates, split_seed, confidence_level)
selective = risk_coverage.selective_table(items, scores, coverage=coverage, resampling=resampling)
n_untestable = int(selective["aurc"].isna().sum())
selective.pivot_table("aurc", ["benchmark", "model"], "score").join(
    selective.query("score == 'full'").set_index(["benchmark", "model"])[["aurc_oracle", "error_rate", "risk"]]
).round(3)

# %% [markdown]
# The rules, fitted and judged on repeated splits. `linear` and `interaction` are ONE logit per model over all its
# benchmarks; the veto acts on the targets only; the oracle knows the answers and shows how much there is to gain.

# %%
main = veto.veto_table(items, targets, coverages=(coverage,), n_deals=permutations, **study)
main.query("scope != 'cell'")[[*shown, "p", "null_mean", "veto_share"]].round(4)

# %% [markdown]
# All cells for the veto, with the largest gain that ANY cell reaches when vision is dealt anew (`null_max_high`, its
# upper end): the best of the cells must be held against that, not against its own null.

# %%
cells = main.query("scope == 'cell' and rule == 'veto'")
aimed_at = items.loc[items["task_type"].astype(str).isin(targets), "benchmark"].astype(str).unique()
targeted = cells[cells["benchmark"].isin(aimed_at)]
cells[[*shown, "p", "p_max", "null_max_high", "veto_share"]].round(4)

# %% [markdown]
# Adjusted: entropy and vision less what length, noise level and chain length say about them within the cell.
# Untargeted: the same veto in every task, which shows what targeting spares.

# %%
options = {"coverages": (coverage,), "rules": ("linear", "interaction", "veto"), **study}
adjusted = veto.veto_table(items, targets, covariates=covariates, **options)
untargeted = veto.veto_table(items, None, n_deals=permutations, **{**options, "rules": ("veto",)})
adjusted.query("scope == 'pooled'")[shown].round(4)

# %%
untargeted.query("scope != 'cell'")[[*shown, "p", "veto_share"]].round(4)

# %% [markdown]
# Positive control: what the paper describes, put into the data. In the targeted cells the answers with the least vision
# are made wrong, whatever their entropy. A study that finds nothing here could not have found anything.

# %%
planted = veto.veto_table(
    veto.plant_blind_errors(items, targets, planted_share),
    targets,
    n_deals=permutations,
    **{**options, "rules": ("veto",)},
)
planted.query("scope != 'cell'")[[*shown, "p", "veto_share"]].round(4)

# %% [markdown]
# Risk against coverage, held out.

# %%
curves = veto.veto_table(items, targets, coverages=curve_coverages, **study)

# %% [markdown]
# Learn then test: per cell, the laxest threshold whose risk is below `max_risk` with probability 1 - `delta`, from
# candidates fixed on one third of the items, tested on the second and checked on the third. The guarantee is for one
# cell and for new items like these.

# %%
certified = veto.certify_table(
    items, targets, max_risk=max_risk, delta=delta, coverage=coverage, n_shares=veto_shares,
    confidence=confidence_level, min_items=min_items, seed=split_seed,
)  # fmt: skip
print(certified["guarantee"].iloc[certified["threshold"].notna().argmax()])
columns = ["n_certifying", "n_accepted", "risk", "checked_coverage", "checked_risk", "ci_low", "ci_high"]
certified[["model", "benchmark", "rule", *columns]].round(3)

# %% [markdown]
# ## 6 Figure

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
for ax, rule in zip(axes, ("veto", "linear"), strict=True):
    rows = main[main["rule"] == rule]
    charts.forest(
        ax, rows, "gain", label="risk saved (percentage points)", scale=100, null="null_high",
        confidence=confidence_level, interval="block jackknife",
    )  # fmt: skip
    ax.set_title(f"{charts.RULE_NAMES[rule]} against entropy alone")
record.save_figure(figure, "05_veto", profile)

# %%
figure, axes = plt.subplots(2, 4, figsize=(7, 4.4), sharex=True, sharey="row")
panels = curves[curves["scope"] != "cell"].groupby(["scope", "benchmark"], sort=True)
fitted = ("linear", "interaction", "veto")
for column, (name, rows) in zip(axes.T, panels, strict=False):
    charts.risk_coverage_curves(column[0], rows, confidence=confidence_level, legend=name == ("pooled", "all"))
    charts.risk_coverage_curves(column[1], rows, fitted, value="gain", bands=fitted, legend=False).set_title("")
    column[0].label_outer(), column[1].label_outer()
record.save_figure(figure, "05_veto_curves", profile)

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
controls = {"planted: the blindest are wrong": planted, "veto in every task": untargeted}
for ax, (title, rows) in zip(axes, controls.items(), strict=True):
    charts.forest(
        ax, rows, "gain", label="risk saved (percentage points)", scale=100, null="null_high",
        confidence=confidence_level, interval="block jackknife",
    )  # fmt: skip
    ax.set_title(title)
record.save_figure(figure, "05_veto_controls", profile)

# %% [markdown]
# ## 7 Record numbers

# %%
null = ["p", "null_mean", "null_low", "null_high", "p_max", "null_max_high"]
studies = {"rules": main, "adjusted": adjusted, "untargeted": untargeted, "planted": planted}
numbers = {name: record.nest(table, keys, optional=null) for name, table in studies.items()}
numbers["curves"] = record.nest(curves, [*keys, "coverage"])
numbers["selective"] = record.nest(selective.dropna(subset=["aurc"]), ["score", "model", "benchmark"])
numbers["certified"] = record.nest(
    certified, ["rule", "model", "benchmark"], optional=["threshold", "risk", "checked_risk", "vision_floor"]
)
numbers |= {"n_selective_too_small": n_untestable, "best_cell": float(targeted["gain"].max())}
record.save_numbers("05_veto", numbers, profile)

# %% [markdown]
# ## 8 Checks and reading
#
# The sentences below are computed. A gain whose interval holds zero is not shown to be one. The interval is a block
# jackknife with every fit repeated: in the simulation study (`make simulate`), with `min_items` and more in a cell, it
# is about right or a little too wide for the veto and clearly too wide for the linear rule. In smaller cells the veto
# often acts in no split, its interval has no width, and that is too narrow. The planted control says which size of gain
# would show. A small p says that vision tells something about errors; whether acting on it helps is the gain's
# interval. The permutation null lies a little below zero, because fitting a threshold to noise costs risk.

# %%
print(veto.describe_gain("targeted veto", main.query("rule == 'veto'")))
print(veto.describe_gain("one linear rule", main.query("rule == 'linear'")))
print(veto.describe_gain("targeted veto, adjusted", adjusted.query("rule == 'veto'")))
print(veto.describe_gain("veto in every task", untargeted))
print(veto.describe_gain("targeted veto, planted", planted))
for name, table in (("veto", main.query("rule == 'veto'")), ("planted", planted)):
    pooled = table.query("scope == 'pooled'").iloc[0]
    assert abs(pooled["null_mean"]) < 0.005, f"{name}: shuffled vision should gain nothing"
