"""The claims ledger: what the paper reports, our estimate, and a verdict by a rule fixed beforehand.

Why it exists: "reproduced" must not be a matter of taste after the fact. In: paper/claims.yaml (statements, rules, as
data) and the recorded numbers of a profile. Out: one entry a claim with its conditions, its headline estimate and its
verdict; the README's block. Never: evaluate a text as code, round a number, or give a verdict where a number lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dontblink import params, paths
from dontblink.numbers import Numbers, NumbersError, Row, hash_file
from dontblink.verdicts import TEXTS, ClaimsError, check_claim, decide, judge_condition

ENDS = (("ci_low", "low"), ("ci_high", "high"))
STEM = "08_claims"
START, END = "<!-- claims: written by `python -m dontblink.claims --readme` -->", "<!-- /claims -->"

UNITS = {"percent": (100, 0, " %"), "points": (100, 2, " points"), "auroc": (1, 3, ""), "log_odds": (1, 3, "")}


def read_ledger(file: Path | None = None) -> dict[str, Any]:
    """Return paper/claims.yaml, checked: every key known, every condition one comparison, every rule its conditions."""
    file = file or paths.ROOT / "paper" / "claims.yaml"
    ledger: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, claim in ledger["claims"].items():
        try:
            check_claim(claim)
            if claim.get("unit", "percent") not in UNITS:
                raise ClaimsError(f"unit {claim['unit']!r}, expected one of {', '.join(UNITS)}; correct it")
        except ClaimsError as error:
            raise ClaimsError(f"{paths.show(file)}: {name}: {error}") from error
    return ledger


def find_rows(
    claim: Mapping[str, Any], numbers: Numbers, names: Mapping[str, str], profile: str
) -> dict[str, list[Row]]:
    """Return the rows of each series of a claim, with `<visual>` and the like taken from `names`.

    A series that only conditions of another profile read (`only_in`) is left out.
    """
    found = {}
    for series, path in claim["rows"].items():
        readers = [c.get("only_in", [profile]) for c in claim["conditions"].values() if c["rows"] == series]
        if readers and all(profile not in profiles for profiles in readers):
            continue
        for name, value in names.items():
            path = path.replace(f"<{name}>", value)
        found[series] = numbers.select(path)
    return found


def name_row(claim: Mapping[str, Any], series: str, row: Row) -> str:
    """Return what the stars of a row stand for, `a to b` for an ordered pair, or its series where it has none."""
    return (" to " if "*other" in claim["rows"][series] else " / ").join(row.stars) or series.replace("_", " ")


def take_headline(claim: Mapping[str, Any], rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """Return the estimate that the claim hangs on, its interval and counts, and the range over its series."""
    wanted = claim["headline"]
    ordered = sorted(rows[wanted["rows"]], key=lambda row: float(row.fields[wanted["value"]]))
    place = {"lowest": 0, "median": (len(ordered) - 1) // 2, "highest": -1}[wanted["pick"]]
    names = {"estimate": "value", "ci_low": "low", "ci_high": "high", "n": "n", "clusters": "clusters", "p": "p"}
    chosen = ordered[place]
    headline = {out: chosen.fields[wanted[key]] for out, key in names.items() if wanted.get(key) in chosen.fields}
    if "count" in rows:
        headline["n"] = rows["count"][0].fields
    span = {"lowest": ordered[0].fields[wanted["value"]], "highest": ordered[-1].fields[wanted["value"]]}
    return (
        headline
        | span
        | {"n_rows": len(ordered), "pick": wanted["pick"], "row": name_row(claim, wanted["rows"], chosen)}
    )


def list_shown(claim: Mapping[str, Any], rows: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Return the rows that the figure draws: name, estimate, interval."""
    wanted, shown = claim["headline"], []
    for series in claim["show"]:
        for row in rows[series]:
            numbers = {out: row.fields[wanted[key]] for out, key in (("estimate", "value"), *ENDS)}
            shown.append({"row": name_row(claim, series, row)} | numbers)
    return shown


