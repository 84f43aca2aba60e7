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
# # 07 Monitor: which answers need the picture to the end, can that be told early, and what is a flag worth?
#
# ## 1 Question
#
# A veto on blind answers (05) is told by hand which tasks need the picture. A monitor of a user's own question is not.
# Words learn the benchmark, so the label here is causal and an item's own: what becomes of the answer when another
# item's picture is seen from half of the reasoning on?
#
# $$\text{need} = \log\frac{p}{1-p}\Big|_{\text{own picture}} - \log\frac{p}{1-p}\Big|_{\text{other picture}}$$
#
# $p$ is the probability of the response's own answer, behind its own text, and behind the text that follows the other
# picture. Then: can need be predicted from the question, or from the first tokens, without boxes, for a benchmark and
# for a model that no fit has seen? And what does the flag *confident AND not looking AND needed* save?

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
second_profile = "needs"  # whose items have levels of need inside each benchmark; it fits and judges the monitor
targets = ["sustained_visual_reference"]  # task types that the declared veto is for
needed_nats = 2.3  # log-odds that an answer loses at least where it needs to look: its odds fall tenfold
stages = [8, 16, 32]  # first tokens that need is predicted from
window_tokens = 8  # last tokens whose mean mass on the image is the look
confident_share = 0.5  # of the calibration responses, lowest mean entropy: they are confident
away_share = 0.5  # of the calibration responses, lowest mass on the image: they do not look
least_need = 0.5  # probability of need from which on looking is needed
decided = 0.8  # a prediction between 1 - this and this abstains
least_accuracy = 0.5  # of a model's answers to items of a level; fewer: it cannot answer them, nothing is said
calibration_bins = 10  # of equal counts, for the calibration error
coverage = 0.9  # share of the answers that a rule accepts
splits = 100  # repeated halves by item: fit on one, judge on the other
fit_share = 0.5  # of the items, that a split fits on
veto_shares = 10  # candidate floors: j / veto_shares of the withheld answers
jackknife_blocks = 20  # blocks of items left out in turn, every fit repeated, for the interval
permutations = 100  # deals of the look within a cell, every fit repeated
max_risk = 0.1  # of an accepted answer, learn then test
delta = 0.1  # chance that its guarantee may fail
repair_items = 100  # labelled answers of a target that certify a threshold again
guarantee_draws = 50  # divisions of the items by thirds: fit, certify, check
power = 0.8  # chance to show a gain, of the number of items that is asked for it
bootstrap_replicates = 2000  # of items drawn with replacement
confidence_level = 0.95  # of every interval
seed = 808  # of resampling, splits and deals
min_items = 150  # a smaller cell gets no rule and no certificate

# %% [markdown]
# ## 3 Data
#
# The second set asks in the words of the first, but a third of the items of each benchmark is made so that its gold
# chain reads a deciding cell behind half of its words (late), restates one there (recall), or neither (early). Its
# calibration items fit everything; its test items judge. The first set, whose benchmarks differ in need, is the shift.
# The tables are those of `make causal` of both profiles. Where nobody made them the cells about them (tagged
# `needs_monitor`) are left out.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

# %%
from dontblink import paths
from dontblink.figures import charts
from dontblink.params import read_section
from dontblink.publish import record
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import guarantees, need, veto
from dontblink.studies.risk import FEATURES, Known, Line, Monitor, Scale, Signals, Stage, risk_terms

# %%
cell, response = ["model", "benchmark"], ["model", "benchmark", "split", "item_id"]
second = need.read_needs(second_profile)
has_monitor = need.is_measured(profile, second_profile)
has_levels = bool((second["level"] != "").any())
if not has_monitor:
    print(f"nobody has measured the need of these models: make extract causal PROFILE={second_profile}")
first = need.read_needs(profile) if profile != second_profile else second.head(0)
rows = pd.concat({"second": second, "first": first}, names=["set"]).reset_index(level=0).reset_index(drop=True)
rows["needed"] = (rows["need_nats"] >= needed_nats).astype(float).where(rows["need_nats"].notna())
rows["loses"] = (rows["needed"] == 1) | (rows["why_not"] == "no answer")  # what an oracle would withhold
rows["n_question_words"] = rows["question"].str.split().str.len()
print(rows.groupby(["set", "split"])["needed"].agg(["size", "count", "mean"]).round(3))
print(rows.loc[rows["needed"].isna(), "why_not"].value_counts().to_string())

