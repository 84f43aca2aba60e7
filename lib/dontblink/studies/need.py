"""Which answers need the picture to the end, can that be told early and without boxes, and what is a flag worth?

Why: a monitor that vetoes blind answers has to know for which of them looking matters. The declared task type is not
at hand for a user's question, and word features learn the benchmark's name. In: a row a response with what its answer
loses behind another picture (`make causal`: table `needs`), features of its question and of its first tokens, and the
signals of every token. Out: predictions of need for benchmarks and models that no fit has seen, how good they are, and
when a flag stands. Never: a fit on test items, a prediction for a benchmark or model that was in its fit called "left
out", or a response without a known need counted in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.proportion import proportion_confint

from dontblink import paths
from dontblink.params import read_section
from dontblink.schema import KEYS, read_tables
from dontblink.statistics.auroc import auroc_interval
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Resampling, bootstrap_sums, divide
from dontblink.studies.causal import read_causal
from dontblink.studies.entropy import expected_calibration_error
from dontblink.studies.risk import Signals

WORDS = "words"  # the predictor that reads the question's words
MAJORITY = "majority"  # the one that reads nothing
NO_GAIN = "no gain is shown"
LEFT_OUT = ("nothing", "benchmark", "model")  # of the fit, when a response of it is predicted


def build_classifier(columns: Sequence[str]) -> Pipeline:
    """Return a plain model of need: a logistic line on standardised columns, or on the words of a question."""
    if list(columns) == [WORDS]:
        return make_pipeline(CountVectorizer(analyzer=str.split), LogisticRegression(max_iter=2000))
    return make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8))


def read_columns(rows: pd.DataFrame, columns: Sequence[str]) -> Any:
    """Return what `build_classifier` fits on."""
    return rows["question"].to_numpy(str) if list(columns) == [WORDS] else rows[list(columns)].to_numpy(np.float64)


def predict_need(
    rows: pd.DataFrame, predictors: Mapping[str, Sequence[str]], left_out: str = "nothing"
) -> pd.DataFrame:
    """Return P(needed) of every test response by every predictor, float64, a column a predictor, index as the rows.

    `rows` have model, benchmark, split, question, needed (1, 0, NaN: not known) and the columns of the predictors
    (`WORDS`: those of the question). Fits see calibration items alone; with `left_out` "benchmark" or "model" none of
    the group that is predicted. A row with a gap in a predictor's columns is predicted by the one before it, so that a
    stage of tokens that a short response does not reach leaves what the last one said; so is every row where a fit has
    one class. The first of all is `MAJORITY`, which is always there, the share of needed answers in the fit.
    """
    if left_out not in LEFT_OUT:
        raise EstimateError(f"left out {left_out!r}; expected one of {', '.join(LEFT_OUT)}")
    is_test, is_known = rows["split"].astype("str") == "test", rows["needed"].notna()
    group = pd.Series("all", rows.index) if left_out == "nothing" else rows[left_out].astype("str")
    found = pd.DataFrame(np.nan, rows.index[is_test], [MAJORITY, *predictors], np.float64)
    for name in sorted(set(group)):
        own = is_test & (group == name)
        fit = ~is_test & is_known & ((group != name) | (left_out == "nothing"))
        if not fit.any():
            raise EstimateError(f"without {name}: no calibration response with a known need; measure others")
        found.loc[own[own].index, MAJORITY] = rows.loc[fit, "needed"].mean()
        before = MAJORITY
        for predictor, columns in predictors.items():
            named = [column for column in columns if column != WORDS]
            known = rows[named].notna().all(axis=1)
            found.loc[own[own].index, predictor] = found.loc[own[own].index, before]
            seen, fitted = rows[own & known], rows[fit & known]
            if len(seen) and fitted["needed"].nunique() == 2:
                model = build_classifier(columns)
                model.fit(read_columns(fitted, columns), fitted["needed"].to_numpy(bool))
                found.loc[seen.index, predictor] = model.predict_proba(read_columns(seen, columns))[:, 1]
            before = predictor
    return found


def prediction_table(
    rows: pd.DataFrame, predicted: Mapping[str, pd.DataFrame], *, bins: int, sure_share: float,
    resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return how well need is predicted, a row per what is left out, predictor and group (and "all" responses).

    `predicted` holds a `predict_need` a left-out kind. Columns: left_out, predictor, group (the benchmark or model that
    is predicted), auroc with ci_low and ci_high (the mean over the group's cells, model x benchmark, within which
    responses are ranked; items drawn with all their models), auroc_across (all rows of the group ranked together: a
    predictor that knows the cell gains here alone), brier, calibration_error (`expected_calibration_error`, equal
    counts), n_rows, n_needed, decided_share: of the responses with a probability of at most 1 - `sure_share` or at
    least `sure_share`, decided_right: of these, the share that is right. Cells of one class are ranked in no mean.
    """
    results: list[dict[str, Any]] = []
    for left_out, probabilities in predicted.items():
        own = rows.loc[probabilities.index].dropna(subset=["needed"])
        groups = own["benchmark" if left_out == "nothing" else left_out].astype("str")
        for predictor in probabilities:
            p = probabilities[predictor]
            cell = own["model"].astype("str") + "\n" + own["benchmark"].astype("str")
            mixed = own["needed"].groupby(cell).transform("nunique") == 2
            for name in [*sorted(set(groups)), "all"]:
                part = own if name == "all" else own[groups == name]
                row = {"left_out": left_out, "predictor": predictor, "group": name}
                row |= _judge(part["needed"].to_numpy(bool), p[part.index].to_numpy(), bins, sure_share)
                if part["needed"].nunique() == 2:
                    row["auroc_across"] = float(roc_auc_score(part["needed"], p[part.index]))
                ranked = part[mixed[part.index]]
                if len(ranked):
                    cluster = ranked["benchmark"].astype("str") + "\n" + ranked["item_id"].astype("str")
                    scored = ranked["needed"], p[ranked.index], cluster, resampling
                    found = auroc_interval(*scored, cell=cell[ranked.index])
                    row |= {"auroc": found.estimate, "ci_low": found.ci_low, "ci_high": found.ci_high}
                results.append(row)
    columns = ["left_out", "predictor", "group", "auroc", "ci_low", "ci_high", "auroc_across"]
    table = pd.DataFrame(results, columns=[*columns, *(name for name in results[0] if name not in columns)])
    return table[[*columns, *(name for name in table if name not in columns)]]


