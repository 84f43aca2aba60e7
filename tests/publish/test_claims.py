"""The ledger: what the recorded numbers give, a verdict from its rule alone, and the arithmetic of reported numbers."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.publish import claims
from dontblink.publish.numbers import Numbers, Row
from dontblink.studies.risk_coverage import count_accepted

ROOT = paths.ROOT
LEDGER = claims.read_ledger()
RECORDED = Numbers("testbed").read(claims.STEM)


def test_the_six_claims_are_there_and_nothing_is_testable_without_its_numbers() -> None:
    assert list(LEDGER["claims"]) == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert all(claim["tested"] for claim in RECORDED["claims"].values())


def test_the_recorded_ledger_is_what_the_recorded_numbers_give() -> None:
    """One digit changed by hand, in any number file, and this or the next test fails."""
    assert RECORDED["claims"] == json.loads(json.dumps(claims.build_ledger(Numbers("testbed"))))


def test_the_readme_shows_the_recorded_ledger() -> None:
    text = (ROOT / "README.md").read_text()
    assert claims.replace_block(text, claims.render_block(Numbers("testbed"))) == text, "run `make all`"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the recorded numbers as a project of its own."""
    folder = tmp_path / "figures" / "testbed"
    folder.mkdir(parents=True)
    for file in (ROOT / "figures" / "testbed").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    simulated = [name for name in claims.SIMULATED if (ROOT / name).is_file()]
    for name in ("paper/claims.yaml", "params/testbed.yaml", "README.md", *simulated):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return folder


@pytest.mark.parametrize("stem", Numbers("testbed").stems())
def test_a_digit_changed_by_hand_is_noticed_in_every_number_file(project: Path, stem: str) -> None:
    file = project / f"{stem}.json"
    text = file.read_text()
    place = max(k for k, letter in enumerate(text) if letter.isdigit())
    file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    readme = (ROOT / "README.md").read_text()
    assert claims.replace_block(readme, claims.render_block(Numbers("testbed"))) != readme


def test_an_unknown_unit_is_refused_with_the_claims_name(project: Path) -> None:
    file = project.parents[1] / "paper" / "claims.yaml"
    file.write_text(file.read_text().replace("unit: points", "unit: miles"))
    with pytest.raises(NamedError, match=r"paper/claims.yaml: C5: unit 'miles', expected one of percent"):
        claims.read_ledger()


def test_a_lost_number_file_is_named(project: Path) -> None:
    (project / "05_veto.json").unlink()
    with pytest.raises(NamedError, match=r"C5: figures/testbed/05_veto.json: not there"):
        claims.build_ledger(Numbers("testbed"))


def test_the_command_writes_the_block_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project.parents[1] / "README.md"
    text = file.read_text().replace("| C5 targeted vision veto |", "| C5 something else |")
    file.write_text(text)
    assert claims.main(["--readme"]) == 0 and "written" in capsys.readouterr().out
    assert "C5 targeted vision veto" in file.read_text()
    assert claims.main(["--readme"]) == 0 and "unchanged" in capsys.readouterr().out
    file.write_text("no markers")
    assert claims.main(["--readme"]) == 1 and "put them back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.574, "percent", "57 %"),
        (-0.0003, "points", "−0.03 points"),
        (-0.0004, "auroc", "0.000"),
        (0.0586, "added_points", "5.86 points"),
    ],
)
def test_a_number_is_shown_in_its_unit_and_zero_has_no_sign(value: float, unit: str, text: str) -> None:
    assert claims.show_value(value, unit) == text


# -- rules ----------------------------------------------------------------------------------------------------------


def rows(n: int, **fields: float) -> list[dict[str, float]]:
    """Return n equal rows."""
    return [dict(fields) for _ in range(n)]