# %% [markdown]
# The signals of every token need no box: its entropy, and the mass on the image, mean of all heads. They are measured
# on each model's own scale, that of the tokens of its calibration responses, which need no label for it.

# %% tags=["needs_monitor"]
signals = pd.concat([need.read_signals(second_profile), *([need.read_signals(profile)] if len(first) else [])])
signals = rows.reset_index(names="row")[["row", *response]].merge(signals, on=response, validate="1:m")
is_second = signals["row"].map(rows["set"]) == "second"
fitting = signals[is_second & (signals["split"] == "calibration")]
names = {"entropy_z": "entropy_nats", "visual_z": "visual_mass"}
means, spreads = (fitting.groupby("model")[[*names.values()]].agg(how) for how in ("mean", "std"))
for name, signal in names.items():
    centre, spread = (signals["model"].map(table[signal]).astype(float) for table in (means, spreads))
    signals[name] = (signals[signal] - centre) / spread

# %% [markdown]
# Can the models answer the second set? A level of a benchmark that a model answers wrongly in most of its CALIBRATION
# items says nothing about need: there need counts as not known, in fits and when predictions are judged. Its answers
# stay among those that a veto may withhold. And did the levels do what they were made for (test items)?

# %% tags=["needs_monitor"]
second_rows = rows[rows["set"] == "second"]
told = need.level_table(second_rows[second_rows["split"] == "calibration"], least_accuracy=least_accuracy)
unanswered = told[~told["is_answered"]]
keys = [*cell, "level"]
cannot = rows[keys].apply(tuple, axis=1).isin(unanswered[keys].apply(tuple, axis=1)) & (rows["set"] == "second")
rows.loc[cannot & (rows["level"] != ""), "needed"] = np.nan
print(f"not answered: {len(unanswered)} of {len(told)} model x benchmark x level")
print(unanswered[[*keys, "n_rows", "accuracy"]].to_string(index=False))
test_rows = second_rows[second_rows["split"] == "test"]
levels = need.level_table(test_rows, least_accuracy=least_accuracy).drop(columns="is_answered")
levels = levels.merge(told[[*keys, "is_answered"]], on=keys)
levels.round(3)

# %% [markdown]
# ## 4 The estimator, in the open
#
# Four features of the first $n$ tokens, standardised as above: mean and largest entropy, mean mass on the image, and
# its change from the first half to the second. A response shorter than $n$ keeps what the stage before said.


