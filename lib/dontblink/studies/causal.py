"""Causes: is the look at the evidence needed, where does a restated word come from, does keeping the look up help?

Why: attention mass is a correlate. Here looks were taken away, replaced and kept up, and what became of the answers is
held against the same change elsewhere in the picture. In: the tables of `make causal` (test items). Out: a row a cell
and condition, with interval, test and Holm over the cells; one word a cell, by rule.

    need = P(correct | control region blocked) - P(correct | evidence blocked), paired by item

The rules stood here before any number. A word needs its interval, and, where it is a difference, Holm's p; a control
that moves the accuracy takes every word of its cell. Never: a family of tests over more than one question, an estimate
on calibration items, or a restated word that was not usable counted in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from dontblink import paths, schema, store
from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Resampling
from dontblink.statistics.paired import compare_pairs

CELL = ["model", "benchmark"]
CONTROLS = ("empty", "control", "random")  # what should change no answer: flagged where it may
SWAPS = ("T", "M", "P", "TM", "TP", "MP", "TMP")  # text, memory, picture: what says the altered word
KNOCKOUTS = ("block_cell", "block_read", "block_both", "block_other_cell", "block_other_statement", "block_image")
RAISES = (
    ("raise_evidence", "raise_control"), ("raise_own", "raise_control"), ("raise_evidence", "baseline"),
    ("raise_own", "baseline"), ("raise_control", "baseline"),
)  # fmt: skip
CHECKS = (  # what a raise has to do, or it says nothing: condition, and the mass that it raises
    ("raise_evidence", "evidence_mass"), ("raise_own", "evidence_mass"), ("raise_control", "control_box_mass"),
)  # fmt: skip
FIRST, LAST = 0.1, 1.0  # shares of the reasoning between which accuracy and evidence mass are compared (C6)
ALL = "all"
NEEDS, IGNORES, REREADS, COPIES, UNDECIDED = "needs", "ignores", "re-reads", "copies", "undecided"


def read_causal(profile: str, name: str) -> pd.DataFrame:
    """Return a table of `make causal`, checked against its schema; without rows where nobody ran it."""
    tracked = {  # so that `lineage` sees them
        "testbed": paths.ROOT / "figures" / "causal", "needs": paths.ROOT / "figures" / "needs_causal",
    }  # fmt: skip
    file = tracked.get(profile, paths.causal(profile)) / f"{name}.parquet"
    if not file.is_file():
        return schema.to_table(name, {column: [] for column in schema.SCHEMAS[name]}).to_pandas()
    found: pd.DataFrame = schema.check_table(name, store.read_table(file), file).replace_schema_metadata().to_pandas()
    return found


def read_rows(rows: pd.DataFrame, share: str | None = None) -> pd.DataFrame:
    """Return a table with plain texts, its shares to six digits (they are stored in single precision).

    Rows of the calibration split, and two rows of one key, are an EstimateError.
    """
    texts = [name for name in (*CELL, "split", "item_id", "condition", "word", "chosen") if name in rows]
    found = rows.astype(dict.fromkeys(texts, "str"))
    if (found["split"] != "test").any():
        raise EstimateError("rows of the calibration split, which chose layers and strengths; pass split 'test' only")
    keys = [*texts, *([share] if share else []), *(["n_heads"] if "n_heads" in rows else [])]
    found = found.assign(**{share: found[share].astype(float).round(6)}) if share else found
    if (twice := found.duplicated(keys)).any():
        where = " / ".join(map(str, found.loc[twice, keys].iloc[0]))
        raise EstimateError(f"two rows for {where}; build the table again")
    return found


def _cells(rows: pd.DataFrame, min_items: int) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the rows of each cell that has enough items."""
    parts = {cast(tuple[str, str], key): part for key, part in rows.groupby(CELL)}
    return {key: part for key, part in parts.items() if part["item_id"].nunique() >= min_items}


def _compare(cell: pd.DataFrame, first: Any, second: Any, confidence: float) -> dict[str, Any]:
    """Return the difference in accuracy of two (condition, start) of a cell, over the items that have both."""
    indexed = cell.set_index(["condition", "start_share", "item_id"])["correct"].sort_index()
    pairs = pd.concat([indexed.loc[key] for key in (first, second)], axis=1, join="inner").astype(bool)
    found = compare_pairs(pairs.iloc[:, 0], pairs.iloc[:, 1], pairs.index, confidence)
    return found._asdict()