# numbers that reproduce each claim
GOOD: dict[str, dict[str, list[dict[str, float]]]] = {
    "C1": {
        "raw": rows(9, ci_low=0.6, ci_high=0.8), "beyond": rows(9, ci_low=0.2), "beyond_prompt": rows(9, ci_low=0.2),
        "recall": rows(9, ci_low=0.1, ci_high=0.2),
    },
    "C2": {
        "full": rows(3, ci_low=0.6), "over_answer": rows(3, ci_low=0.1), "over_largest": rows(3, ci_low=0.1),
        "over_length": rows(3, ci_low=0.1), "pooled": rows(1, ci_low=0.1), "pooled_length": rows(1, ci_low=0.1),
        "over_agreement": rows(1, ci_low=0.1),
    },
    "C3": {
        "excess": rows(6, excess_high=-0.01), "mean": rows(1, excess_high=-0.01),
        "linear": rows(6, refit_gain_high=0.01), "rescaled": rows(6, gain_high=0.1),
    },
    "C4": {
        "hazard": rows(1, ci_low=0.01), "over_length": rows(1, ci_low=0.01), "over_elsewhere": rows(1, ci_low=0.01),
        "coefficient": rows(1, ci_high=-0.01), "specifications": rows(1, p_median=0.01), "symbolic": rows(1, p=0.01),
        "box_free": rows(1, ci_low=-0.1), "box_free_over_length": rows(1, ci_low=-0.1),
    },
    "C5": {
        "target": rows(1, ci_low=0.002, p=0.01), "over_length": rows(1, ci_low=0.001),
        "over_elsewhere": rows(1, ci_low=0.001), "cells": rows(9, ci_low=-0.004, ci_high=0.021, p_max=0.01),
        "oracle": rows(1, ci_low=-0.1),
    },
    "C6": {"both": rows(9, joint_low=0.01, p_holm=0.01, format_mass_first=0.9, gain_low=0.01, fall_low=0.01)},
}  # fmt: skip
TWINS = {"beats_answer_pooled", "beats_length_pooled", "hurts_on_average"}  # they decide only where another has failed
# one value moved across a bound (in so many rows), and the verdict that is left
MOVED = [
    ("C1", "raw", "ci_low", 0.0, 1, "reproduced"),  # the raw fall is told, not judged, but for its size
    ("C1", "raw", "ci_high", 0.569, 1, "same direction"),
    ("C1", "raw", "ci_high", 0.57, 9, "reproduced"),
    ("C1", "raw", "ci_low", 0.911, 1, "same direction"),
    ("C1", "beyond", "ci_low", 0.0, 1, "not reproduced"),  # dilution alone, in one cell
    ("C1", "beyond_prompt", "ci_low", 0.0, 1, "not reproduced"),
    ("C1", "recall", "ci_low", -0.01, 1, "same direction"),
    ("C2", "full", "ci_low", 0.5, 1, "not reproduced"),
    ("C2", "over_answer", "ci_low", -0.01, 1, "same direction"),
    ("C2", "over_largest", "ci_low", 0.0, 1, "same direction"),
    ("C2", "over_length", "ci_low", 0.0, 1, "same direction"),
    ("C2", "over_agreement", "ci_low", 0.0, 1, "same direction"),
    ("C3", "excess", "excess_high", 0.01, 3, "reproduced"),
    ("C3", "excess", "excess_high", 0.01, 4, "same direction"),
    ("C3", "linear", "refit_gain_high", -0.01, 6, "reproduced"),  # what a useless feature loses as well
    ("C4", "hazard", "ci_low", 0.0, 1, "not reproduced"),
    ("C4", "over_length", "ci_low", 0.0, 1, "not reproduced"),
    ("C4", "over_elsewhere", "ci_low", 0.0, 1, "not reproduced"),
    ("C4", "specifications", "p_median", 0.05, 1, "not reproduced"),
    ("C4", "coefficient", "ci_high", 0.001, 1, "same direction"),
    ("C4", "symbolic", "p", 0.05, 1, "same direction"),
    ("C5", "target", "ci_low", 0.0, 1, "not reproduced"),
    ("C5", "target", "p", 0.05, 1, "not reproduced"),
    ("C5", "over_length", "ci_low", 0.0, 1, "not reproduced"),
    ("C5", "over_elsewhere", "ci_low", 0.0, 1, "not reproduced"),
    ("C5", "cells", "ci_high", 0.0189, 9, "same direction"),
    ("C5", "cells", "ci_high", 0.0, 8, "reproduced"),
    ("C5", "cells", "p_max", 0.05, 9, "same direction"),
    ("C5", "cells", "ci_low", -0.0051, 1, "same direction"),
    ("C6", "both", "joint_low", 0.0, 4, "reproduced"),
    ("C6", "both", "joint_low", 0.0, 5, "same direction"),
    ("C6", "both", "joint_low", 0.0, 9, "not reproduced"),  # a rise here and a fall there are nothing
    ("C6", "both", "format_mass_first", 0.49, 1, "not reproduced"),  # no answer was forced, in one cell
]


