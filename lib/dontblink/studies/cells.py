"""Which rows of the items table an estimate is over: cells, the models of a benchmark, or everything.

Why: entropy and vision live on different scales in every cell, an item repeats across models, and a row without a
value has to be counted. In: the items table of ONE split. Out: `select_rows` tables with `cell`, `cluster` and
`n_left_out`, their scopes, values standardised, adjusted or dealt anew within the cell. Never: an estimate on
calibration rows (only a fit may name their split), or a row left out without a count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, adjust_holm

ENTROPY, VISION = "full_entropy_nats", "vision_evidence_mass"  # columns of the items table that the studies are about
# Means over the response and over its answer span, by the support of each token's distribution: all of it (exact), or
# its 20 most probable tokens renormalised, which secondary sources give as the paper's own definition.
ENTROPIES = {
    "full": {"full": ENTROPY, "answer": "answer_entropy_nats"},
    "top20": {"full": "full_top20_entropy_nats", "answer": "answer_top20_entropy_nats"},
}
# Declared before the results. What needs gold boxes is an oracle: no monitor has it, and it leaks the label, because a
# look at the wrong place is low on evidence as well.
VISIONS = {
    "evidence": VISION, "image": "vision_visual_mass", "cumulative evidence": "vision_cumulative_evidence_mass",
    "cumulative image": "vision_cumulative_visual_mass",
}  # fmt: skip
ORACLES = ("evidence", "cumulative evidence")
EVIDENCE = ("one token or more", "below one token", "no boxes")  # strata of evidence, see `size_evidence`
# What a vision has to beat: neither looks at the picture. Low is a long response, and little attention to the question.
PLACEBOS = {"length": "minus_log_n_response_tokens", "elsewhere": "placebo_prompt_mass"}
SCOPES = ("cell", "benchmark", "pooled")


def name_entropy(support: str, span: str = "full") -> str:
    """Return the column of the items table with the mean entropy of a span of the response, "full" or "answer".

    `support` is the parameter `measures.entropy_support`. Raises EstimateError for one that is not in `ENTROPIES`.
    """
    if support not in ENTROPIES or span not in ENTROPIES[support]:
        known = f"{', '.join(ENTROPIES)} with {', '.join(ENTROPIES['full'])}"
        raise EstimateError(f"entropy of support {support!r}, span {span!r}; expected one of {known}; correct it")
    return ENTROPIES[support][span]


def choose_entropy(items: pd.DataFrame, support: str) -> pd.DataFrame:
    """Return the items with the entropies of the chosen support under the names of the exact ones.

    `support` is the parameter `measures.entropy_support`; the columns of the exact ones stay as `exact_<name>`.
    """
    exact = {name: f"exact_{name}" for name in ENTROPIES["full"].values()}
    chosen = {name: items[name_entropy(support, span)] for span, name in ENTROPIES["full"].items()}
    return items.assign(**{new: items[old] for old, new in exact.items()}, **chosen)


def size_evidence(items: pd.DataFrame) -> pd.Series:
    """Return which stratum of evidence a response's item is of: one of `EVIDENCE`, by `evidence_tokens`.

    An attention map has one value a token: boxes below one token measure their surroundings, and are pooled with none.
    """
    known, none = items["evidence_missing"].astype("str") == "", EVIDENCE[2]
    named = np.where(items["evidence_tokens"] < 1 - 1e-3, EVIDENCE[1], EVIDENCE[0])  # coverages are float32
    return pd.Series(np.where(known, named, none), items.index)


def count_evidence(items: pd.DataFrame) -> str:
    """Return how many responses are of each stratum of evidence, as a sentence."""
    counts = size_evidence(items).value_counts().reindex(EVIDENCE, fill_value=0)
    return f"evidence boxes of {len(items)} responses: {', '.join(f'{name} {n}' for name, n in counts.items())}"


def choose_visions(items: pd.DataFrame, which: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the items that are judged and the visions that every one of them has, and say what is left out.

    `which` is the parameter `measures.items`: "all" leaves out the oracles where an item has no measured evidence,
    "boxed" the items. So all visions of a run are judged on the same rows, and an item without boxes never ranks as a
    blind answer. Raises EstimateError for "boxed" without a boxed item.
    """
    known = size_evidence(items) == EVIDENCE[0]
    if known.all():
        return items, dict(VISIONS)
    print(count_evidence(items))
    if which == "boxed":
        if not known.any():
            raise EstimateError("measures.items is boxed and no item has evidence of one token or more; set it to all")
        print("judged: the items with evidence of one token or more; set measures.items to all to judge every item")
        return items[known].reset_index(drop=True), dict(VISIONS)
    print(f"judged: every item; left out: {', '.join(ORACLES)}; to judge them, set measures.items to boxed")
    return items, {name: column for name, column in VISIONS.items() if name not in ORACLES}