def build_ledger(profile: str, file: Path | None = None) -> dict[str, Any]:
    """Return every claim with its rule, its judged conditions, its headline estimate and its verdict.

    Raises
    ------
    ClaimsError
        If the ledger is wrong, or a number that it names is not recorded.
    """
    ledger, numbers = read_ledger(file), Numbers(profile)
    _, sections = params.load(paths.params_file(profile))
    claims = {}
    for name, claim in ledger["claims"].items():
        entry = {key: claim[key] for key in TEXTS} | {"reported": claim.get("reported", {})}
        entry["tested"] = "not_testable" not in claim
        if not entry["tested"]:
            claims[name] = entry | {"verdict": "not testable", "reason": claim["not_testable"][profile]}
            continue
        try:
            rows = find_rows(claim, numbers, ledger["names"][profile], profile)
            active = {k: c for k, c in claim["conditions"].items() if profile in c.get("only_in", [profile])}
            judged = {k: judge_condition(c, rows) for k, c in active.items()}
            headline, shown = take_headline(claim, rows), list_shown(claim, rows)
        except (ClaimsError, NumbersError) as error:
            raise ClaimsError(f"{name}: {error}") from error
        stem, (section, key) = next(iter(claim["rows"].values())).split(".")[0], claim["seed"].split(".")
        claims[name] = entry | {
            "rule": {key: claim[key] for key in ("why", "conditions", "reproduced", "same_direction")},
            "conditions": judged,
            "headline": headline,
            "shown": shown,
            "unit": claim["unit"],
            "test": claim["test"],
            "source": stem,
            "data_hash": hash_file(numbers.file(stem)),
            "seed": sections[section][key],
            "verdict": decide(claim, judged),
        }
    return claims


def hash_inputs(profile: str) -> dict[str, str]:
    """Return the hash of every number file but the ledger's own: one changed digit anywhere changes one of them."""
    numbers = Numbers(profile)
    return {stem: hash_file(numbers.file(stem)) for stem in numbers.stems() if stem != STEM}


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


def render_block(recorded: Mapping[str, Any], profile: str) -> str:
    """Return the README's table of claims, markers included."""
    rows = [START, "", "| claim | reported | ours (decisive row, interval) | verdict |", "|---|---|---|---|"]
    for name, claim in recorded["claims"].items():
        where = f", {claim['headline']['row'].replace('_', ' ')}" if "headline" in claim else ""
        rows.append(
            f"| {name} {claim['title']} | {claim['reported_as']} | {show_estimate(claim)}{where} | {claim['verdict']} |"
        )
    about = "A verdict is about the small trained models here, not about those of the paper. " * (profile == "testbed")
    rows += [
        "",
        f"{about}Profile `{profile}`; rules in `paper/claims.yaml`; numbers `{hash_text(recorded)}`.",
        END,
    ]
    return "\n".join(rows)


def hash_text(recorded: Mapping[str, Any]) -> str:
    """Return one short hash over the ledger and the hashes of all other number files."""
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]


def replace_block(text: str, block: str) -> str:
    """Return a README with its claims block replaced; raise ClaimsError unless the markers stand there once."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ClaimsError(f"README.md: expected one {START} and, after it, one {END}; put them back")
    return text[: text.index(START)] + block + text[text.index(END) + len(END) :]


def main(arguments: list[str] | None = None) -> int:
    """Print the ledger's block, or write it into the README: `python -m dontblink.claims --readme`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.claims", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--readme", action="store_true", help="write the block into README.md if it changed")
    given = parser.parse_args(arguments)
    try:
        block = render_block(Numbers(given.profile).read(STEM), given.profile)
        if not given.readme:
            print(block)
            return 0
        file = paths.ROOT / "README.md"
        old = file.read_text(encoding="utf-8")
        new = replace_block(old, block)
    except (ClaimsError, NumbersError) as error:
        print(error, file=sys.stderr)
        return 1
    if new != old:
        with paths.whole_file(file) as temporary:
            temporary.write_text(new, encoding="utf-8")
    print(f"README.md: claims block {'written' if new != old else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