# %%
def read_first(signals, n):
    """Return the features of the first n tokens of each response that has so many, by its row."""
    early = signals[signals["token_index"] < n].sort_values(["row", "token_index"])
    early = early[early.groupby("row")["row"].transform("size") == n]
    entropy, visual = (early[name].to_numpy().reshape(-1, n) for name in ("entropy_z", "visual_z"))
    change = visual[:, n // 2 :].mean(axis=1) - visual[:, : n // 2].mean(axis=1)
    features = np.column_stack([entropy.mean(axis=1), entropy.max(axis=1), visual.mean(axis=1), change])
    return pd.DataFrame(features, early["row"].unique(), [f"{name}_{n}" for name in feature_names])


# %% tags=["needs_monitor"]
feature_names = ["mean_entropy_z", "largest_entropy_z", "mean_visual_z", "visual_change_z"]
rows = rows.join([read_first(signals, n) for n in stages])
by_stage = {f"{n:02d} tokens": [f"{name}_{n}" for name in feature_names] for n in stages}

# %% [markdown]
# Need of one group of responses is predicted by a logistic line that has not seen the group: calibration items of the
# others, features standardised over them, a ridge of one ($C = 1$), by Newton's method.


# %%
def predict_group(rows, columns, left_out, name):
    """Return P(needed) of the test responses of one benchmark or model, the line fitted without it."""
    known = rows[columns].notna().all(axis=1)
    fit = rows[known & (rows["split"] == "calibration") & (rows[left_out] != name)].dropna(subset=["needed"])
    asked = rows[known & (rows["split"] == "test") & (rows[left_out] == name)]
    x, y = fit[columns].to_numpy(), fit["needed"].to_numpy()
    centre, spread = x.mean(axis=0), x.std(axis=0)
    design = np.column_stack([(x - centre) / spread, np.ones(len(x))])
    ridge, b = np.diag([1.0] * len(columns) + [0.0]), np.zeros(len(columns) + 1)
    for _ in range(25):
        p = 1 / (1 + np.exp(-design @ b))
        b += np.linalg.solve((design.T * (p * (1 - p))) @ design + ridge, design.T @ (y - p) - ridge @ b)
    return pd.Series(1 / (1 + np.exp(-(asked[columns] - centre) / spread @ b[:-1] - b[-1])), asked.index)


# %% [markdown]
# How well it ranks: the chance that a response that needs the picture gets the larger probability.


# %%
def rank(needed, probability):
    """Return the AUROC, ties half."""
    yes, no = probability[needed == 1].to_numpy()[:, None], probability[needed == 0].to_numpy()
    return ((yes > no) + (yes == no) / 2).mean()


# %% [markdown]
# A token is flagged where the response is confident so far, its last tokens do not look, and looking is needed.


# %%
def flag(entropy_z, look_z, p_needed, sure, away):
    """Return whether an answer is confident and blind where looking is needed."""
    return (entropy_z <= sure) & (look_z < away) & (p_needed >= least_need)


# %% [markdown]
# ## 5 Intervals
#
# Items are drawn with all their models. The AUROC is the mean over cells (model x benchmark), within which responses
# are ranked: what a predictor knows of a benchmark or a model as a whole counts in `auroc_across` alone, where all
# rows are ranked together. A model that is left out is still measured on its own scale, which takes responses without
# labels.

# %% tags=["needs_monitor"]
drawn = Resampling(bootstrap_replicates, seed, confidence_level, "percentile")  # a class may have one item in a cell
predictors = by_stage | {"question length": ["n_question_words"], "words": [need.WORDS]}
last, known = list(by_stage)[-1], rows[rows["set"] == "second"]
predicted = {left_out: need.predict_need(known, predictors, left_out) for left_out in need.LEFT_OUT}
judged = {"bins": calibration_bins, "sure_share": decided, "resampling": drawn}
quality = need.prediction_table(known, predicted, **judged)
shown = ["auroc", "ci_low", "ci_high", "auroc_across", "brier", "calibration_error", "decided_share", "decided_right"]
quality[quality["group"] == "all"].set_index(["left_out", "predictor"])[shown].round(3)

# %% [markdown]
# The open lines are the library's.

# %% tags=["needs_monitor"]
columns, is_test = predictors[last], known["split"] == "test"
for left_out in ("benchmark", "model"):
    for name in sorted(set(known[left_out])):
        opened = predict_group(known, columns, left_out, name)
        assert np.allclose(opened, predicted[left_out].loc[opened.index, last], rtol=0, atol=1e-6), name
judged_rows = known[is_test].dropna(subset=["needed"]).groupby(cell, observed=True)
ranked = {left_out: np.nanmean([
    rank(own["needed"], predicted[left_out].loc[own.index, last]) for _, own in judged_rows
    if own["needed"].nunique() == 2
]) for left_out in predicted}  # fmt: skip
listed = quality.query("predictor == @last and group == 'all'").set_index("left_out")["auroc"]
assert np.allclose(listed, [ranked[name] for name in listed.index], rtol=0, atol=1e-12)

# %% [markdown]
# ## 6 What it is held against
#
# **Majority, length, words.** What the question alone says, group by group. Where words rank well across benchmarks and
# not within them, or not with the benchmark left out, they have learned the benchmark.

# %% tags=["needs_monitor"]
quality.pivot_table("auroc", ["left_out", "group"], "predictor", observed=True).round(3)

# %% [markdown]
# **Another set.** The same fit on the first set, whose benchmarks differ in need more than its items do.

# %% tags=["needs_monitor"]
shifted = pd.DataFrame()
if len(first):
    both = rows[(rows["set"] == "first") | (rows["split"] == "calibration")]
    moved = {"nothing": need.predict_need(both, predictors)}
    shifted = need.prediction_table(both, moved, **judged)
    print(shifted.pivot_table("auroc", "group", "predictor", observed=True).round(3).to_string())

# %% [markdown]
# **The monitor that is kept**: a stage for each number of tokens, a line of risk (is the answer wrong?) on entropy,
# look, need and length after each quarter of the calibration responses, thresholds from shares of them at their last
# token. All models and benchmarks of the second set fit it, so it may be used on their like, and says so elsewhere.

# %% tags=["needs_monitor"]
def fit_line(x, y):
    """Return weights and intercept of `need.build_classifier` on features as they are, not standardised."""
    model = need.build_classifier([])[1:].fit((x - x.mean(axis=0)) / x.std(axis=0), y)[0]
    weights = model.coef_[0] / x.std(axis=0)
    return tuple(weights.tolist()), float(model.intercept_[0] - weights @ x.mean(axis=0))


# %% tags=["needs_monitor"]
calibration, fitted = known[known["split"] == "calibration"], []
for n, columns in zip(stages, by_stage.values(), strict=True):
    reached = calibration.dropna(subset=[*columns, "needed"])
    x = reached[columns].to_numpy()
    low, high = (tuple(np.quantile(x, end, axis=0).tolist()) for end in (0.01, 0.99))
    fitted.append(Stage(n, *fit_line(x, reached["needed"].to_numpy(bool)), low, high))
parts = {name: own for name, own in fitting.groupby("model")} | {"": fitting}
scales = {
    name: Signals(*(Scale(float(own[s].mean()), float(own[s].std())) for s in names.values()))
    for name, own in parts.items()
}

# %% tags=["needs_monitor"]
folder, models = paths.ROOT / read_section(profile, "extraction")["checkpoints_folder"], {}
for name in means.index:
    with torch.device("meta"):  # no weights: how many parameters it has
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder / name))
    models[name] = Known(empty.config.model_type, empty.num_parameters(), scales[name])

