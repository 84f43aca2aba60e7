"""The claims ledger: what the paper reports, our estimate, and a verdict by a rule that was fixed beforehand.

Why it exists: "reproduced" must not be a matter of taste after the fact, and some reported numbers can be checked
without any data: a percentage point at 90 % coverage is a whole number of answers divided by a whole number, a fall of
attention can be mere dilution, a handful of samples bounds nothing. In: paper/claims.yaml (statements, rules, as data)
and the recorded numbers of a profile. Out: one entry a claim with its conditions, its headline estimate and its
verdict; the README's block; tables about the report. Never: evaluate a text as code, round a number, or give a verdict
where a number lacks.
"""

from __future__ import annotations

import argparse
import math
import operator
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dontblink import params, paths
from dontblink.errors import NamedError, as_command
from dontblink.files import read_json, write_text
from dontblink.publish.numbers import Numbers, Row
from dontblink.questions import registry

if TYPE_CHECKING:
    import pandas as pd


# what a study may lack that some series are made of: the fact of their notebook that says so, and the words for it
NEEDS = {
    "boxes": ("judges_evidence", "needs evidence boxes"),
    "types": ("has_both_types", "needs enough items of both task types"),
    "samples": ("has_agreement", "needs sampled answers, of which enough went wrong"),
    "effects": ("judges_order", "needs answers forced along the reasoning, make causal"),
}
VERDICTS = ("reproduced", "same direction", "not reproduced", "not testable")
COMPARISONS = {"above": operator.gt, "below": operator.lt, "at_least": operator.ge, "at_most": operator.le}
SHARES = {"all": 1.0, "half": 0.5, "any": 0.0}
PICKS = ("lowest", "median", "highest")
TEXTS = (
    "title", "statement", "estimand", "null_hypothesis", "control", "margin", "reported_in", "reported_as",
    "first_edition",
)  # fmt: skip
EFFECT = {"value", "unit", "says"}  # of the smallest effect of interest
TESTED = ("rows", "show", "headline", "unit", "test", "seed", "why", "conditions", "reproduced", "same_direction")
DRAWN = {"estimate": "value", "ci_low": "low", "ci_high": "high"}
STEM = "08_claims"
SIMULATED = ("figures/simulation/00_rules.json", "figures/simulation/00_simulation.json")  # false positives, power
BAR = (0.05, 0.075)  # of a rule's false positives: the most that the lower and the upper end of their interval may be
OTHER_SEED = "figures/seeds/08_claims.json"  # after another training of the small model, see params/seeds.yaml
START, END = "<!-- claims: written by `python -m dontblink.publish.claims --readme` -->", "<!-- /claims -->"

POINTS = (100, 2, " points")
UNITS = {"percent": (100, 0, " %"), "auroc": (1, 3, "")}
UNITS |= dict.fromkeys(("points", "added_points", "accuracy_points"), POINTS)


def check_claim(claim: Mapping[str, Any]) -> None:
    """Raise NamedError unless a claim holds exactly what an evaluation needs."""
    tested = "not_testable" not in claim
    expected = {*TEXTS, "smallest_effect", *(TESTED if tested else ("not_testable",))}
    if wrong := (set(claim) - {"reported", "needs"}) ^ expected:
        raise NamedError(f"unknown or missing keys {', '.join(sorted(wrong))}; expected {', '.join(sorted(expected))}")
    if set(claim["smallest_effect"]) != EFFECT | ({"power"} if tested else set()):
        raise NamedError(f"smallest_effect: expected {', '.join(sorted(EFFECT))}, and power of a claim that is tested")
    if not tested:
        return
    if claim["unit"] not in UNITS:
        raise NamedError(f"unit {claim['unit']!r}, expected one of {', '.join(UNITS)}; correct it")
    if claim["headline"]["pick"] not in PICKS:
        raise NamedError(f"pick is one of {', '.join(PICKS)}; correct it")
    for need, series in claim.get("needs", {}).items():
        if need not in NEEDS or (set(series) - set(claim["rows"])):
            raise NamedError(f"needs {need}: expected {' or '.join(NEEDS)}, and some of {', '.join(claim['rows'])}")
    for name, condition in claim["conditions"].items():
        comparison = set(condition) & set(COMPARISONS)
        others = set(condition) - comparison - {"only_in"}
        if len(comparison) != 1 or others != {"says", "rows", "field", "in"} or condition["in"] not in SHARES:
            raise NamedError(f"condition {name}: expected says, rows, field, in (all, half, any) and one comparison")
        if condition["rows"] not in claim["rows"]:
            raise NamedError(
                f"condition {name}: rows {condition['rows']!r}, expected one of {', '.join(claim['rows'])}"
            )
    for rule in ("reproduced", "same_direction"):
        if not claim[rule] or (unknown := set(claim[rule]) - set(claim["conditions"])):
            raise NamedError(f"{rule}: {unknown if claim[rule] else 'no conditions'}; name conditions of the claim")