def _judge(needed: Any, probability: Floats, bins: int, sure_share: float) -> dict[str, Any]:
    decided = np.maximum(probability, 1 - probability) >= sure_share
    right = (probability >= 0.5) == needed
    return {
        "brier": float(((probability - needed) ** 2).mean()),
        "calibration_error": expected_calibration_error(probability, needed, bins),
        "n_rows": len(needed), "n_needed": int(needed.sum()), "decided_share": float(decided.mean()),
        "decided_right": float(right[decided].mean()) if decided.any() else np.nan,
    }  # fmt: skip


def level_table(rows: pd.DataFrame, *, least_accuracy: float) -> pd.DataFrame:
    """Return per model, benchmark and made level: accuracy, the share of needed answers, and what is not known.

    Columns: model, benchmark, level, n_rows, n_unknown (no need is known), accuracy, needed_share, median_need_nats,
    is_answered: the accuracy is at least `least_accuracy`; where it is not, the model does not answer such items and
    nothing about its need is said.
    """
    groups = rows.groupby(["model", "benchmark", "level"], observed=True, sort=False)
    table = groups.agg(
        n_rows=("correct", "size"), n_unknown=("need_nats", lambda nats: int(nats.isna().sum())),
        accuracy=("correct", "mean"), median_need_nats=("need_nats", "median"),
    )  # fmt: skip
    known = rows[rows["need_nats"].notna()].groupby(["model", "benchmark", "level"], observed=True)["needed"]
    table["needed_share"] = known.mean().reindex(table.index)
    return table.assign(is_answered=table["accuracy"] >= least_accuracy).reset_index()


def deal_need(rows: pd.DataFrame, column: str, seed: int) -> pd.Series:
    """Return a column dealt anew between the responses of a cell: as many are needed, but not the same ones."""
    rng, cells = np.random.default_rng(seed), rows.groupby(["model", "benchmark"], observed=True)
    return cells[column].transform(lambda own: own.to_numpy()[rng.permutation(len(own))])