# %% tags=["needs_monitor"]
facts = {
    "models": models, "pooled": scales[""], "benchmarks": tuple(sorted(set(known["benchmark"]))),
    "n_items": calibration["item_id"].nunique(), "window_tokens": window_tokens, "least_need": least_need,
}  # fmt: skip
plain = Monitor(tuple(fitted), Line((0.0,) * 5, 0.0), sure=0.0, least_look=0.0, **facts)
follows = {
    row: plain.follow(own["entropy_nats"], own["visual_mass"], own["model"].iloc[0])
    for row, own in signals[is_second].groupby("row")
}
quarters = [0.25, 0.5, 0.75, 1.0]

# %% tags=["needs_monitor"]
at = need.read_shares(follows, rows, scales, quarters)
stage, x = fitted[-1], calibration[by_stage[last]].dropna()
opened = 1 / (1 + np.exp(-x @ np.array(stage.weights) - stage.intercept))
assert tuple(feature_names) == FEATURES
assert np.allclose(opened, [follows[row]["need"].iloc[stage.n_tokens - 1] for row in x.index], rtol=0, atol=1e-9)

# %% tags=["needs_monitor"]
fit = at[at["split"] == "calibration"]
whole = fit[fit["share"] == 1]
sure, away = whole["entropy_z"].quantile(confident_share), whole["look_z"].quantile(away_share)
long = fit.dropna(subset=["need"])
terms = np.column_stack(risk_terms(long["entropy_z"], long["look_z"], long["need"], np.log(long["n_tokens"])))
risk = Line(*fit_line(terms, long["wrong"].to_numpy(bool)))
monitor = Monitor(tuple(fitted), risk, sure=float(sure), least_look=float(away), **facts)
file = paths.outputs(profile) / "07_monitor_fitted.json"
monitor.save(file)
print(f"{paths.show(file)}: {monitor.describe_domain()}")

