"""Does a confident answer that hardly looked fail more often, and more so where the picture must be looked at again?

Why: a coefficient is not a risk, and a negative one beside a small one is no difference between them. Here the claim is
one number on the scale of risks. Hazard of a cell: among its confident answers, the risk at low vision minus the risk
at high vision. Hazard of several cells: the mean of theirs, each cell with the same weight (a task type is then the
average over its models and benchmarks, whatever the number of answers). Contrast: the hazard of the visual task type
minus that of the symbolic one, and this less the contrast of a placebo, which never looked. In: the items table of the
TEST split. Out: hazards by scope with risk ratios and E-values, contrasts with and without the placebo, the reliability
of vision. Confident and low are halves of the item's own cell; these levels are held fixed in every replicate. Never: a
contrast read off two separate intervals, a vision that needs gold boxes without its mark, a cause (an E-value says how
strong a common cause would have to be, not that there is none).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, Resampling
from dontblink.studies.cells import ENTROPY, ORACLES, PLACEBOS, SCOPES, VISIONS, each_scope, select_rows

LOOKS = VISIONS | PLACEBOS
BY_T = Resampling(method="t")
LEVELS = ("low", "high")
FOUND = ("estimate", "ci_low", "ci_high", "p")


def add_levels(rows: pd.DataFrame, columns: Mapping[str, str], share: float) -> pd.DataFrame:
    """Return the rows with a level for each column, {new name: column}: low, high or middle, by quantiles of the cell.

    Low is at or below the `share` quantile (an order statistic: no value between two rows), high is above the
    1 - `share` quantile; at 0.5 every row is low or high. Values that tie at a quantile are on its low side.
    """
    if not 0 < share <= 0.5:
        raise EstimateError(f"share {share}; expected a number in (0, 0.5], the part of a cell that is called low")
    levels = {name: np.full(len(rows), "middle", object) for name in columns}
    for own in rows.groupby("cell").indices.values():
        for name, column in columns.items():
            x = rows[column].to_numpy()[own]
            low, high = (np.quantile(x, q, method="inverted_cdf") for q in (share, 1 - share))
            levels[name][own] = np.select([x <= low, x > high], LEVELS, "middle")
    return rows.assign(**levels)


@dataclass(frozen=True, eq=False)
class Tally:
    """Confident answers counted: `sums` float64[items, looks, cells, 2 levels, 2] = wrong and all answers, per item.

    `usable` bool[looks, cells]: enough answers at both levels. `members`: the items of each stratum.
    """

    sums: Floats
    usable: Any
    cells: tuple[str, ...]
    looks: tuple[str, ...]
    members: list[Ints]


def tally(rows: pd.DataFrame, looks: Mapping[str, str], share: float, min_items: int) -> Tally:
    """Count the confident answers of rows of `select_rows` at low and at high vision, in each of their cells.

    A cell with fewer than `min_items` of them on either side of a look is not usable for that look.
    """
    names = {name: f"level of {name}" for name in looks}
    leveled = add_levels(rows, {"level": ENTROPY} | {names[name]: looks[name] for name in looks}, share)
    groups = bootstrap.number_clusters(rows["cluster"], rows["cell"])
    code, cells = pd.factorize(rows["cell"], sort=True)
    confident, wrong = (leveled["level"] == "low").to_numpy(), ~rows["correct"].to_numpy(bool)
    sums = np.zeros((len(groups.labels), len(looks), len(cells), 2, 2))
    for k, name in enumerate(looks):
        for j, level in enumerate(LEVELS):
            inside = confident & (leveled[names[name]] == level).to_numpy()
            for column, counted in enumerate((inside & wrong, inside)):
                sums[groups.row, k, code, j, column] = counted  # an item has one answer in a cell
    usable = (sums[..., 1].sum(axis=0) >= max(min_items, 1)).all(axis=-1)
    return Tally(sums, usable, tuple(cells), tuple(looks), bootstrap.split_strata(groups.stratum))


@dataclass(frozen=True, eq=False)
class Wanted:
    """A statistic of standardised risks: sum of weight x (risk at low - at high vision), or the log of their ratio.

    `weight` float64[looks, cells]: 1 / cells for a mean over cells, with the other sign where it is taken away.
    """

    weight: Floats
    as_ratio: bool = False


def draw(counted: Tally, wanted: Sequence[Wanted], resampling: Resampling) -> list[tuple[bootstrap.Interval, float]]:
    """Return the interval and the p-value (bootstrap-t, of "it is 0") of each statistic; all share the replicates.

    Ends are NaN where they would be infinite, because too many replicates have no wrong answer.

    Notes
    -----
    r = W / N per look, cell and level (W wrong of N). An item with w of n moves r by (w - r n) / N, so that the
    linearised error of a statistic with gradient g is the root of the sum over items of (g (w - r n) / N)^2, less
    the square of its mean in each stratum.
    """
    size = len(counted.sums)
    flat = counted.sums.reshape(size, -1)
    own = [_evaluate(counted, np.ones((1, size)), flat, one) for one in wanted]
    parts: list[list[tuple[Floats, Floats]]] = [[] for _ in wanted]
    for indices in bootstrap.resample(counted.members, resampling):
        counts = bootstrap.count_draws(indices)
        for part, one in zip(parts, wanted, strict=True):
            part.append(_evaluate(counted, counts, flat, one))
    left_out = bootstrap.delete_one(counted.members, size) if resampling.method == "bca" else []
    found = []
    for part, one, (value, error) in zip(parts, wanted, own, strict=True):
        drawn, errors = (np.concatenate(x) for x in zip(*part, strict=True))
        interval = bootstrap.interval_of(
            float(value[0]), drawn, size, resampling, error=float(error[0]), errors=errors,
            jackknife=[_evaluate(counted, weights, flat, one)[0] for weights in left_out],
        )  # fmt: skip
        if not np.isfinite([interval.ci_low, interval.ci_high]).all():  # too many replicates without a wrong answer
            interval = replace(interval, ci_low=np.nan, ci_high=np.nan)
        found.append((interval, bootstrap.symmetric_p(float(value[0]), float(error[0]), drawn, errors)))
    return found


def _evaluate(counted: Tally, counts: Floats, flat: Floats, one: Wanted) -> tuple[Floats, Floats]:
    """Return a statistic and its linearised error for each row of `counts` float64[b, items]."""
    shape = counted.sums.shape[1:]
    used = np.flatnonzero(one.weight)
    picked = flat.reshape(len(flat), -1, 4)[:, used].reshape(len(flat), -1)  # of the looks and cells with a weight
    touched = np.flatnonzero(picked.any(axis=1))
    totals = (counts[:, touched] @ picked[touched]).reshape(len(counts), len(used), *shape[2:])
    risk, weight = bootstrap.divide(totals[..., 0], totals[..., 1]), one.weight.reshape(-1)[used]
    means = np.einsum("bul,u->bl", risk, weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(means[:, 0] / means[:, 1]) if one.as_ratio else means[:, 0] - means[:, 1]
        scale = 1 / means if one.as_ratio else np.ones_like(means)
        slope = weight[:, None] * (scale * [1.0, -1.0])[:, None, :] / totals[..., 1]
        gradient = np.stack([slope, -slope * risk], axis=-1).reshape(len(counts), -1)
        influence, variance = np.zeros_like(counts), np.zeros(len(counts))
        influence[:, touched] = gradient @ picked[touched].T  # NaN in a replicate without answers at a level
    value[~np.isfinite(value)] = np.nan
    for m in counted.members:
        if len(m) > 1:
            n, u = counts[:, m], influence[:, m]
            first = n * u
            centred = np.einsum("bg,bg->b", first, u) - first.sum(axis=1) ** 2 / len(m)
            variance += np.maximum(centred, 0) * len(m) / (len(m) - 1)
    return value, np.sqrt(variance)


def hazard_table(
    items: pd.DataFrame, looks: Mapping[str, str] = LOOKS, *, share: float = 0.5, min_items: int = 20,
    scopes: Sequence[str] = SCOPES, resampling: Resampling = BY_T,
) -> pd.DataFrame:  # fmt: skip
    """Return the hazard of confident answers, per look and scope: risk at low vision - risk at high vision.

    Columns: vision, is_oracle, scope, model, benchmark, n_cells, n_low_vision, n_high_vision (answers),
    risk_low_vision, risk_high_vision, estimate, ci_low, ci_high, p, method, and for several cells risk_ratio,
    ratio_low, ratio_high, e_value, e_value_end. In one cell the interval is Newcombe's (rows are independent there, and
    counts may be 0) and has no p, else the bootstrap by item with levels held fixed. A cell with fewer than `min_items`
    answers on a side is left out of a mean; a scope without a cell, or with nothing but right or nothing but wrong
    answers (which would give an interval of no width), keeps its counts alone. The ratio is that of the mean risks, its
    interval that of its logarithm; none where a mean risk is 0.
    """
    rows = select_rows(items, [ENTROPY, *looks.values()])
    results: list[dict[str, Any]] = []
    for names, scope in each_scope(rows, scopes):
        if scope["cluster"].nunique() < 2:
            continue
        counted = tally(scope, looks, share, min_items)
        totals = counted.sums.sum(axis=0)
        wanted: list[Wanted] = []
        open_rows: list[dict[str, Any]] = []
        for k, name in enumerate(looks):
            used = counted.usable[k]
            bad, n = totals[k, used if used.any() else slice(None)].sum(axis=0).T
            row = {"vision": name, "is_oracle": name in ORACLES} | names | {"n_cells": int(used.sum())}
            row |= {"n_low_vision": int(n[0]), "n_high_vision": int(n[1])} | dict.fromkeys(FOUND, np.nan)
            results.append(row)
            if not used.any():
                continue
            weight = np.zeros(counted.usable.shape)
            weight[k, used] = 1 / used.sum()
            risks = np.einsum("cl,c->l", bootstrap.divide(*np.moveaxis(totals[k], -1, 0))[used], weight[k, used])
            row |= {"risk_low_vision": risks[0], "risk_high_vision": risks[1]}
            if names["scope"] == "cell":
                row |= newcombe(bad.astype(int).tolist(), n.astype(int).tolist(), resampling.confidence)
            elif 0 < bad.sum() < n.sum():
                open_rows.append(row)
                wanted += [Wanted(weight), *[Wanted(weight, as_ratio=True)] * bool(risks.min() > 0)]
        found = draw(counted, wanted, resampling) if wanted else []
        _fill(open_rows, wanted, found)
    return pd.DataFrame(results)


def _fill(rows: Sequence[dict[str, Any]], wanted: Sequence[Wanted], found: Iterable[Any]) -> None:
    """Write intervals into their rows: a difference, which may be followed by the ratio of the same row."""
    waiting = iter(rows)
    row: dict[str, Any] = {}
    for one, (interval, p) in zip(wanted, found, strict=True):
        if not one.as_ratio:
            row = next(waiting)
            row |= interval.columns() | {"p": p, "method": interval.method}
            continue
        ratio, low, high = np.exp([interval.estimate, interval.ci_low, interval.ci_high])
        if np.isnan(low):
            continue
        nearer = min(max(1.0, low), high)  # of the interval, the point nearest to 1
        row |= {"risk_ratio": ratio, "ratio_low": low, "ratio_high": high}
        row |= {"e_value": e_value(ratio), "e_value_end": e_value(nearer)}


def contrast_table(
    items: pd.DataFrame, visual: str, symbolic: str, visions: Mapping[str, str] = VISIONS,
    placebos: Mapping[str, str] = PLACEBOS, *, share: float = 0.5, min_items: int = 20, resampling: Resampling = BY_T,
) -> pd.DataFrame:  # fmt: skip
    """Return the hazard of task type `visual` minus that of `symbolic`, for each look, and less those of the placebos.

    Columns: vision, is_oracle, over (the placebo whose contrast is taken away, "" for none), estimate, ci_low, ci_high,
    p, method, n_items, n_rows, n_cells. All rows share their replicates, so that a difference of two looks is paired;
    the items of the types do not overlap and are drawn within their cells. Cells are cut at the task type: a benchmark
    of two types has levels for each. Empty where a type has no usable cell or no wrong answer.
    """
    looks, sizes = dict(visions) | dict(placebos), ("n_items", "n_rows", "n_cells")
    columns = ["vision", "is_oracle", "over", *FOUND, "method", *sizes]
    rows = select_rows(items, [ENTROPY, *looks.values()])
    rows = rows[rows["task_type"].isin([visual, symbolic])].reset_index(drop=True)
    if rows["task_type"].nunique() < 2:
        return pd.DataFrame(columns=columns)
    kind = rows.drop_duplicates(["cell", "task_type"])
    kind = (kind["cell"] + "\n" + kind["task_type"]).tolist(), kind["task_type"].tolist()
    rows = rows.assign(cell=rows["cell"] + "\n" + rows["task_type"])
    counted, types = tally(rows, looks, share, min_items), dict(zip(*kind, strict=True))
    of_type = np.array([[types[cell] == name for cell in counted.cells] for name in (visual, symbolic)])
    n_used = (counted.usable[:, None] & of_type).sum(axis=-1)  # [looks, types]
    bad = np.einsum("lcv,tc->lt", counted.sums[..., 0].sum(axis=0), of_type)
    weight = np.zeros((len(looks), *counted.usable.shape))
    for k, used in enumerate(n_used):
        for sign, own, n in zip((1, -1), of_type, used, strict=True):
            weight[k, k, own & counted.usable[k]] = sign / max(n, 1)
    defined = [bool((n_used[k] > 0).all() and (bad[k] > 0).all()) for k in range(len(looks))]
    pairs: list[tuple[int, int | None]] = [(k, None) for k in range(len(looks))]
    pairs += [(k, len(visions) + j) for k in range(len(visions)) for j in range(len(placebos))]
    pairs = [(k, j) for k, j in pairs if defined[k] and (j is None or defined[j])]
    wanted = [Wanted(weight[k] - (0 if j is None else weight[j])) for k, j in pairs]
    results = []
    for (k, j), (interval, p) in zip(pairs, draw(counted, wanted, resampling) if wanted else [], strict=True):
        name = counted.looks[k]
        row = {"vision": name, "is_oracle": name in ORACLES, "over": "" if j is None else counted.looks[j]}
        facts = dict(zip(sizes, (interval.n_clusters, len(rows), int(n_used[k].sum())), strict=True))
        results.append(row | interval.columns() | {"p": p, "method": interval.method} | facts)
    return pd.DataFrame(results, columns=columns)


def newcombe(bad: Sequence[int], n: Sequence[int], confidence: float) -> dict[str, Any]:
    """Return the difference of two independent shares with Newcombe's hybrid score interval (1998, method 10)."""
    low, high = confint_proportions_2indep(bad[0], n[0], bad[1], n[1], method="newcomb", alpha=1 - confidence)
    estimate = bad[0] / n[0] - bad[1] / n[1]
    return {"estimate": estimate, "ci_low": float(low), "ci_high": float(high), "method": "newcombe"}


