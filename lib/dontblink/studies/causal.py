"""What is cause: is the look at the evidence needed, where does a restated word come from, does keeping it up help?

Why it exists: attention mass is a correlate. In: the tables that `make causal` writes (`schema.CAUSAL`), test items.
Out: a row per cell of each estimand with its interval and its control, and the words that a rule gives them. Every
rule holds its control inside: a cell whose control moves the answers gets no word.

- need: accuracy with the control region hidden less accuracy with the evidence hidden, paired by item, exact McNemar
- source: share of restated words that turn where only the picture says so, less where only the own text does
- preservation: accuracy with the evidence raised less with the control region raised, beside the masses reached
- accuracy and grounding: accuracy after all of the reasoning less after its first tenth, beside the fall of the mass

Never: pool responses whose control was not run, leave out a response that came to no end (it is wrong), or read an
effect of zero without its width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from dontblink import paths, schema, store
from dontblink.schema import CAUSAL, KEYS
from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import STANDARD, Resampling

CELL = ["model", "benchmark"]
FACTORS = ("T", "M", "P", "TM", "TP", "MP", "TMP")
KNOCKOUTS = ("block_cell", "block_read", "block_both", "block_other_cell", "block_other_statement", "block_image")
CONTROLS = ("control", "random", "empty")
Bools = NDArray[np.bool_]


def read_causal(profile: str, name: str) -> pd.DataFrame:
    """Return one of the tables of `make causal`, test items; without rows where nobody ran it in this profile."""
    tracked = paths.ROOT / "figures" / "causal"  # so that `lineage` sees it
    file = (tracked if profile == "testbed" else paths.causal(profile)) / f"{name}.parquet"
    if not file.is_file():
        return pd.DataFrame(columns=[*CAUSAL[name]])
    table = schema.check_table(name, store.read_table(file), file).replace_schema_metadata().to_pandas()
    texts = [column for column, spec in CAUSAL[name].items() if spec.type == schema.TEXT]
    return table.astype(dict.fromkeys(texts, "str"))


def compare_pairs(first: Bools, second: Bools, confidence: float) -> dict[str, float]:
    """Return the difference of two paired shares, first less second, with its interval and the exact McNemar p.

    The interval squares and adds those of Wilson, with the correlation of the pairs (Newcombe 1998, method 10); where
    no pair is discordant it is the exact upper end of none in n, both ways.
    """
    n, alpha = len(first), 1 - confidence
    both, gained, lost = (int(part.sum()) for part in (first & second, first & ~second, second & ~first))
    neither = n - both - gained - lost
    shares = np.array([both + gained, both + lost]) / n
    ends = np.array([proportion_confint(round(share * n), n, alpha, "wilson") for share in shares])
    below, above = np.abs(shares - ends[:, 0]), np.abs(ends[:, 1] - shares)
    product = float(both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    phi = (both * neither - gained * lost) / product**0.5 if product > 0 else 0.0
    low = (below[0] ** 2 - 2 * phi * below[0] * above[1] + above[1] ** 2) ** 0.5
    high = (above[0] ** 2 - 2 * phi * above[0] * below[1] + below[1] ** 2) ** 0.5
    if not gained + lost:
        low = high = proportion_confint(0, n, alpha, "beta")[1]
    estimate = float(shares[0] - shares[1])
    return {
        "estimate": estimate, "ci_low": estimate - float(low), "ci_high": estimate + float(high), "n_items": n,
        "n_gained": gained, "n_lost": lost,
        "p": float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    }  # fmt: skip


def pair_conditions(effects: pd.DataFrame, first: str, second: str, start: float) -> pd.DataFrame:
    """Return the items of both conditions from one share on, `_first` and `_second`; the baseline has no share."""
    parts = []
    for name in (first, second):
        at = 0.0 if name == "baseline" else start
        rows = effects[(effects["condition"] == name) & np.isclose(effects["start_share"], at)]
        parts.append(rows.drop(columns=["condition", "start_share"]))
    return parts[0].merge(parts[1], on=[*KEYS], suffixes=("_first", "_second"), validate="1:1")


def difference_table(
    effects: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, confidence: float = 0.95, min_items: int = 20
) -> pd.DataFrame:
    """Return accuracy under one condition less that under another, per cell and share at which both were run.

    Holm runs over the cells within a pair and a share. A cell with fewer than `min_items` items is left out.
    """
    rows = []
    for first, second in pairs:
        starts = [set(effects.loc[effects["condition"] == name, "start_share"]) for name in (first, second)]
        shared = starts[0] if second == "baseline" else starts[0] & starts[1]
        for start in sorted(shared):
            paired = pair_conditions(effects, first, second, start)
            for (model, benchmark), own in paired.groupby(CELL):
                if len(own) >= min_items:
                    found = compare_pairs(
                        *(own[f"correct_{end}"].to_numpy(bool) for end in ("first", "second")), confidence
                    )
                    names = {"model": model, "benchmark": benchmark, "condition": first, "less": second}
                    rows.append(names | {"start_share": float(start)} | found)
    table = pd.DataFrame(rows, columns=[*CELL, "condition", "less", "start_share", "estimate", "ci_low", "ci_high",
                                        "n_items", "n_gained", "n_lost", "p"])  # fmt: skip
    groups = table.groupby(["condition", "less", "start_share"])["p"]
    return table.assign(p_holm=groups.transform(lambda p: bootstrap.adjust_holm(p.to_numpy())))


def need_table(effects: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Return the need of the look at the evidence, per cell and share of the reasoning from which on it is hidden."""
    return difference_table(effects, [("control", "evidence")], **options)