def judge(name: str, numbers: dict[str, list[dict[str, float]]], profile: str = "testbed") -> str:
    """Return the verdict of the shipped rule on made-up rows."""
    claim = LEDGER["claims"][name]
    found = {series: [Row((str(k),), fields) for k, fields in enumerate(part)] for series, part in numbers.items()}
    active = {k: c for k, c in claim["conditions"].items() if profile in c.get("only_in", [profile])}
    return claims.decide(claim, {key: claims.judge_condition(c, found) for key, c in active.items()})


@pytest.mark.parametrize("name", GOOD)
def test_made_up_numbers_that_meet_every_condition_reproduce_the_claim(name: str) -> None:
    assert judge(name, GOOD[name]) == "reproduced"


@pytest.mark.parametrize(("name", "series", "field", "value", "n", "verdict"), MOVED)
def test_a_number_across_its_bound_changes_the_verdict(
    name: str, series: str, field: str, value: float, n: int, verdict: str
) -> None:
    numbers = copy.deepcopy(GOOD[name])
    for row in numbers[series][:n]:
        row[field] = value
    assert judge(name, numbers) == verdict


def test_every_condition_of_every_rule_is_tried_on_its_far_side() -> None:
    tried = {(name, series, field) for name, series, field, *_ in MOVED}
    for name, claim in LEDGER["claims"].items():
        for key in {*claim.get("reproduced", []), *claim.get("same_direction", [])}:
            condition = claim["conditions"][key]
            twins = [(name, s, f) for n, s, f in tried if n == name and f == condition["field"]]
            assert any(s == condition["rows"] for _, s, _ in twins) or key in TWINS, f"{name}.{key}"


@pytest.mark.parametrize(
    ("name", "series", "profile", "verdict"),
    [
        # a lead over the answer span that vanishes when pooled
        ("C2", {"over_answer": [*rows(1, ci_low=-0.01), *rows(2, ci_low=0.1)], "pooled": rows(1, ci_low=-0.01)},
         "testbed", "not reproduced"),
        ("C2", {"over_length": rows(3, ci_low=-0.01), "pooled_length": rows(1, ci_low=-0.01)},
         "testbed", "not reproduced"),
        # two of six pairs, and a mean that may be zero
        ("C3", {"excess": [*rows(2, excess_high=-0.01), *rows(4, excess_high=0.1)], "mean": rows(1, excess_high=0.01)},
         "testbed", "not reproduced"),
        # the script is a condition of the testbed only
        ("C1", {"recall": []}, "paper", "reproduced"),
    ],
)  # fmt: skip
def test_several_numbers_moved_together_change_the_verdict(
    name: str, series: dict[str, list[dict[str, float]]], profile: str, verdict: str
) -> None:
    assert judge(name, GOOD[name] | series, profile) == verdict