def _adjust(table: pd.DataFrame, family: Sequence[str], p: str = "p") -> pd.DataFrame:
    """Return the table with Holm's p over the cells of each family; a row without an estimate is in none."""
    if table.empty:
        return table
    tested = table.dropna(subset=[p])
    adjusted = tested.groupby([*family])[p].transform(lambda own: bootstrap.adjust_holm(own.to_numpy()))
    return table.assign(p_holm=adjusted)


def need_table(effects: pd.DataFrame, *, min_items: int = 20, confidence: float = 0.95) -> pd.DataFrame:
    """Return the need for the evidence per cell and start: accuracy with the control region blocked less with evidence.

    Columns: model, benchmark, start_share, estimate, ci_low, ci_high (share of the answers), p (McNemar, exact), p_holm
    (over the cells of a start), n_items, n_first_only (right with the control blocked alone), n_second_only.
    """
    results = []
    for key, cell in _cells(read_rows(effects, "start_share"), min_items).items():
        starts = [{*cell.loc[cell["condition"] == name, "start_share"]} for name in ("control", "evidence")]
        for start in sorted(starts[0] & starts[1]):
            found = _compare(cell, ("control", start), ("evidence", start), confidence)
            results.append(dict(zip(CELL, key, strict=True)) | {"start_share": start} | found)
    return _adjust(pd.DataFrame(results), ["start_share"])


def control_table(
    effects: pd.DataFrame, *, equivalence_margin: float, min_items: int = 20, confidence: float = 0.95
) -> pd.DataFrame:
    """Return the accuracy under every condition less that of the stored responses, paired, per cell and start.

    Columns: model, benchmark, condition, start_share, estimate, ci_low, ci_high, p, n_items, ..., is_flagged: one of
    `CONTROLS` whose interval does not lie inside -+ `equivalence_margin`.
    """
    results = []
    for key, cell in _cells(read_rows(effects, "start_share"), min_items).items():
        for name, start in sorted({*zip(cell["condition"], cell["start_share"], strict=True)} - {("baseline", 0.0)}):
            found = _compare(cell, (name, start), ("baseline", 0.0), confidence)
            inside = -equivalence_margin < found["ci_low"] and found["ci_high"] < equivalence_margin
            where = dict(zip(CELL, key, strict=True)) | {"condition": name, "start_share": start}
            results.append(where | found | {"is_flagged": name in CONTROLS and not inside})
    return pd.DataFrame(results)


def effect_table(effects: pd.DataFrame, *, min_items: int = 20) -> pd.DataFrame:
    """Return what becomes of the responses per cell, condition and start.

    Total effect, of the text written under the condition: accuracy, rewritten_share, changed_share (of the answers),
    no_parse_share, cut_share, mean_tokens, mean_entropy_nats. Direct effect, in the replay of the own response:
    mean_answer_lost_nats, mean_reasoning_lost_nats, replay_changed_share (NaN for other prompts).
    """
    rows = read_rows(effects, "start_share")
    rows = pd.concat([part for part in _cells(rows, min_items).values()] or [rows.head(0)])
    replayed = rows["answer_lost_nats"].notna()
    values = pd.DataFrame({
        "accuracy": rows["correct"], "rewritten_share": ~rows["same_text"].astype(bool),
        "changed_share": ~rows["same_prediction"].astype(bool), "no_parse_share": ~rows["parsed"].astype(bool),
        "cut_share": rows["finish_reason"].astype(str) == "length", "mean_tokens": rows["n_response_tokens"],
        "mean_entropy_nats": rows["full_entropy_nats"], "mean_answer_lost_nats": rows["answer_lost_nats"],
        "mean_reasoning_lost_nats": rows["reasoning_lost_nats"],
        "replay_changed_share": rows["answer_changed"].astype(float).where(replayed),
    }).astype(float)  # fmt: skip
    groups = values.groupby([rows[name] for name in (*CELL, "condition", "start_share")])
    return groups.mean().assign(n_items=groups.size()).reset_index()