def name_main(visions: Mapping[str, str]) -> str:
    """Return the vision that stands for the look where one is asked for: the evidence, or the image without it."""
    return next(name for name in ("evidence", "image") if name in visions)


def of_items(rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of another table that are of these responses."""
    keys = ["model", "benchmark", "item_id"]
    own, wanted = (pd.MultiIndex.from_frame(table[keys].astype("str")) for table in (rows, items))
    return rows[own.isin(wanted)]


def find_cells(items: pd.DataFrame, bins: int, min_items: int) -> list[tuple[str, str]]:
    """Return the cells with enough responses that have a first and a last bin, which more than bins / 2 tokens make."""
    reasoned = items[items["n_reasoning_tokens"] > bins / 2]
    sizes = reasoned.groupby(["model", "benchmark"], observed=True).size()
    return [(str(model), str(benchmark)) for model, benchmark in sizes.index[sizes >= min_items]]


def require_cells(items: pd.DataFrame, min_items: int, min_class_items: int = 1) -> None:
    """Raise EstimateError, with the counts of the fullest cell, unless at least one cell can carry an estimate.

    That is a model x benchmark with `min_items` measured items, `min_class_items` correct and as many wrong.
    """
    cells = items.groupby(["model", "benchmark"], observed=True)["correct"].agg(["size", "sum"])
    rarer = np.minimum(cells["sum"], cells["size"] - cells["sum"])
    if not ((cells["size"] >= min_items) & (rarer >= min_class_items)).any():
        fullest = cells.sort_values("size").tail(1).itertuples(name=None)
        found = [f"{' x '.join(cell)} has {size}, {right} correct" for cell, size, right in fullest]
        wanted = f"{min_items} measured items with {min_class_items} correct and wrong ones"
        remedy = "annotate more items or lower min_items"
        raise EstimateError(f"no cell has {wanted} ({''.join(found) or 'no items'}); {remedy}")


def select_rows(
    items: pd.DataFrame, columns: Sequence[str], optional: Sequence[str] = (), *, split: str = "test"
) -> pd.DataFrame:
    """Return the rows with a number in all `columns`, sorted, with `cell`, `cluster` and the numbers as float64.

    A column `log_X` that the table lacks is the natural logarithm of X, and `minus_X` is X with the other sign; in an
    `optional` column NaN stays.
    `attrs["n_left_out"]` counts the rows that miss a number in `columns`. `cluster` is benchmark and item: the same
    item of several models is one cluster. `split` is the only one that may occur: calibration for a fit that is judged
    on test items. Raises EstimateError for another split, a missing column, or an item that occurs twice in a cell.
    """
    if "split" in items and (other := items["split"].astype("str") != split).any():
        found = items["split"][other].iloc[0]
        raise EstimateError(f"rows of the {found} split, {split} expected: never fit or choose, and judge, on one item")
    rows = items[["model", "benchmark", "item_id"]].astype("str")
    rows["correct"] = items["correct"].to_numpy(bool)
    if "task_type" in items:
        rows["task_type"] = items["task_type"].astype("str")
    for name in (*columns, *optional):
        unsigned = name if name in items else name.removeprefix("minus_")
        source = unsigned if unsigned in items else unsigned.removeprefix("log_")
        if source not in items or not pd.api.types.is_numeric_dtype(items[source]):
            raise EstimateError(f"items table: no numeric column {name}; expected one of {', '.join(map(str, items))}")
        values = items[source].to_numpy(np.float64)
        if source != unsigned:
            if (values <= 0).any():
                raise EstimateError(f"column {source}: {np.nanmin(values)} has no logarithm; give the column itself")
            values = np.log(values)
        rows[name] = values if unsigned == name else -values
    rows["cell"] = rows["model"] + "\n" + rows["benchmark"]
    rows["cluster"] = rows["benchmark"] + "\n" + rows["item_id"]
    if (twice := rows.duplicated(["cell", "item_id"])).any():
        found = rows[twice].iloc[0]
        raise EstimateError(f"item {found['item_id']} occurs twice for {found['model']}; keep one row a response")
    kept = rows[np.isfinite(rows[list(columns)].to_numpy(np.float64)).all(axis=1)]
    kept = kept.sort_values(["benchmark", "model", "item_id"], ignore_index=True)
    kept.attrs["n_left_out"] = len(rows) - len(kept)
    return kept


def each_scope(rows: pd.DataFrame, scopes: Sequence[str] = SCOPES) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the names of each scope (scope, model, benchmark; "all" where it spans several) and its rows.

    Scope `task_type` is for benchmarks that hold several: all rows of a declared task type, whose name stands under
    benchmark.
    """
    keys = {"cell": ["model", "benchmark"], "benchmark": ["benchmark"], "task_type": ["task_type"], "pooled": []}
    for scope in scopes:
        groups = [((), rows)] if not keys[scope] else rows.groupby(keys[scope], sort=True)
        for key, part in groups:
            columns = ["benchmark" if name == "task_type" else name for name in keys[scope]]
            names = {"scope": scope, "model": "all", "benchmark": "all"} | dict(zip(columns, key, strict=True))
            yield names, part.reset_index(drop=True)


def keep_usable(rows: pd.DataFrame, min_items: int, min_class: int = 1) -> pd.DataFrame:
    """Return the rows of the cells with `min_items` items or more, `min_class` or more of each class."""
    correct = rows.groupby("cell")["correct"]
    size, right = correct.transform("size"), correct.transform("sum")
    usable = (size >= min_items) & (right >= min_class) & (size - right >= min_class)
    return rows[usable].reset_index(drop=True)


def count_rows(rows: pd.DataFrame) -> dict[str, int]:
    """Return n_rows, n_items and n_wrong."""
    return {"n_rows": len(rows), "n_items": rows["cluster"].nunique(), "n_wrong": int((~rows["correct"]).sum())}


def describe_signs(claim: str, rows: pd.DataFrame, tested: str = "estimate", alpha: float = 0.05) -> str:
    """Return one sentence on a family of estimates: in how many the claim (estimate > 0) holds, and the reverse.

    `rows` have estimate, ci_low and ci_high. Where they have a p_holm, only those with a number belong to the family,
    and the sign of `tested` says which way a small p points.
    """
    rows = rows.dropna(subset=["p_holm"]) if "p_holm" in rows else rows
    estimate, low, high = (rows[name] for name in ("estimate", "ci_low", "ci_high"))
    words = (
        f"{claim} in {(estimate > 0).sum()} and the reverse in {(estimate < 0).sum()} of {len(rows)} (interval above 0 "
        f"in {(low > 0).sum()}, below 0 in {(high < 0).sum()}); from {estimate.min():.3f} to {estimate.max():.3f}"
    )
    if "p_holm" not in rows:
        return words
    small, sign = rows["p_holm"] < alpha, rows[tested]
    holds, reverse = (small & (sign > 0)).sum(), (small & (sign < 0)).sum()
    return f"{words}; Holm-adjusted p < {alpha:g} for the claim in {holds}, for the reverse in {reverse}"


def adjust_family(p: pd.Series) -> Floats:
    """Return the Holm-adjusted p-values of a declared family.

    A member without a p-value (too few items, one class) counts as 1 and gets none: a family that shrank after the fact
    would be no family, and one small cell should not cost the others their test.
    """
    given = p.to_numpy(np.float64)
    known = np.isfinite(given)
    return np.where(known, adjust_holm(np.where(known, given, 1.0)), np.nan)


def name_cell(cell: object) -> str:
    """Return a cell's name as messages and columns show it: model x benchmark."""
    return str(cell).replace("\n", " x ")


def standardise(values: ArrayLike, cell: ArrayLike, name: str = "value", *, constant: str = "error") -> Floats:
    """Return (value - mean) / standard deviation (divisor n) within each cell, float64[n].

    A value that is constant in a cell raises EstimateError, or becomes 0 there with `constant="zero"`.
    """
    numbers, (code, labels) = np.asarray(values, np.float64), pd.factorize(np.asarray(cell), sort=True)
    scaled = np.zeros_like(numbers)
    for k, label in enumerate(labels):
        own = code == k
        mean, spread = numbers[own].mean(), numbers[own].std()
        if spread > 1e-12 * max(1e-300, np.abs(numbers[own]).max()):
            scaled[own] = (numbers[own] - mean) / spread
        elif constant == "error":
            same = f"{name} is {numbers[own][0]:g} in all {own.sum()} rows"
            raise EstimateError(f"cell {name_cell(label)}: {same}; leave the cell out")
    return scaled


def adjust(rows: pd.DataFrame, columns: Iterable[str], covariates: Sequence[str]) -> pd.DataFrame:
    """Return the rows with the columns less their least-squares fit on the covariates and a constant within each cell.

    What is left is compared between items of equal length, noise and chain as far as a line can say. NaN stays NaN.
    """
    if not covariates:
        return rows
    left = {name: rows[name].to_numpy(np.float64, copy=True) for name in columns}
    for index in rows.groupby("cell").indices.values():
        x = np.column_stack([np.ones(len(index)), *(rows[name].to_numpy(np.float64)[index] for name in covariates)])
        for values in left.values():
            known = np.isfinite(values[index])
            # lstsq takes the shortest solution where a covariate is constant in the cell: it adjusts nothing
            values[index] -= x @ np.linalg.lstsq(x[known], values[index][known], rcond=None)[0]
    return rows.assign(**left)


def rank_missing_last(rows: pd.DataFrame, signs: Mapping[str, float]) -> pd.DataFrame:
    """Return the rows with every missing value as the least confident one of its cell.

    An answer without an answer span is wrong more often than others: leaving its row out would select on the outcome.
    `signs` says of each column whether more of it is confident (1) or less (-1). In a cell without any value NaN stays.
    """
    filled = {}
    for name, sign in signs.items():
        least = rows.groupby("cell")[name].transform("min" if sign > 0 else "max")
        filled[name] = rows[name].fillna(least)
    return rows.assign(**filled)


def number_items(rows: pd.DataFrame) -> tuple[Ints, list[Ints]]:
    """Return the number of each row's item, int64[n], and the row numbers of each cell: what `deal_rows` takes."""
    return pd.factorize(rows["cluster"], sort=True)[0], list(rows.groupby("cell").indices.values())


def deal_rows(item: Ints, cells: Iterable[Ints], rng: np.random.Generator) -> Ints:
    """Return int64[n]: for each row the row of the same cell whose value it is dealt, for negative controls.

    The order comes from one random key per item, so that the models of a benchmark share one deal, and answers to one
    item stay related.
    """
    key, order = rng.random(item.max() + 1)[item], np.empty(len(item), np.int64)
    for own in cells:
        order[own[np.argsort(item[own])]] = own[np.argsort(key[own])]
    return order