def flag_table(follows: Mapping[Any, pd.DataFrame], answers: pd.DataFrame) -> pd.DataFrame:
    """Return when the flag of each response stands, a row a response.

    `follows` are what a monitor says token by token (column is_blind), by the index of `answers` (model, benchmark,
    item_id, correct). Columns: those, n_tokens, is_flagged (at the last token), lead_tokens: from the first token on
    from which it stands to the end (0: not flagged), n_changes: how often it changed its mind.
    """
    results = []
    for key, follow in follows.items():
        blind = follow["is_blind"].to_numpy(bool)
        off = np.flatnonzero(~blind)
        lead = len(blind) - 1 - (off[-1] if len(off) else -1)
        changes = int((blind[1:] != blind[:-1]).sum())
        results.append({"index": key, "n_tokens": len(blind), "is_flagged": bool(blind[-1]), "lead_tokens": int(lead),
                        "n_changes": changes})  # fmt: skip
    told = pd.DataFrame(results).set_index("index")
    return answers[["model", "benchmark", "item_id", "correct"]].join(told, how="inner")


def read_shares(
    follows: Mapping[Any, pd.DataFrame], rows: pd.DataFrame, scales: Mapping[str, Signals], shares: Sequence[float]
) -> pd.DataFrame:
    """Return what a monitor says at each share of each response: at its token ceil(share x n_tokens).

    `follows` are as in `flag_table`, `scales` those of each model. Columns: row, share, n_tokens (so far), those of
    `Monitor.follow`, entropy_z and look_z, wrong, and those of `rows`.
    """
    parts = []
    for row, own in follows.items():
        n_tokens = [int(np.ceil(share * len(own))) for share in shares]
        at = own.iloc[[n - 1 for n in n_tokens]].assign(row=row, share=shares, n_tokens=n_tokens)
        scale = scales[str(rows.loc[row, "model"])]
        at["entropy_z"] = scale.entropy_nats.standardise(at["mean_entropy_nats"])
        parts.append(at.assign(look_z=scale.visual_mass.standardise(at["look_mass"])))
    found = pd.concat(parts, ignore_index=True).merge(rows, left_on="row", right_index=True)
    return found.assign(wrong=~found["correct"].astype(bool))


def risk_table(told: pd.DataFrame, resampling: Resampling = STANDARD) -> pd.DataFrame:
    """Return how well the risk tells wrong answers at each share of the response, and how far it is from their share.

    `told` has a row a response and share: model, benchmark, item_id, share, wrong (bool), and the scores that are
    compared: risk and others by name in `attrs["scores"]` (high is suspect). A row a share and score: auroc (mean over
    cells) with its interval, mean_score, wrong_share, n_rows. Rows without a risk are in none.
    """
    results = []
    for share, rows in told.dropna(subset=["risk"]).groupby("share"):
        cell = rows["model"].astype("str") + "\n" + rows["benchmark"].astype("str")
        mixed = rows["wrong"].groupby(cell).transform("nunique") == 2
        for score in ("risk", *told.attrs["scores"]):
            row = {"share": share, "score": score, "mean_score": float(rows[score].mean())}
            row |= {"wrong_share": float(rows["wrong"].mean()), "n_rows": len(rows)}
            if mixed.any():
                own = rows[mixed]
                cluster = own["benchmark"].astype("str") + "\n" + own["item_id"].astype("str")
                found = auroc_interval(own["wrong"], own[score], cluster, resampling, cell=cell[mixed])
                row |= {"auroc": found.estimate, "ci_low": found.ci_low, "ci_high": found.ci_high}
            results.append(row)
    return pd.DataFrame(results)