def judge_condition(condition: Mapping[str, Any], rows: Mapping[str, list[Row] | str]) -> dict[str, Any]:
    """Return how many rows meet a condition, of how many, how many are needed, and whether it holds.

    Of a series that the study cannot have no row meets it, and `lacks` says why.
    """
    chosen = rows[condition["rows"]]
    if isinstance(chosen, str):
        return {"n_met": 0, "n_rows": 0, "n_needed": 0, "holds": False, "lacks": chosen}
    (comparison,) = set(condition) & set(COMPARISONS)
    bound = condition[comparison]
    n_met = 0
    for row in chosen:
        limit = bound
        if isinstance(bound, Mapping):
            origin = rows[bound["rows"]] if "rows" in bound else [row]
            if len(origin) != 1:
                raise NamedError(f"bound {dict(bound)} names {len(origin)} rows; expected one")
            limit = origin[0].fields[bound["field"]]  # type: ignore[union-attr]  # never of a series that may lack
        value = row.fields.get(condition["field"])
        if value is None or not math.isfinite(value):
            raise NamedError(f"row {' / '.join(row.stars)} has no {condition['field']}; correct the condition")
        n_met += bool(COMPARISONS[comparison](value, limit))
    needed = max(1, math.ceil(SHARES[condition["in"]] * len(chosen)))
    return {"n_met": n_met, "n_rows": len(chosen), "n_needed": needed, "holds": n_met >= needed}