# %% tags=["needs_monitor"]
test = known[known["split"] == "test"]
follows = {
    row: monitor.follow(own["entropy_nats"], own["visual_mass"], own["model"].iloc[0])
    for row, own in signals[signals["row"].isin(test.index)].groupby("row")
}
at = need.read_shares(follows, rows, scales, quarters)
own = at[at["share"] == 1].set_index("row").reindex(test.index)
print(f"{len(test) - len(follows)} of {len(test)} test responses have no token")

# %% [markdown]
# The open flag is the monitor's. When does it stand, how steady is it, and how often are flagged answers wrong? Looks
# fall towards the end of a response and the threshold is that of last tokens: a flag that comes late says so, too.

# %% tags=["needs_monitor"]
opened = flag(own["entropy_z"], own["look_z"], own["need"], sure, away)
flags = need.flag_table(follows, test)
assert (opened.loc[flags.index] == flags["is_flagged"]).all()
lead = need.lead_table(flags)
worth = need.flag_risk(flags, own.loc[flags.index, "entropy_z"] <= sure, drawn)
print(worth)
lead.round(3)

# %% [markdown]
# **Is the risk a probability, and does it rank?** After each quarter of the test responses: its mean beside the share
# of wrong answers, and how it ranks them within a cell, beside the mean entropy and the length alone.

# %% tags=["needs_monitor"]
told_at = at.rename(columns={"mean_entropy_nats": "entropy", "n_tokens": "length"})
told_at.attrs["scores"] = ["entropy", "length"]
risks = need.risk_table(told_at, drawn)
risks.set_index(["share", "score"]).round(3)

# %% [markdown]
# **A veto by need.** The veto of 05, over entropy and length, on held-out halves; the look is the mean mass on the
# image of the last tokens. Whom it is for differs: all answers, the declared task type, the answers that are
# predicted to need the picture, those that lose by the intervention (an oracle; an answer that never came counts).
# Beside each: the same number of answers of each cell drawn at random (need dealt anew, the mean of three deals).
# Predictions of need are held while blocks are left out; every fit of the veto is repeated.

# %% tags=["needs_monitor"]
answers = test[["model", "benchmark", "split", "item_id", "correct"]].assign(
    full_entropy_nats=own["mean_entropy_nats"], n_response_tokens=own["n_tokens"], look=own["look_mass"],
)  # fmt: skip
needs = {name: predicted[name][last] >= least_need for name in need.LEFT_OUT}
asked = {
    "all answers": test["split"] == "test", "declared task type": test["task_type"].isin(targets),
    "predicted need": needs["nothing"], "predicted, benchmark left out": needs["benchmark"],
    "predicted, model left out": needs["model"], "needed (oracle)": test["loses"],
}  # fmt: skip
asked = {who: is_asked for who, is_asked in asked.items() if is_asked.any()}


# %% tags=["needs_monitor"]
options = {
    "visions": {"look": "look"}, "rules": ("veto",), "base": "entropy_length", "coverages": (coverage,),
    "n_splits": splits, "fit_share": fit_share, "n_shares": veto_shares, "n_blocks": jackknife_blocks,
    "confidence": confidence_level, "min_items": min_items, "seed": seed,
}  # fmt: skip


def study_veto(is_asked, n_deals=0):
    """Return the study of the veto for some answers, its look dealt so often."""
    named = answers.assign(task_type=np.where(is_asked, "asked", "other"))
    return veto.run_study(named, ["asked"], n_deals=n_deals, **options)


# %% tags=["needs_monitor"]
studies = {who: study_veto(is_asked, permutations) for who, is_asked in asked.items()}
gains = pd.concat({who: study.gains() for who, study in studies.items()}, names=["vetoed"]).reset_index(level=0)
over = []
for who, is_asked in asked.items():
    dealt = [need.deal_need(test.assign(p=is_asked), "p", seed + k) for k in range(3)]
    if is_asked.groupby([test[name] for name in cell]).nunique().max() > 1:  # else there is nothing to deal in a cell
        beside = [study_veto(each) for each in dealt]
        over.append({"vetoed": who} | veto.compare_studies(studies[who], beside, "look", coverage))