def flag_risk(flags: pd.DataFrame, confident: pd.Series, resampling: Resampling = STANDARD) -> dict[str, float]:
    """Return the share of wrong answers among confident flagged ones less that among confident others, by item.

    `confident` bool, index as `flags`. Keys: estimate, ci_low, ci_high, flagged_wrong, other_wrong, n_flagged, n_other;
    without a flagged answer the counts alone.
    """
    rows, wrong = flags[confident], ~flags.loc[confident, "correct"].to_numpy(bool)
    flagged = rows["is_flagged"].to_numpy(bool)
    values = np.column_stack([flagged & wrong, flagged, ~flagged & wrong, ~flagged]).astype(float)
    total = values.sum(axis=0)
    counts: dict[str, float] = {"n_flagged": int(total[1]), "n_other": int(total[3])}
    if not total[1] or not total[3]:
        return counts
    cluster = rows["benchmark"].astype("str") + "\n" + rows["item_id"].astype("str")

    def differ(sums: Any) -> Any:
        return divide(sums[..., :1], sums[..., 1:2]) - divide(sums[..., 2:3], sums[..., 3:4])

    found = bootstrap_sums(values, differ, cluster, None, resampling)[0]
    shares = {"flagged_wrong": float(total[0] / total[1]), "other_wrong": float(total[2] / total[3])}
    return counts | shares | {"estimate": found.estimate, "ci_low": found.ci_low, "ci_high": found.ci_high}


def lead_table(flags: pd.DataFrame) -> pd.DataFrame:
    """Return per cell: how many are flagged, for how long before the end, how steady, and how often they are wrong."""
    groups, flagged = flags.groupby(["model", "benchmark"], observed=True), flags[flags["is_flagged"]]
    by_cell = flagged.groupby(["model", "benchmark"], observed=True)
    table = groups.agg(n_rows=("correct", "size"), mean_changes=("n_changes", "mean"), accuracy=("correct", "mean"))
    table["n_flagged"] = by_cell.size().reindex(table.index, fill_value=0)
    lead = by_cell["lead_tokens"].median().reindex(table.index)
    return table.assign(median_lead_tokens=lead, flagged_accuracy=by_cell["correct"].mean()).reset_index()


def find_needed_items(
    gain: float, ci_low: float, ci_high: float, n_items: int, power: float, confidence: float
) -> float:
    """Return how many items would show a gain of this size with this power; infinite for none.

    n (z_{(1 + confidence) / 2} + z_power)^2 (s / gain)^2, s the standard error that the interval of n items implies.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    error = (ci_high - ci_low) / 2 / z
    return n_items * ((z + NormalDist().inv_cdf(power)) * error / gain) ** 2 if gain > 0 else float("inf")


def read_needs(profile: str) -> pd.DataFrame:
    """Return the table `needs` of `make causal`, its texts plain; without rows where nobody ran it."""
    found = read_causal(profile, "needs")
    texts = [name for name in found if isinstance(found[name].dtype, pd.CategoricalDtype)]
    return found.astype(dict.fromkeys(texts, "str"))


def is_measured(profile: str, second_profile: str) -> bool:
    """Return whether need and signals of the second profile are there, and its models are those of the first."""
    folder = paths.causal(second_profile)
    if not all((folder / f"{name}.parquet").is_file() for name in ("needs", "looks")):
        return False
    models = set(read_causal(second_profile, "needs")["model"].astype("str"))
    return models == set(read_section(profile, "extraction")["models"])


def read_signals(profile: str) -> pd.DataFrame:
    """Return entropy_nats and visual_mass of every token, by model, benchmark, split, item_id and token_index.

    The mass is that on the image, the mean of all heads. They are those of `make causal`, where it keeps them beside
    the needs, else those of the extraction's tables.
    """
    found = read_causal(profile, "looks")
    keys = [*KEYS, "token_index"]
    if found.empty:
        columns = [*keys, "entropy_nats", "visual_mass", "head_set"]
        tokens = read_tables(profile, ["tokens"], columns)["tokens"]
        masses = read_tables(profile, ["token_masses"], columns, head_set="all_layers")["token_masses"]
        tokens, masses = (table.astype(dict.fromkeys(KEYS, "str")) for table in (tokens, masses))
        found = tokens.merge(masses.drop(columns="head_set"), on=keys, validate="1:1")
    return found.astype(dict.fromkeys(KEYS, "str") | {"entropy_nats": np.float64, "visual_mass": np.float64})


def share_table(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Return the share of needed answers per model, benchmark and level with Wilson's interval, of the n_rows known.

    Where none is known there is a row without an estimate, so that all benchmarks have the same rows.
    """
    groups = rows.groupby(["benchmark", "model", "level"], observed=True, sort=False)["needed"]
    table = groups.agg(n_needed="sum", n_rows="count").reset_index()
    known = table["n_rows"].where(table["n_rows"] > 0)
    ends = proportion_confint(table["n_needed"], known, alpha=1 - confidence, method="wilson")
    return table.assign(estimate=table["n_needed"] / known, ci_low=ends[0], ci_high=ends[1])