def control_table(effects: pd.DataFrame, margin: float, **options: Any) -> pd.DataFrame:
    """Return what the controls do to the accuracy; `is_flagged` where that does not lie within +-`margin`."""
    table = difference_table(effects, [(name, "baseline") for name in CONTROLS], **options)
    return table.assign(is_flagged=~((table["ci_low"] > -margin) & (table["ci_high"] < margin)))


def effect_table(effects: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return what becomes of the responses of every cell under every condition: total effect and direct effect."""
    groups = effects.groupby([*CELL, "condition", "start_share"])
    table = groups.agg(
        n_items=("correct", "size"), n_correct=("correct", "sum"), accuracy=("correct", "mean"),
        no_parse=("parsed", lambda own: 1 - own.mean()), rewritten=("same_text", lambda own: 1 - own.mean()),
        answers_changed=("same_prediction", lambda own: 1 - own.mean()), n_tokens=("n_response_tokens", "mean"),
        entropy_nats=("full_entropy_nats", "mean"), direct_answers_changed=("answer_changed", "mean"),
        answer_lost_nats=("answer_lost_nats", "mean"), reasoning_lost_nats=("reasoning_lost_nats", "mean"),
    ).reset_index()  # fmt: skip
    ends = proportion_confint(table["n_correct"], table["n_items"], 1 - confidence, "wilson")
    return table.assign(ci_low=ends[0], ci_high=ends[1])


def pivot_words(recalls: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return a row per restated word with the `value` of every condition as a column."""
    usable = recalls[recalls["is_usable"]]
    wide = usable.pivot_table(value, [*CELL, "item_id", "word"], "condition", aggfunc="first")
    return wide.reset_index()


def source_table(
    recalls: pd.DataFrame, *, min_usable: int = 100, confidence: float = 0.95, resampling: Resampling = STANDARD
) -> pd.DataFrame:
    """Return where restated words come from, per cell and kind of word ("all": every word of the cell).

    `turned_P` and the like are the shares that turn into the altered word where these factors say it; `estimate` is P
    alone less T alone, by item; `kept_block_cell` and the like are the shares that a knockout leaves; `redundancy` is
    kept(cell) + kept(read) - 1 - kept(both): how far either source stands in for the other. Fewer than `min_usable`
    words: counts alone. `n_asked` are all responses that were asked for a restatement.
    """
    turned, kept = (pivot_words(recalls, value) for value in ("turned", "kept"))
    asked = recalls.drop_duplicates([*CELL, "item_id"]).groupby(CELL).size()
    rows = []
    for (model, benchmark), own in turned.groupby(CELL):
        same = kept[(kept["model"] == model) & (kept["benchmark"] == benchmark)]
        for word, part in [("all", own), *own.groupby("word")]:
            names = {"model": model, "benchmark": benchmark, "word": word, "n_words": len(part)}
            row = names | {"n_items": part["item_id"].nunique(), "n_asked": int(asked[model, benchmark])}
            if len(part) >= min_usable:
                left = same if word == "all" else same[same["word"] == word]
                row |= {f"turned_{name}": float(part[name].astype(float).mean()) for name in FACTORS}
                row |= {f"kept_{name}": float(left[name].astype(float).mean()) for name in KNOCKOUTS if name in left}
                row |= _contrast_sources(part, left, resampling)
            rows.append(row)
    return pd.DataFrame(rows)


def _contrast_sources(turned: pd.DataFrame, kept: pd.DataFrame, resampling: Resampling) -> dict[str, float]:
    """Return P alone less T alone, and the redundancy, with intervals by item."""
    ones = np.ones(len(turned))
    picture, text = (turned[name].to_numpy(float) for name in ("P", "T"))
    values = np.column_stack([picture - text, ones])
    (source,) = bootstrap.bootstrap_sums(values, bootstrap.ratios, turned["item_id"].to_numpy(), resampling=resampling)
    cell, read, both = (kept[f"block_{name}"].to_numpy(float) for name in ("cell", "read", "both"))
    values = np.column_stack([cell + read - 1 - both, ones])
    (spare,) = bootstrap.bootstrap_sums(values, bootstrap.ratios, kept["item_id"].to_numpy(), resampling=resampling)
    return source.columns() | spare.columns("redundancy")


def preservation_table(effects: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Return what raising the attention to the evidence, or to the own map, gains over raising the control region."""
    pairs = [("raise_evidence", "raise_control"), ("raise_own", "raise_control"), ("raise_evidence", "baseline")]
    table = difference_table(effects, pairs, **options)
    return table.assign(half_width=(table["ci_high"] - table["ci_low"]) / 2)


def mass_table(effects: pd.DataFrame, resampling: Resampling = STANDARD) -> pd.DataFrame:
    """Return the manipulation check: by how much each raise lifts the mass that it is about, ratios of sums."""
    rows = []
    for name, mass in (
        ("raise_evidence", "evidence_mass"),
        ("raise_control", "control_box_mass"),
        ("raise_own", "evidence_mass"),
    ):
        paired = pair_conditions(effects, name, "baseline", 0.0).dropna(subset=[f"{mass}_first", f"{mass}_second"])
        for (model, benchmark), own in paired.groupby(CELL):
            values = own[[f"{mass}_first", f"{mass}_second"]].to_numpy(float)
            (ratio,) = bootstrap.bootstrap_sums(
                values, bootstrap.ratios, own["item_id"].to_numpy(), resampling=resampling
            )
            rows.append({"model": model, "benchmark": benchmark, "condition": name, "mass": mass} | ratio.columns())
    return pd.DataFrame(rows)


def accuracy_curve(forced: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return, per cell and share of the own reasoning, the accuracy of forced answers and what is looked at before."""
    table = forced.groupby([*CELL, "reasoning_share"]).agg(
        n_items=("correct", "size"), n_correct=("correct", "sum"), accuracy=("correct", "mean"),
        parsed=("parsed", "mean"), format_mass=("format_mass", "mean"), evidence_mass=("evidence_mass", "mean"),
        uniform_evidence_share=("uniform_evidence_share", "mean"),
    ).reset_index()  # fmt: skip
    ends = proportion_confint(table["n_correct"], table["n_items"], 1 - confidence, "wilson")
    return table.assign(ci_low=ends[0], ci_high=ends[1])


def keep_grounding(totals: Any) -> Any:
    """Statistic of masses and uniform shares, last and first, summed: 1 - (m last / m first) / (u last / u first)."""
    last, first, uniform_last, uniform_first = np.moveaxis(totals, -1, 0)
    kept = bootstrap.divide(bootstrap.divide(last, first), bootstrap.divide(uniform_last, uniform_first))
    return np.stack([1 - kept], axis=-1)


def grounding_table(
    forced: pd.DataFrame, *, first: float = 0.1, least_parsed: float = 0.8, n_deals: int = 1000, min_items: int = 20,
    resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return what reasoning adds to accuracy and takes from grounding, per cell: C6.

    `gain` is the accuracy behind all of the reasoning less that behind its `first` share, paired by item; `fall` that
    of the evidence mass beyond a uniform look over the same range. Answers that are forced off the model's habits say
    little: of those behind the first share `least_parsed` have to be in the answer's format. `least_margin` is by how
    much the claim holds: the least of gain_low, fall_low and the share in the format less what it has to be. `p` is the
    larger of the shares of deals of the order within items that reach gain, and fall; Holm runs over the cells.
    """
    rows, rng = [], np.random.default_rng(resampling.seed)
    late = forced[forced["reasoning_share"] >= first - 1e-9]
    values = ["correct", "evidence_mass", "uniform_evidence_share", "parsed"]
    for (model, benchmark), own in late.groupby(CELL):
        wide = own.astype(dict.fromkeys(values, float)).pivot(index="item_id", columns="reasoning_share", values=values)
        whole = wide.dropna()
        if len(whole) < min_items:
            continue
        right, mass, uniform, parsed = (whole[name].to_numpy(float) for name in values)
        gain = compare_pairs(right[:, -1] > 0, right[:, 0] > 0, resampling.confidence)
        ends = np.column_stack([mass[:, -1], mass[:, 0], uniform[:, -1], uniform[:, 0]])
        (fall,) = bootstrap.bootstrap_sums(ends, keep_grounding, whole.index.to_numpy(), resampling=resampling)
        dealt = np.array([_deal_order(right, mass, uniform, rng) for _ in range(n_deals)])
        beats = (dealt >= [gain["estimate"], fall.estimate]).sum(axis=0) + 1
        format_share = float(parsed[:, 0].mean())
        names = {"model": model, "benchmark": benchmark, "n_items": len(whole), "n_left_out": len(wide) - len(whole)}
        names |= {"gain": gain["estimate"], "gain_low": gain["ci_low"], "gain_high": gain["ci_high"]}
        margin = min(gain["ci_low"], fall.ci_low, format_share - least_parsed)
        more = {"parsed": format_share, "least_margin": margin, "p": float(beats.max()) / (n_deals + 1)}
        rows.append(names | fall.columns("fall") | more)
    table = pd.DataFrame(rows)
    return table.assign(p_holm=bootstrap.adjust_holm(table["p"].to_numpy())) if len(table) else table


def _deal_order(right: Any, mass: Any, uniform: Any, rng: np.random.Generator) -> tuple[float, float]:
    """Return gain and fall where the shares of each item's reasoning are dealt anew."""
    ends = rng.random(right.shape).argsort(axis=1)[:, [-1, 0]]
    rows = np.arange(len(right))[:, None]
    gain = np.diff(right[rows, ends].mean(axis=0))[0]
    totals = np.concatenate([mass[rows, ends].sum(axis=0), uniform[rows, ends].sum(axis=0)])
    return float(-gain), float(keep_grounding(totals)[0])


def use_table(recalls: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return, per cell, the rank correlation of the attention to a restated word's cell and its use.

    Use is the log-odds of the altered word where the picture alone says it, and the nats lost where the cell is hidden.
    Interval of Spearman's rho by Bonett and Wright (2000): arctanh(rho) +- z sqrt((1 + rho^2 / 2) / (n - 3)).
    """
    words = [*CELL, "item_id", "word"]
    looks = recalls[recalls["is_usable"]].drop_duplicates(words)[[*words, "cell_mass"]]
    rows = []
    for name, value, condition in (("turned", "log_odds_nats", "P"), ("lost", "lost_nats", "block_cell")):
        used = pivot_words(recalls, value)[[*words, condition]].merge(looks, on=words, validate="1:1")
        for (model, benchmark), own in used.groupby(CELL):
            if len(own) > 3:
                found = correlate_ranks(own["cell_mass"].to_numpy(float), own[condition].to_numpy(float), confidence)
                rows.append({"model": model, "benchmark": benchmark, "use": name, "n_words": len(own)} | found)
    return pd.DataFrame(rows)


def correlate_ranks(x: Any, y: Any, confidence: float) -> dict[str, float]:
    """Return Spearman's rho with its interval; 0 with the widest interval where one of both does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"estimate": 0.0, "ci_low": -1.0, "ci_high": 1.0}
    rho = float(stats.spearmanr(x, y).statistic)
    width = stats.norm.ppf((1 + confidence) / 2) * ((1 + rho**2 / 2) / (len(x) - 3)) ** 0.5
    middle = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return {"estimate": rho, "ci_low": float(np.tanh(middle - width)), "ci_high": float(np.tanh(middle + width))}


def vision_table(effects: pd.DataFrame, items: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return, per cell, the rank correlation of V (late evidence mass) and the nats lost with the evidence hidden."""
    hidden = effects[(effects["condition"] == "evidence") & (effects["start_share"] == 0)]
    looks = items[[*CELL, "item_id", "vision_evidence_mass"]].astype(dict.fromkeys([*CELL, "item_id"], "str"))
    both = hidden.merge(looks, on=[*CELL, "item_id"], validate="1:1").dropna(subset=["vision_evidence_mass"])
    rows = []
    for (model, benchmark), own in both.groupby(CELL):
        if len(own) > 3:
            pair = own["vision_evidence_mass"].to_numpy(float), own["reasoning_lost_nats"].to_numpy(float)
            names = {"model": model, "benchmark": benchmark, "n_items": len(own)}
            rows.append(names | correlate_ranks(*pair, confidence))
    return pd.DataFrame(rows)


def head_table(losses: pd.DataFrame) -> pd.DataFrame:
    """Return the share of what all heads together lose, that some lose: sums of nats over items."""
    sums = losses.groupby([*CELL, "chosen", "n_heads"])["lost_nats"].sum().reset_index()
    whole = sums[sums["chosen"] == "all"].set_index(CELL)["lost_nats"]
    rows = sums[sums["chosen"] != "all"]
    share = bootstrap.divide(rows["lost_nats"].to_numpy(), whole.loc[pd.MultiIndex.from_frame(rows[CELL])].to_numpy())
    return rows.assign(share=share).drop(columns="lost_nats")


def find_words(
    effects: pd.DataFrame, needs: pd.DataFrame, controls: pd.DataFrame, sources: pd.DataFrame,
    rule: Mapping[str, float], confidence: float = 0.95,
) -> pd.DataFrame:  # fmt: skip
    """Return the words that the rules give each cell; `is_flagged` where a control moved, and then none.

    needs     the need from the start on lies above zero, Holm p < .05
    ignores   with the evidence hidden from the start on, more than `rewritten_share` of the texts change, and the
              interval of the accuracy lost lies within +-`equivalence_margin`
    re-reads  restated words turn more by the picture alone than by the own text alone; copies: less
    """
    lost = difference_table(effects, [("evidence", "baseline")], confidence=confidence, min_items=1)
    hidden = effects[(effects["condition"] == "evidence") & (effects["start_share"] == 0)]
    rewritten = 1 - hidden.groupby(CELL)["same_text"].mean()
    at_start = (table[np.isclose(table["start_share"], 0)].set_index(CELL) for table in (needs, lost))
    need, effect = at_start
    region = controls[(controls["condition"] == "control") & np.isclose(controls["start_share"], 0)].set_index(CELL)
    origin = sources[sources["word"] == "all"].set_index(CELL) if len(sources) else pd.DataFrame()
    rows = []
    for cell in need.index:
        own, total, margin = need.loc[cell], effect.loc[cell], rule["equivalence_margin"]
        is_none = -margin < total["ci_low"] and total["ci_high"] < margin
        words = {
            "needs": own["ci_low"] > 0 and own["p_holm"] < 0.05,
            "ignores": is_none and rewritten[cell] > rule["rewritten_share"],
        }
        source = origin.loc[cell] if cell in origin.index and "ci_low" in origin else None
        turns = {"re-reads": source["ci_low"] > 0, "copies": source["ci_high"] < 0} if source is not None else {}
        is_flagged = bool(region.loc[cell, "is_flagged"])
        names = {"model": cell[0], "benchmark": cell[1], "is_flagged": is_flagged, "rewritten": float(rewritten[cell])}
        for column, found in (("need", words), ("recall", turns)):
            names[column] = next((word for word, holds in found.items() if holds and not is_flagged), "undecided")
        rows.append(names)
    return pd.DataFrame(rows)