def source_table(
    recalls: pd.DataFrame, *, min_usable: int = 100, confidence: float = 0.95, resampling: Resampling = STANDARD
) -> pd.DataFrame:
    """Return where restated words come from, per cell and kind of word ("all": every kind, an item weighs the same).

    A row per quantity and condition: "turned" under each of `SWAPS` and "kept" under each of `KNOCKOUTS` (shares with
    Wilson intervals by item), "picture less text" (turned under P alone less under T alone, paired, with p and p_holm
    over the cells of a kind), "redundancy" (kept without cell + kept without read - 1 - kept without both, bootstrap by
    item: 0 where the losses add up, above 0 where the two back each other up). n_usable of n_items items; no estimate
    under `min_usable`.
    """
    rows = read_rows(recalls)
    results = []
    for key, cell in rows.groupby(CELL):
        for word in [ALL, *sorted({*cell.loc[cell["is_usable"].astype(bool), "word"]})]:
            own = cell if word == ALL else cell[cell["word"] == word]
            usable = own[own["is_usable"].astype(bool)]
            n = {"n_usable": usable["item_id"].nunique(), "n_items": cell["item_id"].nunique()}
            enough = n["n_usable"] >= min_usable
            found = _sources(usable, confidence, resampling) if enough else [{"quantity": "picture less text"}]
            where = dict(zip(CELL, key, strict=True)) | {"word": word}
            results += [where | {"condition": ""} | row | n for row in found]
    columns = ["estimate", "ci_low", "ci_high", "p"]
    table = pd.DataFrame(results, columns=[*CELL, "word", "quantity", "condition", *columns, "n_usable", "n_items"])
    return _adjust(table.astype(dict.fromkeys(columns, float)), ["word", "quantity"])


def _sources(usable: pd.DataFrame, confidence: float, resampling: Resampling) -> list[dict[str, Any]]:
    wide = usable.set_index(["item_id", "word", "condition"])[["turned", "kept"]].astype(float).unstack("condition")
    items = wide.index.get_level_values("item_id")
    weight = 1 / wide.groupby(items)["turned"].transform("size").to_numpy(float)
    found: list[dict[str, Any]] = []
    for quantity, conditions in (("turned", SWAPS), ("kept", KNOCKOUTS)):
        for name in (name for name in conditions if (quantity, name) in wide):
            values = wide[quantity, name].to_numpy(float)
            known = ~np.isnan(values)  # there may be no other statement to block
            n = float(weight[known].sum())
            share = float(weight[known] @ values[known]) / n if n else np.nan
            low, high = proportion_confint(share * n, n, alpha=1 - confidence, method="wilson") if n else (np.nan,) * 2
            found.append({"quantity": quantity, "condition": name, "estimate": share, "ci_low": low, "ci_high": high})
    pairs = compare_pairs(wide["turned", "P"] == 1, wide["turned", "T"] == 1, items, confidence)
    keep = ("estimate", "ci_low", "ci_high", "p")
    found.append({"quantity": "picture less text"} | {key: pairs._asdict()[key] for key in keep})
    kept = [wide["kept", f"block_{name}"].to_numpy(float) for name in ("cell", "read", "both")]
    values = weight[:, None] * np.column_stack([kept[0] + kept[1] - kept[2] - 1, np.ones(len(wide))])
    interval = bootstrap.bootstrap_sums(values, lambda total: total[..., :1] / total[..., 1:], items, None, resampling)
    return [*found, {"quantity": "redundancy"} | interval[0].columns()]


def preservation_table(
    effects: pd.DataFrame, *, min_items: int = 20, confidence: float = 0.95, resampling: Resampling = STANDARD
) -> pd.DataFrame:
    """Return what keeping the look up does, and beside it whether the look was kept up.

    quantity "accuracy": the difference of `condition` and `against` (share of the answers, paired, McNemar's p, Holm
    over the cells of a comparison). Other quantities, the manipulation check: the mass that the raise aims at, a sum
    under it over the sum in the baseline (bootstrap by item). `width` is that of the interval: how much a null
    leaves open.
    """
    results = []
    for key, cell in _cells(read_rows(effects, "start_share"), min_items).items():
        where, there = dict(zip(CELL, key, strict=True)), {*cell["condition"]}
        for first, second in (pair for pair in RAISES if {*pair} <= there):
            found = _compare(cell, (first, 0.0), (second, 0.0), confidence)
            results.append(where | {"quantity": "accuracy", "condition": first, "against": second} | found)
        for name, mass in (check for check in CHECKS if {check[0], "baseline"} <= there):
            wide = cell[cell["start_share"] == 0].pivot(index="item_id", columns="condition", values=mass)
            both = wide[[name, "baseline"]].dropna().astype(float)
            if len(both) >= min_items:
                ratio = bootstrap.bootstrap_ratio(both[name], both["baseline"], both.index, None, resampling)
                row = {"quantity": mass, "condition": name, "against": "baseline", "n_items": len(both)}
                results.append(where | row | ratio.columns())
    table = pd.DataFrame(results)
    if table.empty:
        return table
    table = table.assign(width=table["ci_high"] - table["ci_low"], p=table.get("p", np.nan))
    return _adjust(table, ["quantity", "condition", "against"])