over = pd.DataFrame(over)
columns = ["vetoed", "realised_coverage", "risk", "base_risk", "gain", "ci_low", "ci_high", "p", "n_items"]
gains.loc[gains["scope"] == "pooled", columns].round(4)

# %% tags=["needs_monitor"]
whole = gains[gains["scope"] == "pooled"].set_index("vetoed")
ways = {"power": power, "confidence": confidence_level}
n_items = {
    who: need.find_needed_items(row.gain, row.ci_low, row.ci_high, row.n_items, **ways)
    for who, row in whole.iterrows()
}
over.round(4)

# %% [markdown]
# **A promise and its domain.** Learn then test, as in 05: at home, on another benchmark, repaired with labels there.

# %% tags=["needs_monitor"]
left = needs["benchmark"]
named = answers.assign(task_type=np.where(left, "asked", "other"))
promised = guarantees.shift_table(
    named, ["asked"] if left.any() else None, vision="look", max_risk=max_risk, delta=delta, coverage=coverage,
    n_shares=veto_shares, n_draws=guarantee_draws, repair_items=repair_items, confidence=confidence_level,
    min_items=min_items, seed=seed,
)  # fmt: skip
kinds = guarantees.summarise_kinds(promised)
kinds.round(3)

# %% [markdown]
# ## 7 Figure and numbers

# %%
if not has_monitor:
    figure, ax = plt.subplots(figsize=(7, 0.6))
    ax.set_title("no need was measured in this profile").axes.set_axis_off()
    record.save_figure(figure, "07_monitor", profile)

# %% [markdown]
# How well need is predicted, and what a veto by it saves.

# %% tags=["needs_monitor"]
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), width_ratios=(1, 1.1))
whole_quality = quality[quality["group"] == "all"].assign(row=lambda t: t["predictor"])
parts = dict(list(whole_quality.groupby("left_out")))
main = parts["benchmark"].assign(quantity="benchmark left out")
marks = {"model left out": parts["model"], "nothing left out": parts["nothing"]}
charts.forest(axes[0], main, "auroc", label="AUROC of need", zero=0.5, controls=marks, confidence=confidence_level)
saved = gains[gains["scope"] == "pooled"].assign(row=lambda t: t["vetoed"])
style = {"label": "risk saved beyond entropy + length\n(percentage points)", "scale": 100}
style |= {"confidence": confidence_level, "interval": "block jackknife"}
charts.forest(axes[1], saved, "gain", null="null_high", **style)
record.save_figure(figure, "07_monitor", profile)

# %% [markdown]
# The levels, and what they made: the share of answers that need the picture from half of the reasoning on.

# %% tags=["needs_monitor"]
benchmarks = sorted(set(levels["benchmark"]))
figure, axes = plt.subplots(1, len(benchmarks), figsize=(7, 2.9), sharex=True, sharey=True, squeeze=False)
shares = need.share_table(test, confidence_level)
for ax, name in zip(axes[0], benchmarks, strict=True):
    part = shares[shares["benchmark"] == name].assign(row=lambda t: t["model"] + ", " + t["level"])
    charts.forest(ax, part, label="answers that need\nthe picture (%)", scale=100, interval="Wilson", in_order=True)
    ax.set_title(name)
record.save_figure(figure, "07_monitor_needs", profile)

# %% [markdown]
# How long before the end of a flagged response its flag stands.

# %% tags=["needs_monitor"]
if flags["is_flagged"].any():
    figure, ax = plt.subplots(figsize=(4.2, 2.8))
    charts.lead_curves(ax, flags[flags["is_flagged"]])
    record.save_figure(figure, "07_monitor_lead", profile)

# %% [markdown]
# The numbers that the paper and the site name, by key. Whole tables lie beside them.

# %%
numbers, tables = {"has_monitor": has_monitor}, {}

# %%
def join_words(table, *columns):
    """Return a table with the words of some columns joined, so that they may be keys."""
    return table.replace({c: r"[^\w]+" for c in columns}, {c: "_" for c in columns}, regex=True)