def describe_quality(table: pd.DataFrame) -> str:
    """Return a sentence a left-out kind: how well need is ranked by each predictor, beside what the question says."""
    rows = table[table["group"] == "all"].dropna(subset=["auroc"])
    lines = []
    for left_out, own in rows.groupby("left_out", sort=False):
        parts = [
            f"{row.predictor} {row.auroc:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"
            for row in own[own["predictor"] != MAJORITY].itertuples()
        ]
        lines.append(f"AUROC of need within a cell, {left_out} left out: {', '.join(parts)}")
    return "\n".join(lines)


def name_gain(row: Mapping[str, float]) -> str:
    """Return what a gain's interval says: gain, `NO_GAIN` or harm."""
    return "gain" if row["ci_low"] > 0 else "harm" if row["ci_high"] < 0 else NO_GAIN


def describe_gains(table: pd.DataFrame, n_items: Mapping[str, float], power: float) -> str:
    """Return a sentence a veto, on the pooled rows of `veto.Study.gains` by vision: gain, none, or harm.

    `n_items` is `find_needed_items` of each.
    """
    lines = []
    for who, row in table.iterrows():
        gain, low, high = (100 * row[name] for name in ("gain", "ci_low", "ci_high"))
        said = name_gain(row)
        items = n_items[str(who)]
        more = f"{items:.0f} items would show it with power {power:g}" if np.isfinite(items) else "none would show it"
        more = f"; {more}" if said == NO_GAIN else ""
        lines.append(f"veto, {who}: {said}, {gain:+.2f} points ({low:+.2f} to {high:+.2f}), p {row['p']:.3f}{more}")
    return "\n".join(lines)


def describe_lead(flags: pd.DataFrame) -> str:
    """Return when a flag stands, in a sentence on `flag_table`."""
    flagged = flags[flags["is_flagged"]]
    if flagged.empty:
        return f"none of {len(flags)} responses is flagged"
    wrong, other = 1 - flagged["correct"].mean(), 1 - flags.loc[~flags["is_flagged"], "correct"].mean()
    return (
        f"{len(flagged)} of {len(flags)} responses are flagged; the flag stands for the last "
        f"{flagged['lead_tokens'].median():.0f} of {flagged['n_tokens'].median():.0f} tokens (medians) and changes "
        f"{flags['n_changes'].mean():.1f} times a response; {wrong:.1%} of them are wrong, of the others {other:.1%}"
    )


def task_word_table(
    questions: pd.DataFrame, visual_types: Sequence[str], *, folds: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return what the words of questions say of their declared task type: known sources, and one that is left out.

    `questions` have benchmark, task_type and question, a row an item; visual are those of `visual_types`. A row for
    random folds (left_out "nothing") and for each benchmark that is left out of the fit: n_items, visual_share,
    called_visual (predicted so), auroc (NaN where the judged questions are of one type). No model answers anything
    here: the type is declared, so this says what words know of a benchmark, not what an answer needs.
    """
    is_visual = questions["task_type"].astype("str").isin(visual_types).to_numpy()
    source, texts = questions["benchmark"].astype("str").to_numpy(), questions["question"].astype("str").to_numpy()
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = [("nothing", list(split.split(texts, is_visual)))]
    parts += [(name, [(np.flatnonzero(source != name), np.flatnonzero(source == name))]) for name in sorted({*source})]
    results = []
    for name, pairs in parts:
        told = np.full(len(texts), np.nan)
        for fit, asked in pairs:
            if is_visual[fit].any() and not is_visual[fit].all():
                line = build_classifier([WORDS]).fit(texts[fit], is_visual[fit])
                told[asked] = line.predict_proba(texts[asked])[:, 1]
        judged = np.sort(np.concatenate([asked for _, asked in pairs]))
        own, p = is_visual[judged], told[judged]
        is_known = bool(np.isfinite(p).all())
        results.append({
            "left_out": name, "n_items": len(judged), "visual_share": float(own.mean()),
            "called_visual": float((p >= 0.5).mean()) if is_known else np.nan,
            "auroc": float(roc_auc_score(own, p)) if is_known and 0 < own.sum() < len(own) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(results)