def accuracy_curve(
    forced: pd.DataFrame, *, min_items: int = 20, confidence: float = 0.95, resampling: Resampling = STANDARD
) -> pd.DataFrame:
    """Return, along the own reasoning, the accuracy of answers forced there beside the evidence mass up to there.

    A row per cell, quantity and reasoning_share: accuracy and parsed (Wilson), format_mass, evidence,
    evidence_over_uniform (a ratio of sums; bootstrap by item). The masses have no value at 0.
    """
    results = []
    for key, cell in _cells(read_rows(forced, "reasoning_share"), min_items).items():
        for share, rows in cell.groupby("reasoning_share"):
            where = dict(zip(CELL, key, strict=True)) | {"reasoning_share": share, "head_set": "grounding_layers"}
            for name, column in {"accuracy": "correct", "parsed": "parsed"}.items():
                n, right = len(rows), int(rows[column].sum())
                low, high = proportion_confint(right, n, alpha=1 - confidence, method="wilson")
                ends = {"estimate": right / n, "ci_low": low, "ci_high": high, "n_items": n}
                results.append(where | {"quantity": name} | ends)
            means = {"format_mass": ("format_mass", None), "evidence": ("evidence_mass", None),
                     "evidence_over_uniform": ("evidence_mass", "uniform_evidence_share")}  # fmt: skip
            for name, (top, under) in means.items():
                own = rows.dropna(subset=[top, *([under] if under else [])])
                below = own[under] if under else np.ones(len(own))
                if len(own) >= min_items and np.sum(below) > 0:
                    ratio = bootstrap.bootstrap_ratio(own[top], below, own["item_id"], None, resampling)
                    results.append(where | {"quantity": name, "n_items": len(own)} | ratio.columns())
    return pd.DataFrame(results)