# %% tags=["needs_monitor"]
numbers |= {
    "n_unanswered": len(unanswered), "n_levels": len(levels), "n_answers": len(flags), "coverage": coverage,
    "n_flagged": int(flags["is_flagged"].sum()), "n_unknown": int(rows["needed"].isna().sum()),
    "needed_share": float(test["needed"].mean()), "has_levels": has_levels,
}  # fmt: skip
named, may_lack = levels.replace({"level": {"": "none"}}), ["needed_share", "median_need_nats"]
numbers["levels"] = record.nest(named, ["level", *cell], may_lack)

# %% tags=["needs_monitor"]
cited = join_words(quality.dropna(subset=["auroc"]), "predictor").drop(columns="decided_right")
cited = cited.rename(columns={"auroc": "estimate"})
numbers["quality"] = record.nest(cited, ["left_out", "predictor", "group"])
values = ["gain", "ci_low", "ci_high", "p", "risk", "base_risk", "realised_coverage", "n_items", "n_rows"]
cited = join_words(whole.reset_index(), "vetoed").assign(needed_items=n_items.values())
cited["said"] = [need.name_gain(row) for row in cited.to_dict("records")]
numbers["gains"] = record.nest(cited[["vetoed", "said", *values]], ["vetoed"])
numbers["needed_items"] = {row.vetoed: row.needed_items for row in cited.itertuples() if np.isfinite(row.needed_items)}
numbers["over"] = record.nest(join_words(over, "vetoed").drop(columns="method"), ["vetoed"])
numbers["flag"] = worth
numbers["risk"] = record.nest(risks[risks["share"] == 1].drop(columns="share"), ["score"])

# %% tags=["needs_monitor"]
cited = kinds[kinds["monitor"] == "veto"].drop(columns="monitor")
numbers["guarantee"] = record.nest(cited, ["kind"], optional=["share", "worst_risk"])
tables = {
    "levels": levels, "quality": quality, "shifted": shifted, "gains": gains, "over": over, "lead": lead,
    "flags": flags, "guarantees": kinds, "risks": risks,
}  # fmt: skip

# %%
record.save_numbers("07_monitor", numbers, profile)
for name, table in tables.items():
    if len(table):
        record.save_table("07_monitor", name, table, profile)

# %% [markdown]
# ## 8 Reading
#
# The sentences are computed. The honest answer may be "no gain": then they say by how much it fails, what knowing need
# would have gained, and how many items would show it.

# %% tags=["needs_monitor"]
print(need.describe_quality(quality))
print(need.describe_gains(whole, n_items, power))
print(need.describe_lead(flags))
end = risks[risks["share"] == 1].set_index("score")["auroc"]
print(f"AUROC of wrong answers at the end: risk {end['risk']:.3f}, mean entropy alone {end['entropy']:.3f}")
if "estimate" in worth:
    ends = ", ".join(f"{100 * worth[end]:+.1f}" for end in ("ci_low", "ci_high"))
    more = f"{100 * worth['estimate']:+.1f} points ({ends})"
    print(f"share of wrong answers, flagged confident ones less other confident ones: {more}")
print(guarantees.describe_kinds(kinds[kinds["monitor"] == "veto"], max_risk, delta))

# %% [markdown]
# ## Appendix: other choices
#
# Need by what the other picture makes of the answer itself, instead of its odds.

# %% tags=["needs_monitor"]
changed = test["prediction"] != test["other_prediction"]
fell = test["needed"].map({1.0: "needed", 0.0: "not needed"})
pd.crosstab(fell, changed.map({True: "answer changes", False: "answer stays"}))

# %% [markdown]
# What words say of the DECLARED task type, without any model: with random folds they know the benchmarks; what they say
# of one that is left out is what they say of a user's question. A benchmark of one type has no AUROC of its own.

# %% tags=["needs_monitor"]
questions = rows[rows["split"] == "test"].drop_duplicates(["set", "benchmark", "item_id"])
word_types = need.task_word_table(questions, targets, seed=seed)
record.save_table("07_monitor", "task_words", word_types, profile)
word_types.round(3)