def decide(claim: Mapping[str, Any], judged: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the verdict: the strongest rule of which every condition (of this profile) holds."""
    for rule in ("reproduced", "same_direction"):
        asked = [judged[name]["holds"] for name in claim[rule] if name in judged]
        if asked and all(asked):  # a rule without a condition in this profile decides nothing
            return rule.replace("_", " ")
    return "not reproduced"


def read_ledger(file: Path | None = None) -> dict[str, Any]:
    """Return paper/claims.yaml, checked: every key known, every condition one comparison, every rule its conditions."""
    file = file or paths.ROOT / "paper" / "claims.yaml"
    ledger: dict[str, Any] = params.read_yaml(file)
    for name, claim in ledger["claims"].items():
        try:
            check_claim(claim)
        except NamedError as error:
            raise NamedError(f"{paths.show(file)}: {name}: {error}") from error
    return ledger


def find_rows(
    claim: Mapping[str, Any], numbers: Numbers, names: Mapping[str, str], profile: str
) -> dict[str, list[Row] | str]:
    """Return the rows of each series of a claim, with `<visual>` and the like taken from `names`.

    A series that only conditions of another profile read (`only_in`) is left out. One that the claim `needs` something
    for which its notebook says that the study does not have is the words for that: a key that is merely absent stops.
    """
    found: dict[str, list[Row] | str] = {}
    for series, path in claim["rows"].items():
        readers = [c.get("only_in", [profile]) for c in claim["conditions"].values() if c["rows"] == series]
        if readers and all(profile not in profiles for profiles in readers):
            continue
        for name, value in names.items():
            path = path.replace(f"<{name}>", value)
        facts = numbers.read(path.split(".")[0])
        needs = (NEEDS[need] for need, own in claim.get("needs", {}).items() if series in own)
        lacking = [words for flag, words in needs if not facts.get(flag, True)]
        found[series] = "; ".join(lacking) or numbers.select(path)
    return found


def name_row(claim: Mapping[str, Any], series: str, row: Row) -> str:
    """Return what the stars of a row stand for, `a to b` for an ordered pair, or its series where it has none."""
    return (" to " if "*other" in claim["rows"][series] else " / ").join(row.stars) or series.replace("_", " ")


def take_headline(claim: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return the estimate that the claim hangs on, its interval and counts, and the range over its series."""
    wanted = claim["headline"]
    ordered = sorted(rows[wanted["rows"]], key=lambda row: float(row.fields[wanted["value"]]))
    place = {"lowest": 0, "median": (len(ordered) - 1) // 2, "highest": -1}[wanted["pick"]]
    names = DRAWN | {key: key for key in ("n", "clusters", "p")}
    chosen = ordered[place]
    headline = {out: chosen.fields[wanted[key]] for out, key in names.items() if wanted.get(key) in chosen.fields}
    if "count" in rows:
        headline["n"] = rows["count"][0].fields
    span = {"lowest": ordered[0].fields[wanted["value"]], "highest": ordered[-1].fields[wanted["value"]]}
    row = name_row(claim, wanted["rows"], chosen)
    return headline | span | {"n_rows": len(ordered), "pick": wanted["pick"], "row": row}


def list_shown(claim: Mapping[str, Any], rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that the figure draws: name, estimate, interval."""
    names = {out: claim["headline"][key] for out, key in DRAWN.items()}
    return [
        {"row": name_row(claim, series, row)} | {out: row.fields[name] for out, name in names.items()}
        for series in claim["show"]
        for row in (rows[series] if isinstance(rows[series], list) else ())
    ]


def build_ledger(numbers: Numbers, file: Path | None = None) -> dict[str, Any]:
    """Return every claim with its rule, its judged conditions, its headline estimate and its verdict."""
    ledger, profile = read_ledger(file), numbers.profile
    _, sections = params.load(paths.params_file(profile))
    claims = {}
    for name, claim in ledger["claims"].items():
        entry = {key: claim[key] for key in (*TEXTS, "smallest_effect")} | {"reported": claim.get("reported", {})}
        entry["tested"] = "not_testable" not in claim
        if not entry["tested"]:
            claims[name] = entry | {"verdict": "not testable", "reason": claim["not_testable"]}
            continue
        try:
            rows = find_rows(claim, numbers, ledger["names"], profile)
            active = {k: c for k, c in claim["conditions"].items() if profile in c.get("only_in", [profile])}
            judged = {k: judge_condition(c, rows) for k, c in active.items()}
            asked = [judged[k] for rule in ("reproduced", "same_direction") for k in claim[rule] if k in judged]
            if lacks := "; ".join(dict.fromkeys(own["lacks"] for own in asked if "lacks" in own)):
                rule = {"rule": {"conditions": claim["conditions"]}, "conditions": judged}
                claims[name] = entry | rule | {"tested": False, "verdict": "not testable", "reason": lacks}
                continue
            headline, shown = take_headline(claim, rows), list_shown(claim, rows)
        except NamedError as error:
            raise NamedError(f"{name}: {error}") from error
        stem, (section, key) = next(iter(claim["rows"].values())).split(".")[0], claim["seed"].split(".")
        claims[name] = entry | {
            "rule": {key: claim[key] for key in ("why", "conditions", "reproduced", "same_direction")},
            "conditions": judged, "headline": headline, "shown": shown, "unit": claim["unit"], "test": claim["test"],
            "source": stem, "seed": sections[section][key], "verdict": decide(claim, judged),
            "simulated": find_simulated(name, claim, judged, count_items(claim, sections)),
        }  # fmt: skip
    return claims


def count_items(claim: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the test items of a benchmark that a profile asks for; of `make causal` where the claim is about it."""
    if "effects" in claim.get("needs", {}):
        return int(sections["interventions"]["n_items"])
    real = set(sections["extraction"]["benchmarks"]) <= set(registry.REAL)
    return int(sections["questions" if real else "testbed"]["n_test_items"])


def find_simulated(
    name: str, claim: Mapping[str, Any], judged: Mapping[str, Mapping[str, Any]], n_items: int
) -> dict[str, Any]:
    """Return what `make simulate` says of a claim's rule: false positives by rule, and the items that it needs.

    `false_positive` holds rate, low and high (exact 95 %) by rule, `holds_bar` whether all are as low as `BAR` asks;
    `n_at_80` the items of a benchmark at which the smallest effect of interest is found in 80 of 100 studies, `n_items`
    those that this profile has. It `is_underpowered` with fewer, unless nothing failed here but what was `taken_as_met`
    there, which more items would not change. Where the rule itself was tried on several nulls and its smallest effect,
    `nulls` holds its rates by null, `n_at_80_by_rule` what each word needs, `power` how often it is given with as many
    items as this profile has. What was not simulated is left out.
    """
    rules, simulation = (read_json(file, "run `make simulate`") if file.is_file() else {}
                         for file in (paths.ROOT / place for place in SIMULATED))  # fmt: skip
    found: dict[str, Any] = {"n_items": n_items}
    if rule := rules.get("rules", {}).get(name):
        found |= {"false_positive": rule, "holds_bar": all(map(holds_bar, rule.values()))}
    if nulls := rules.get("nulls", {}).get(name):
        found["nulls"] = nulls
    power = (simulation.get("power", {}) | rules.get("power", {})).get(claim["smallest_effect"]["power"], {})
    met = power.get("taken_as_met", [])
    is_found = bool(met) and all(judged[key]["holds"] for key in claim["same_direction"] if key not in met)
    if needed := power.get("n_at_80"):
        found |= {"n_at_80": needed, "is_underpowered": n_items < needed and not is_found}
    if "n_at_80_by_rule" in power:
        found |= {"n_at_80_by_rule": power["n_at_80_by_rule"]}
        found |= {"power": power["by_items"][str(n_items)]} if str(n_items) in power["by_items"] else {}
    return found


def holds_bar(rate: Mapping[str, float]) -> bool:
    """Return whether the interval of a rule's false positives is as low as `BAR` asks."""
    return rate["low"] <= BAR[0] and rate["high"] <= BAR[1]


def read_other_seed(profile: str) -> dict[str, Any]:
    """Return the ledger of the testbed with its small model trained again; nothing of another profile."""
    file = paths.ROOT / OTHER_SEED
    return dict(read_json(file, "take it back from git")) if profile == "testbed" and file.exists() else {}


def show_verdict(claim: Mapping[str, Any]) -> str:
    """Return a verdict; where too few items found nothing, what it takes; of a rule above its bar, how it errs."""
    if "simulated" in claim and "false_positive" in claim["simulated"]:
        rates, rule = claim["simulated"]["false_positive"], claim["verdict"].replace(" ", "_")
        if rule in rates and not holds_bar(rate := rates[rule]):
            return f"{claim['verdict']}, by a rule that fires on noise in {100 * rate['rate']:.1f} % of studies"
    if claim["verdict"] == "not reproduced" and "simulated" in claim and "n_at_80" in (own := claim["simulated"]):
        needed = f" underpowered ({own['n_items']:,} items, 80 % power at {own['n_at_80']:,.0f})"
        return f"not reproduced,{needed}" if own["is_underpowered"] else "not reproduced"
    return claim["reason"] if "conditions" in claim and "reason" in claim else str(claim["verdict"])


def show_value(value: float, unit: str) -> str:
    """Return a number in its unit, for tables: `57 %`, `-0.12 points`, `0.031`."""
    scale, decimals, suffix = UNITS[unit]
    text = f"{scale * value:.{decimals}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}") + suffix


def show_estimate(claim: Mapping[str, Any]) -> str:
    """Return a claim's headline with its interval, or a dash."""
    if "headline" not in claim:
        return "\N{EN DASH}"
    value, low, high = (show_value(claim["headline"][k], claim["unit"]) for k in ("estimate", "ci_low", "ci_high"))
    suffix = UNITS[claim["unit"]][2]
    low, high = (text.removesuffix(suffix) for text in (low, high))
    return f"{value} [{low}, {high}]"


def render_block(numbers: Numbers) -> str:
    """Return the README's table of claims, markers included; links lead to each headline's notebook and numbers."""
    recorded, profile = numbers.read(STEM), numbers.profile
    dash = "\N{EN DASH}"
    rows = [START, "", "| claim | notebook | reported | ours (decisive row, interval) | verdict |", "|---" * 5 + "|"]
    for name, claim in recorded["claims"].items():
        notebook = ours = dash
        if "headline" in claim:
            notebook = link_notebook(claim["source"])
            where = claim["headline"]["row"].replace("_", " ")
            ours = f"[{show_estimate(claim)}](figures/{profile}/{claim['source']}.json), {where}"
        cells = (f"{name} {claim['title']}", notebook, claim["reported_as"], ours, show_verdict(claim))
        rows.append(f"| {' | '.join(cells)} |")
    about = "A verdict is about the small trained models here, not about those of the paper. " * (profile == "testbed")
    where = f"numbers [`{numbers.hash_files()}`](figures/{profile}/{STEM}.json) by {link_notebook(STEM)}"
    rows += ["", f"{about}Profile `{profile}`; rules in `paper/claims.yaml`; {where}."]
    rows += [*describe_causes(numbers), *describe_monitor(numbers), END]
    return "\n".join(rows)


def describe_causes(numbers: Numbers) -> list[str]:
    """Return the README's sentence on which cells the rules of notebook 06 call what; nothing where it has none."""
    recorded = numbers.read("06_causal")
    if not recorded["has_effects"]:
        return []
    held: dict[str, list[str]] = {word: [] for word in recorded["n_words"]}
    for model, by_benchmark in recorded["words"].items():
        for benchmark, words in by_benchmark.items():
            for word in {words["need_word"], words["source_word"]} & held.keys():
                held[word].append(f"{model} / {benchmark.replace('_', ' ')}")
    parts = [f"*{word}*: {', '.join(cells) or 'none'}" for word, cells in held.items()]
    about = "needs the look at the evidence, reads and ignores it, restates by a new look or by copying its own text"
    no_word = f"{recorded['n_flagged']} of {recorded['n_cells']} cells have no word"
    why = "a control is not shown to stay within the margin there"
    by = link_notebook("06_causal")
    return ["", f"What is cause, by the rules of {by} ({about}): {'; '.join(parts)}. {no_word}: {why}."]


def describe_monitor(numbers: Numbers) -> list[str]:
    """Return the README's sentence on what notebook 07 found; nothing where it has no need that was measured."""
    recorded = numbers.read("07_monitor")
    if not recorded["has_monitor"]:
        return []

    def show(row: Mapping[str, Any], scale: float, decimals: int) -> str:
        values = (f"{scale * row[name]:.{decimals}f}" for name in ("estimate", "ci_low", "ci_high"))
        return "{} [{}, {}]".format(*values).replace("-", "\N{MINUS SIGN}")

    quality = recorded["quality"]["benchmark"]
    ranks = [f"{key.replace('_', ' ')} {show(row['all'], 1, 2)}" for key, row in quality.items() if key != "majority"]
    vetoes = {"predicted_benchmark_left_out": "it is predicted", "needed_oracle_": "it is known (an oracle)"}
    gains = [
        f"where {words}, {(row := recorded['gains'][name])['said']}: "
        f"{show(row | {'estimate': row['gain']}, 100, 2)} points" for name, words in vetoes.items()
    ]  # fmt: skip
    about = f"Which answers need the picture to the end ({link_notebook('07_monitor')}), ranked by a fit without their"
    return ["", f"{about} benchmark (AUROC): {'; '.join(ranks)}. A veto of blind answers by need: {'; '.join(gains)}."]


def link_notebook(stem: str) -> str:
    """Return a markdown link to a notebook."""
    return f"[`{stem}`](notebooks/{stem}.py)"


def replace_block(text: str, block: str) -> str:
    """Return a README with its claims block replaced; raise NamedError unless the markers stand there once."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise NamedError(f"README.md: expected one {START} and, after it, one {END}; put them back")
    return text[: text.index(START)] + block + text[text.index(END) + len(END) :]


def explain_points(points: float, decimals: int, coverage: float, n_low: int, n_high: int) -> pd.DataFrame:
    """Return every number of saved errors that a reported gain allows, with the item counts that fit it.

    With k = ceil(coverage x n) accepted answers, saving s errors cuts the risk by s / k. `points` is the reported gain
    in percentage points, rounded to `decimals`; item counts from `n_low` to `n_high` are tried. Columns: saved_errors,
    n_low, n_high (answered items), accepted_low, accepted_high, n_counts (how many n between them fit).
    """
    import pandas as pd

    from dontblink.studies.risk_coverage import count_accepted

    half = Fraction(1, 2 * 10**decimals)
    low, high = Fraction(str(points)) - half, Fraction(str(points)) + half
    fits: dict[int, list[int]] = {}
    for n in range(n_low, n_high + 1):
        k = count_accepted(n, coverage)
        for saved in range(math.floor(low * k / 100), math.ceil(high * k / 100) + 1):
            if low <= Fraction(100 * saved, k) < high:
                fits.setdefault(saved, []).append(n)
    return pd.DataFrame(
        {
            "saved_errors": saved,
            "n_low": min(counts),
            "n_high": max(counts),
            "accepted_low": count_accepted(min(counts), coverage),
            "accepted_high": count_accepted(max(counts), coverage),
            "n_counts": len(counts),
        }
        for saved, counts in sorted(fits.items())
    )


def explain_by_dilution(fall: float, bins: int) -> float:
    """Return the length of the reasoning, in prompts, at which a uniform look falls by `fall`; inf if it never does.

    A uniform look gives a fixed set of tokens the share 1 / context. Between the middles of the first and the last of
    K bins the context grows from P + T / 2K to P + (1 - 1 / 2K) T, with P prompt and T reasoning tokens:

        1 / (1 - fall) = (1 + (1 - 1/2K) T/P) / (1 + T/P / 2K)
    """
    growth, first = 1 / (1 - fall), 1 / (2 * bins)
    rest = (1 - first) - growth * first
    return (growth - 1) / rest if rest > 0 else math.inf


def bound_small_counts(counts: list[int], confidence: float) -> pd.DataFrame:
    """Return what n samples of which none is wrong, or half, say about an error rate (Clopper-Pearson)."""
    import pandas as pd
    from statsmodels.stats.proportion import proportion_confint

    rows = []
    for n in counts:
        _, none_high = proportion_confint(0, n, alpha=1 - confidence, method="beta")
        low, high = proportion_confint(n // 2, n, alpha=1 - confidence, method="beta")
        rows.append({"n": n, "none_high": float(none_high), "half_low": float(low), "half_high": float(high)})
    return pd.DataFrame(rows)


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Print the ledger's block, or write it into the README: `python -m dontblink.publish.claims --readme`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.claims", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--readme", action="store_true", help="write the block into README.md if it changed")
    given = parser.parse_args(arguments)
    block = render_block(Numbers(given.profile))
    if given.readme:
        file = paths.ROOT / "README.md"
        is_new = write_text(file, replace_block(file.read_text(encoding="utf-8"), block))
        block = f"README.md: claims block {'written' if is_new else 'unchanged'}"
    print(block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