def c6_table(
    forced: pd.DataFrame, *, order_deals: int, min_items: int = 20, confidence: float = 0.95,
    resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return, per cell, how far accuracy rises and grounding falls from a tenth of the reasoning to all of it.

    gain: accuracy at `LAST` less at `FIRST`, paired (Newcombe). fall: 1 - (sum m / sum u at LAST) / (the same at FIRST)
    of the evidence mass m and a uniform look u (bootstrap by item). weaker_low: the lower of both lower ends, above 0
    where both intervals are. p: the larger of the two one-sided p under `order_deals` deals of the shares within items
    (a row's answer and masses stay together; both have to be rare), p_holm over the cells. joint_low: weaker_low, at
    most 0 where p_holm is not below 1 - `confidence`: above 0 where a cell shows all of it. format_mass_first: of the
    forced answer at FIRST. Over the items that have masses at both ends.
    """
    results = []
    for key, cell in _cells(read_rows(forced, "reasoning_share"), 1).items():
        columns = ["correct", "evidence_mass", "uniform_evidence_share", "format_mass"]
        wide = cell[cell["reasoning_share"] >= FIRST].pivot(index="item_id", columns="reasoning_share", values=columns)
        if not {FIRST, LAST} <= {*wide["correct"]}:
            continue
        wide = wide.dropna(subset=[(name, share) for name in columns for share in (FIRST, LAST)]).astype(float)
        if len(wide) < min_items:
            continue
        ends = [wide.xs(share, axis=1, level=1) for share in (FIRST, LAST)]
        gain = compare_pairs(ends[1]["correct"] == 1, ends[0]["correct"] == 1, wide.index, confidence)
        sums = np.hstack([end[columns[1:3]].to_numpy(float) for end in ends])
        fall = bootstrap.bootstrap_sums(sums, _fall, wide.index, None, resampling)[0]
        p = _deal_order(np.stack([wide[name].to_numpy(float) for name in columns[:3]]), order_deals, resampling.seed)
        row = {"gain": gain.estimate, "gain_low": gain.ci_low, "gain_high": gain.ci_high} | fall.columns("fall")
        row |= {"weaker_low": min(gain.ci_low, fall.ci_low), "p_gain": p[0], "p_fall": p[1], "p": max(p)}
        row |= {"format_mass_first": float(ends[0]["format_mass"].mean()), "n_items": len(wide)}
        results.append(dict(zip(CELL, key, strict=True)) | row)
    if not results:
        return pd.DataFrame()
    table = _adjust(pd.DataFrame(results).assign(family=0), ["family"]).drop(columns="family")
    joint = table["weaker_low"].where(table["p_holm"] < 1 - confidence, table["weaker_low"].clip(upper=0))
    return table.assign(joint_low=joint)


def _fall(totals: Any) -> Any:
    """Statistic of summed m and u at the first, then at the last share [..., 4] -> [..., 1]."""
    m_first, u_first, m_last, u_last = np.moveaxis(totals, -1, 0)
    change = bootstrap.divide(bootstrap.divide(m_last, m_first), bootstrap.divide(u_last, u_first))
    return (1 - change)[..., None]


def _deal_order(values: Floats, n_deals: int, seed: int) -> tuple[float, float]:
    """Return one-sided p of gain and fall when the shares are dealt within items; values [3, items, shares].

    A deal gives every item two of its rows as first and last. Rows without masses (a short reasoning) are not dealt.
    """
    rng, (_, n, k) = np.random.default_rng([seed, 6]), values.shape
    unknown, rows = np.isnan(values).any(axis=0), np.arange(n)

    def measure(first: Any, last: Any) -> tuple[float, float]:
        a, b = values[:, rows, first], values[:, rows, last]
        return float((b[0] - a[0]).mean()), float(_fall(np.stack([*a[1:].sum(1), *b[1:].sum(1)]))[0])

    order = (np.argsort(np.where(unknown, 2.0, rng.random((n, k))), axis=1) for _ in range(n_deals))
    dealt = np.array([measure(own[:, 0], own[:, 1]) for own in order])
    observed = measure(0, k - 1)
    gain, fall = (bootstrap.permutation_p(dealt[:, j], observed[j]) for j in (0, 1))
    return gain, fall


def use_table(
    recalls: pd.DataFrame, effects: pd.DataFrame, items: pd.DataFrame | None = None, *, min_usable: int = 100,
    confidence: float = 0.95,
) -> pd.DataFrame:  # fmt: skip
    """Return rank correlations of attention and use, per cell: does the mass say how far the word depends on it?

    use "picture": log-odds of the altered word under P less under none, "knockout": nats that the own word loses with
    its cell blocked; both against the cell's mass at the row that predicts the word, across words. "answer" (with the
    `items` table): nats that the own reasoning loses with the evidence blocked from its start, against
    vision_evidence_mass. Spearman with the interval of Bonett and Wright (2000), n the items.
    """
    rows = read_rows(recalls)
    wide = rows[rows["is_usable"].astype(bool)].set_index([*CELL, "item_id", "word", "condition"]).unstack("condition")
    looks: dict[str, pd.DataFrame] = {}
    if len(wide):
        x, odds = wide["cell_mass", "none"], wide["log_odds_nats"]
        looks["picture"] = pd.DataFrame({"attention": x, "use": odds["P"] - odds["none"]})
        looks["knockout"] = pd.DataFrame({"attention": x, "use": wide["lost_nats", "block_cell"]})
    if items is not None:
        own = read_rows(effects, "start_share").query("condition == 'evidence' and start_share == 0")
        seen = read_rows(items).set_index([*CELL, "item_id"])["vision_evidence_mass"].rename("attention")
        looks["answer"] = own.set_index([*CELL, "item_id"])[["reasoning_lost_nats"]].join(seen)
        looks["answer"].columns = ["use", "attention"]
    found = []
    for use, pairs in looks.items():
        for key, part in pairs.dropna().astype(float).groupby(CELL):
            n = part.index.get_level_values("item_id").nunique()
            if n >= min_usable:
                row = _rank_correlation(part["attention"], part["use"], n, confidence)
                found.append(dict(zip(CELL, key, strict=True)) | {"use": use} | row)
    return pd.DataFrame(found, columns=[*CELL, "use", "estimate", "ci_low", "ci_high", "n_items"])


def _rank_correlation(x: Any, y: Any, n: int, confidence: float) -> dict[str, float]:
    rho = float(stats.spearmanr(x, y).statistic)
    reach = stats.norm.ppf((1 + confidence) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    middle = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    low, high = (float(np.tanh(middle + side * reach)) for side in (-1, 1))
    return {"estimate": rho, "ci_low": low, "ci_high": high, "n_items": n}


def head_table(
    head_losses: pd.DataFrame, *, min_items: int = 20, resampling: Resampling = STANDARD
) -> pd.DataFrame:
    """Return the share of the nats that all heads lose together, for the top heads and as many random ones.

    A ratio of sums over items, with its interval. A cell in which all heads together lose nothing has no share.
    """
    results = []
    for key, cell in _cells(read_rows(head_losses), min_items).items():
        every = cell[cell["chosen"] == "all"].set_index("item_id")["lost_nats"].rename("all_nats")
        for (chosen, n_heads), part in cell[cell["chosen"] != "all"].groupby(["chosen", "n_heads"]):
            rows = part.set_index("item_id")[["lost_nats"]].join(every, how="inner").dropna().astype(float)
            if len(rows) >= min_items and rows["all_nats"].sum() > 0:
                share = bootstrap.bootstrap_ratio(rows["lost_nats"], rows["all_nats"], rows.index, None, resampling)
                row = {"chosen": chosen, "n_heads": n_heads, "n_items": len(rows)}
                results.append(dict(zip(CELL, key, strict=True)) | row | share.columns())
    return pd.DataFrame(results)


def find_words(
    needs: pd.DataFrame, controls: pd.DataFrame, effects: pd.DataFrame, sources: pd.DataFrame, *,
    equivalence_margin: float, rewritten_share: float, confidence: float = 0.95,
) -> pd.DataFrame:  # fmt: skip
    """Return a row per cell: need_word and source_word, by rule, from four tables (`effects`: `effect_table`).

    needs     the need at the start lies above 0, by its interval and Holm's p
    ignores   the knockout there rewrites more than `rewritten_share` of the texts, and the interval of the need lies
              inside -+ `equivalence_margin`
    re-reads  more words turn by the picture alone than by the text alone, by interval and Holm's p; copies: fewer
    undecided anything else, two words of one kind among it. Empty: none, or `is_flagged`: a control may have moved.
    """
    level, start = 1 - confidence, needs[needs["start_share"] == 0]
    whole = sources[(sources["quantity"] == "picture less text") & (sources["word"] == ALL)].set_index(CELL)
    at_start = effects[(effects["condition"] == "evidence") & (effects["start_share"] == 0)].set_index(CELL)
    own = controls["condition"].isin(CONTROLS) & ((controls["start_share"] == 0) | (controls["condition"] == "empty"))
    flagged = controls[own].groupby(CELL)["is_flagged"].any()
    results = []
    for _, row in start.iterrows():
        key = (row["model"], row["benchmark"])
        is_needed = row["ci_low"] > 0 and row["p_holm"] < level
        is_inside = -equivalence_margin < row["ci_low"] and row["ci_high"] < equivalence_margin
        is_ignored = is_inside and at_start.loc[key, "rewritten_share"] > rewritten_share
        need = UNDECIDED if is_needed == is_ignored else NEEDS if is_needed else IGNORES
        source = ""
        if key in whole.index and pd.notna(whole.loc[key, "estimate"]):
            found = whole.loc[key]
            sign = int(found["ci_low"] > 0) - int(found["ci_high"] < 0) if found["p_holm"] < level else 0
            source = {1: REREADS, -1: COPIES, 0: UNDECIDED}[sign]
        is_flagged = bool(flagged.get(key, True))  # without a control nothing is said
        words = ("", "") if is_flagged else (need, source)
        named = {"need_word": words[0], "source_word": words[1], "is_flagged": is_flagged}
        results.append(dict(zip(CELL, key, strict=True)) | named)
    return pd.DataFrame(results, columns=[*CELL, "need_word", "source_word", "is_flagged"])