def change_numbers(project: Path, stem: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the recorded numbers of a notebook in the copied project."""
    file = project / f"{stem}.json"
    numbers = json.loads(file.read_text())
    change(numbers)
    file.write_text(json.dumps(numbers))


def drop_evidence(numbers: dict[str, Any]) -> None:
    """Take out what a study without boxes does not record, and say so as its notebooks do."""
    numbers["judges_evidence"] = False
    for key in ("collapse", "recall", "shuffled_boxes"):
        numbers.pop(key, None)
    for key in ("excess", "hazard_contrast", "hazard_over_placebo", "equivalence"):
        if key in numbers:
            own = numbers[key].get("unadjusted", numbers[key])
            own.pop("evidence"), own.pop("cumulative_evidence", None)


def test_c6_reads_the_causal_study_and_says_where_nobody_ran_it(project: Path) -> None:
    file = project / "06_causal.json"
    file.write_text(json.dumps({"judges_order": False}))
    claim = claims.build_ledger(Numbers("testbed"))["C6"]
    assert claim["verdict"] == "not testable" and claims.show_verdict(claim) == claims.NEEDS["effects"][1]
    row = {"gain": 0.4, "gain_low": 0.3, "gain_high": 0.5, "fall_low": 0.2, "joint_low": 0.2, "p_holm": 0.01,
           "format_mass_first": 0.9, "n_items": 500}  # fmt: skip
    file.write_text(json.dumps({"judges_order": True, "c6": {"m": {"a": row, "b": row | {"gain": 0.2}}}}))
    claim = claims.build_ledger(Numbers("testbed"))["C6"]
    assert claim["verdict"] == "reproduced" and claim["seed"] == 606
    assert claims.show_estimate(claim) == "20.00 points [30.00, 50.00]" and claim["headline"]["row"] == "m / b"


def test_a_study_without_boxes_says_which_claims_need_them_and_judges_the_others(project: Path) -> None:
    before = claims.build_ledger(Numbers("testbed"))
    for stem in ("02_collapse", "03_entropy", "04_interaction", "05_veto"):
        change_numbers(project, stem, drop_evidence)
    after = claims.build_ledger(Numbers("testbed"))
    for name in ("C1", "C3", "C4"):
        claim = after[name]
        assert claim["verdict"] == "not testable" and claim["reason"] == "needs evidence boxes"
        assert claims.show_verdict(claim) == "needs evidence boxes" and "headline" not in claim
        assert claims.show_estimate(claim) == "\N{EN DASH}"
    for name in ("C2", "C5"):
        assert after[name]["verdict"] == before[name]["verdict"] and after[name]["headline"] == before[name]["headline"]
    assert after["C4"]["conditions"]["box_free"] == before["C4"]["conditions"]["box_free"]
    assert after["C5"]["conditions"]["oracle_gains"]["lacks"] == "needs evidence boxes"
    assert "evidence" not in {row["row"] for row in after["C5"]["shown"]}
    assert claims.show_verdict(after["C6"]) == claims.show_verdict(before["C6"])  # of effects, not of tables
    assert "needs evidence boxes" in claims.render_block(_recorded(project, after))


def _recorded(project: Path, ledger: dict[str, Any]) -> Numbers:
    change_numbers(project, claims.STEM, lambda numbers: numbers.update(claims=ledger))
    return Numbers("testbed")


def test_a_study_of_one_task_type_says_that_the_contrast_needs_both(project: Path) -> None:
    change_numbers(project, "04_interaction", lambda numbers: numbers.update(has_both_types=False))
    assert claims.show_verdict(claims.build_ledger(Numbers("testbed"))["C4"]) == "needs enough items of both task types"


def test_a_number_that_is_merely_absent_is_an_error_and_no_lack_of_boxes(project: Path) -> None:
    change_numbers(project, "02_collapse", lambda numbers: numbers["collapse"]["grounding_layers"].pop("evidence"))
    with pytest.raises(NamedError, match="C1: .* has no key 'evidence'"):
        claims.build_ledger(Numbers("testbed"))


def test_a_need_that_nobody_knows_is_refused() -> None:
    claim = copy.deepcopy(LEDGER["claims"]["C1"])
    for needs in ({"eyes": ["raw"]}, {"boxes": ["rows"]}):
        with pytest.raises(NamedError, match="needs (eyes|boxes): expected boxes or types or samples or effects, and"):
            claims.check_claim(claim | {"needs": needs})


def test_every_rule_holds_a_control() -> None:
    """No word is given by a condition on a raw quantity alone."""
    controls = {"beyond", "beats", "excess", "mean", "rare", "specifications"}
    for name, claim in LEDGER["claims"].items():
        for rule in ("reproduced", "same_direction") if "conditions" in claim else ():
            series = {claim["conditions"][key]["rows"] for key in claim[rule]} | {*claim[rule]}
            assert any(part in text for text in series for part in controls), f"{name}.{rule}"


@pytest.mark.parametrize(
    ("verdict", "needed", "shown"),
    [
        ("not reproduced", 2400, "not reproduced, underpowered (1,000 items, 80 % power at 2,400)"),
        ("not reproduced", 400, "not reproduced"),
        ("same direction", 2400, "same direction"),
    ],
)
def test_a_verdict_of_too_few_items_says_how_many_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, needed: int, shown: str
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    claim, judged = LEDGER["claims"]["C3"], {"hurts_on_average": {"holds": True}}
    assert claims.find_simulated("C3", claim, judged, 1000) == {"n_items": 1000}
    folder = tmp_path / "figures" / "simulation"
    folder.mkdir(parents=True)
    rate = {"rate": 0.01, "low": 0.0, "high": 0.03, "n_deals": 200}
    (folder / "00_rules.json").write_text(json.dumps({"rules": {"C3": {"reproduced": rate}}}))
    (folder / "00_simulation.json").write_text(json.dumps({"power": {"auroc": {"n_at_80": needed}}}))
    found = claims.find_simulated("C3", claim, judged, 1000)
    assert found["false_positive"] == {"reproduced": rate} and found["n_at_80"] == needed
    assert claims.show_verdict({"verdict": verdict, "simulated": found}) == shown


def simulate_c6(high: float = 0.06) -> dict[str, Any]:
    rates = {"reproduced": {"rate": 0.0, "low": 0.0, "high": 0.01}}
    rates["same_direction"] = {"rate": 0.04, "low": 0.02, "high": high}
    power = {"n_at_80": 400.0, "n_at_80_by_rule": {"same_direction": 400.0}, "taken_as_met": ["in_form"]}
    power["by_items"] = {"250": rates}
    nulls = {"C6": {"nothing": {"says": "neither moves"} | rates}}
    return {"rules": {"C6": rates}, "nulls": nulls, "power": {"accuracy": power}}


@pytest.mark.parametrize(
    ("is_found", "n_items", "is_underpowered"), [(True, 250, False), (False, 250, True), (False, 500, False)]
)
def test_a_verdict_that_only_hangs_on_what_items_do_not_change_is_not_underpowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_found: bool, n_items: int, is_underpowered: bool
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "figures" / "simulation").mkdir(parents=True)
    (tmp_path / claims.SIMULATED[0]).write_text(json.dumps(simulate_c6()))
    judged = {"both_beyond_deals": {"holds": is_found}, "in_form": {"holds": False}}
    found = claims.find_simulated("C6", LEDGER["claims"]["C6"], judged, n_items)
    assert found["is_underpowered"] is is_underpowered and found["n_at_80_by_rule"] == {"same_direction": 400.0}
    assert ("power" in found) == (n_items == 250)  # of as many items as were simulated


@pytest.mark.parametrize(("high", "holds"), [(0.075, True), (0.076, False)])
def test_the_bar_of_false_positives_is_that_of_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, high: float, holds: bool
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "figures" / "simulation").mkdir(parents=True)
    (tmp_path / claims.SIMULATED[0]).write_text(json.dumps(simulate_c6(high)))
    judged = {"both_beyond_deals": {"holds": True}, "in_form": {"holds": True}}
    found = claims.find_simulated("C6", LEDGER["claims"]["C6"], judged, 250)
    assert found["holds_bar"] is holds
    shown = {word: claims.show_verdict({"verdict": word, "simulated": found}) for word in claims.VERDICTS[:2]}
    warning = "" if holds else ", by a rule that fires on noise in 4.0 % of studies"
    assert shown == {"reproduced": "reproduced", "same direction": f"same direction{warning}"}


def test_the_items_of_c6_are_those_of_the_causal_study() -> None:
    sections = {"interventions": {"n_items": 250}, "extraction": {"benchmarks": ["symbolic"]},
                "testbed": {"n_test_items": 1000}}  # fmt: skip
    counted = {name: claims.count_items(claim, sections) for name, claim in LEDGER["claims"].items()}
    assert counted == {"C1": 1000, "C2": 1000, "C3": 1000, "C4": 1000, "C5": 1000, "C6": 250}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_number_is_no_verdict(value: Any) -> None:
    numbers = copy.deepcopy(GOOD["C1"])
    numbers["raw"][4]["ci_low"] = value
    with pytest.raises(NamedError, match="has no ci_low"):
        judge("C1", numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "reproduced"}, "unknown or missing keys verdict"),
        ({"reproduced": ["fals"]}, "reproduced: .*fals"),
        ({"reproduced": []}, "no conditions"),
        ({"smallest_effect": {"value": 0.1}}, "smallest_effect: expected"),
        ({"headline": {"pick": "best"}}, "pick is one of lowest, median, highest"),
        ({"conditions": {"falls": {"says": "", "rows": "raw", "field": "x", "in": "all"}}}, "one comparison"),
        ({"conditions": {"falls": {"says": "", "rows": "rw", "field": "x", "in": "all", "above": 0}}}, "rows 'rw'"),
        (
            {"conditions": {"falls": {"says": "", "rows": "raw", "field": "x", "in": "most", "above": 0}}},
            "in .all, half",
        ),
    ],
)
def test_a_wrong_ledger_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NamedError, match=message):
        claims.check_claim(LEDGER["claims"]["C1"] | change)


def test_a_rule_of_which_no_condition_belongs_to_the_profile_decides_nothing() -> None:
    claim = {"reproduced": ["elsewhere"], "same_direction": ["falls"]}
    assert claims.decide(claim, {"falls": {"holds": True}}) == "same direction"
    assert claims.decide(claim, {}) == "not reproduced"


# -- arithmetic of the report --------------------------------------------------------------------------------------


def test_a_gain_of_one_and_nine_tenths_points_is_five_answers_of_about_three_hundred() -> None:
    table = claims.explain_points(1.9, 1, 0.9, 280, 320)
    assert table["saved_errors"].tolist() == [5]
    assert (table["n_low"].item(), table["n_high"].item()) == (285, 300)


@pytest.mark.parametrize("points", [0.4, 1.9, 2.5])
def test_the_fits_are_exactly_those_that_round_to_the_report(points: float) -> None:
    table = claims.explain_points(points, 1, 0.9, 200, 400)
    expected: dict[int, list[int]] = {}
    for n in range(200, 401):
        k = count_accepted(n, 0.9)
        for saved in range(0, 40):
            if math.floor(1000 * saved / k + 0.5) == round(10 * points):
                expected.setdefault(saved, []).append(n)
    assert table["saved_errors"].tolist() == sorted(expected)
    assert table["n_counts"].tolist() == [len(expected[saved]) for saved in sorted(expected)]


def test_no_count_of_ten_items_gives_the_gain() -> None:
    assert claims.explain_points(1.9, 1, 0.9, 10, 10).empty


def test_a_uniform_look_over_a_reasoning_of_that_length_falls_by_that_much() -> None:
    bins, fall, prompt = 10, 0.57, 1000.0
    reasoning = prompt * claims.explain_by_dilution(fall, bins)
    middles = prompt + reasoning * (np.arange(bins) + 0.5) / bins
    assert 1 - middles[0] / middles[-1] == pytest.approx(fall)


def test_a_fall_beyond_what_the_bins_can_show_needs_an_endless_reasoning() -> None:
    assert claims.explain_by_dilution(0.96, 10) == math.inf


def test_eight_samples_without_an_error_leave_a_third_possible() -> None:
    table = claims.bound_small_counts([2, 8], 0.95).set_index("n")
    assert table.loc[8, "none_high"] == pytest.approx(1 - 0.025 ** (1 / 8))
    assert table.loc[2, "half_low"] < 0.05 and table.loc[2, "half_high"] > 0.95