def e_value(ratio: float) -> float:
    """Return the E-value of a risk ratio, RR + sqrt(RR (RR - 1)) (VanderWeele and Ding 2017); 1 / RR below 1.

    A common cause would have to go with both, low vision and error, by a risk ratio of at least this much each, beyond
    what was measured, to make the whole of the ratio. 1: any would do.
    """
    if not ratio > 0 or not np.isfinite(ratio):
        raise EstimateError(f"risk ratio {ratio}; an E-value needs a positive finite one")
    high = max(ratio, 1 / ratio)
    return float(high + np.sqrt(high * (high - 1)))


def reliability_table(
    steps: pd.DataFrame, min_items: int = 20, visions: Collection[str] = tuple(VISIONS)
) -> pd.DataFrame:
    """Return how well vision says the same of a response from its odd and from its even steps, per cell.

    `steps` are those of ONE head set. Columns: model, benchmark, vision (of them), is_oracle, n_items (with steps on
    both sides), halves (their correlation), reliability, and the same within_kind: of masses less the mean of the
    cell's steps of that kind, because a read step looks and a compute step does not whoever answers. Both halves are
    means over tokens: of all steps for the cumulative visions, else of the steps whose middle lies in the last third of
    the reasoning. Spearman and Brown: the whole, of twice the length, has reliability 2 r / (1 + r), NaN where r <= 0
    (the halves then say nothing of each other) or with fewer than `min_items` responses.
    """
    keys = ["model", "benchmark", "item_id"]
    if steps.duplicated([*keys, "step_index"]).any():
        raise EstimateError("a step has several rows; pass those of one head set")
    rows = steps.astype(dict.fromkeys(keys, "str")).sort_values([*keys, "step_index"], ignore_index=True)
    by_response, n = rows.groupby(keys)["n_tokens"], rows["n_tokens"]
    is_late = (by_response.cumsum() - n / 2) >= 2 / 3 * by_response.transform("sum")
    masses = {"evidence": rows["evidence_mass"], "image": rows["visual_mass"]}
    kind = [rows["model"], rows["benchmark"], rows["step_kind"].astype("str")]
    half = [*(rows[key] for key in keys), (rows["step_index"] % 2).rename("half")]
    results = []
    for span, part in (("", is_late), ("cumulative ", n > 0)):
        for name, mass in ((name, own) for name, own in masses.items() if span + name in visions):
            values = pd.DataFrame({"halves": mass, "halves_within_kind": mass - mass.groupby(kind).transform("mean")})
            weighted = values[part].mul(n[part], axis=0)
            sums = weighted.groupby([x[part] for x in half]).sum(min_count=1)  # no boxes: no mass, and not 0
            means = sums.div(n[part].groupby([x[part] for x in half]).sum(), axis=0).unstack("half").dropna()
            for (model, benchmark), own in means.groupby(level=[0, 1]):
                vision = span + name
                row = {"model": model, "benchmark": benchmark, "vision": vision, "is_oracle": vision in ORACLES}
                row |= {"n_items": len(own)}
                for column in values:
                    r = own[column, 0].corr(own[column, 1]) if len(own) >= min_items else np.nan
                    row |= {column: r, column.replace("halves", "reliability"): 2 * r / (1 + r) if r > 0 else np.nan}
                results.append(row)
    return pd.DataFrame(results)


def name_look(vision: str) -> str:
    """Return how tables and figures name a look: an oracle says so, and so does a placebo."""
    mark = " (oracle)" if vision in ORACLES else " (placebo)" if vision in PLACEBOS else ""
    return vision + mark


def describe_contrast(row: Any) -> str:
    """Return a row of a `contrast_table` as a sentence, in percentage points."""
    over = f" beyond that of the placebo {row['over']}" if row["over"] else ""
    low, value, high = (f"{100 * row[name]:+.1f}" for name in ("ci_low", "estimate", "ci_high"))
    return f"{name_look(row['vision'])}: contrast of hazards{over} {value} points [{low}, {high}], p {row['p']:.3g}"
