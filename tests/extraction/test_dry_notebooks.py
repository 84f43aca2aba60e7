"""A dry study of every real benchmark goes from rows to notebooks 01 to 05, with boxes on all, some or no items.

The model is a small one of the testbed, which reasons and knows nothing of these questions: labels and lengths are
dealt by place. What is tested is that every stage and notebook runs and says what it leaves out; no number here means
anything.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from dry_rows import write_all
from matplotlib.figure import Figure

from dontblink import params, paths, schema
from dontblink.boxes.annotations import describe_image, write_annotations
from dontblink.extraction.run import Extraction
from dontblink.extraction.study import Study
from dontblink.publish import notebook
from dontblink.publish.claims import build_ledger, show_verdict
from dontblink.publish.numbers import Numbers
from dontblink.questions import registry
from dontblink.questions.items import Box

pytestmark = pytest.mark.slow
ROOT, PROFILE, MODEL, N = paths.ROOT, "boxed", "qwen3vl-tiny-s", 60
# one task type a benchmark: groups of a rule by task need their items, too
TYPES = {"mathvista": "symbolic", "hallusionbench": "other"}
RULES = ",".join(f"{name}.*:{TYPES.get(name, 'sustained_visual_reference')}" for name in registry.REAL)
SMALL = (
    f"extraction.models=[{MODEL}] extraction.benchmarks=[{','.join(registry.REAL)}] extraction.max_new_tokens=100 "
    "extraction.batch_size=16 extraction.device=cpu extraction.dtype=float32 extraction.max_image_tokens=64 "
    "extraction.image_budgets=[] extraction.grounding_layers=1 extraction.grounding_heads=1 extraction.shard_items=64 "
    "extraction.n_sampled_items=0 extraction.grounding_source=all extraction.n_cross_checked_items=1 "
    f"questions.n_test_items=44 questions.n_calibration_items=16 questions.task_types=[{RULES}]"
)
# the least that every notebook runs with; a parameters file would refuse some of it
TINY: dict[str, dict[str, Any]] = {
    "01_extraction": {},
    "02_collapse": {"bins": 4, "bootstrap_replicates": 40, "band_replicates": 20, "shuffled_deals": 20, "min_items": 10,
                    "picture_model": MODEL, "picture_benchmark": "gqa"},
    "03_entropy": {"bootstrap_replicates": 40, "transfer_replicates": 10, "refit_replicates": 3, "min_items": 10,
                   "min_class_items": 2, "shuffled_deals": 20, "excess_replicates": 3, "vision_deals": 1},
    "04_interaction": {"bootstrap_replicates": 40, "light_replicates": 20, "min_items": 10, "shuffled_deals": 10,
                       "specification_deals": 3},
    "05_veto": {"splits": 4, "jackknife_blocks": 6, "permutations": 4, "other_permutations": 2, "min_items": 30,
                "bootstrap_replicates": 20, "repair_items": 20, "guarantee_draws": 2},
    "06_causal": {}, "07_monitor": {},
}  # fmt: skip


def write_study(root: Path, boxes: str, patch: pytest.MonkeyPatch) -> None:
    """Write parameters, rows and a model; draw boxes where `boxes` is all, take every one away where it is none."""
    sections = params.load(ROOT / "params" / f"{PROFILE}.yaml")[1]
    params.override(sections, f"{write_all(root, N, patch, tiny=boxes == 'some')} {SMALL}")
    params.write_sections(sections, paths.results(PROFILE) / "params")
    (root / "models").mkdir(exist_ok=True)
    if not (root / "models" / "paper").exists():
        (root / "models" / "paper").symlink_to(ROOT / "models" / "testbed")
    if boxes == "none":
        settle = registry.settle_boxes
        patch.setattr(registry, "settle_boxes", lambda *given: replace(settle(*given), boxes=()))
    study = Study(PROFILE)
    for name, found in study.questions.items() if boxes == "all" else ():
        drawn = []
        for item in (item for split in found.items.values() for item in split if not item.boxes):
            for place in range(len(item.images)):
                facts = describe_image(item, place)
                box = Box(place, 0.0, 0.0, facts.size[0] * 0.9, facts.size[1] * 0.9, "most of it")
                drawn.append(facts.annotate([box], "ana", "accepted", "drawn"))
        write_annotations(study.evidence_file(name), drawn)


def deal_labels(read: Any, *given: Any, **options: Any) -> dict[str, pd.DataFrame]:
    """Read tables with label and length of every response dealt from its place: shape only, never a result."""
    tables = read(*given, **options)
    if "items" in tables and "correct" in tables["items"]:
        place = tables["items"].groupby(["model", "benchmark", "split"], observed=True).cumcount()
        tables["items"]["correct"] = place * 7 % 11 % 5 < 2
        if "n_response_tokens" in tables["items"]:  # the stand-in answers all questions of a benchmark alike
            tables["items"]["n_response_tokens"] = 20 + place * 13 % 37
    return tables


def run_notebook(stem: str) -> dict[str, Any]:
    """Execute the cells of a notebook in this process, those that the study cannot have left out; return its names."""
    source = notebook.read_source(ROOT / "notebooks" / f"{stem}.py")
    cell = notebook.find_parameters_cell(source, stem)
    declared = notebook.read_defaults(cell, stem)
    own = params.load(ROOT / "params" / f"{PROFILE}.yaml")[1][stem[3:]]
    given = declared | notebook.pick_parameters(declared, own, stem) | TINY[stem] | {"profile": PROFILE}
    notebook.leave_out(source, PROFILE, given)
    space: dict[str, Any] = {}
    for number, part in enumerate(source.cells):
        if part is cell:
            space |= given
        elif part.cell_type == "code":
            exec(compile(ast.parse(part.source), f"{stem}, cell {number}", "exec"), space)
    plt.close("all")
    return space


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all variants: what a response does not depend on is not generated again."""
    folder = tmp_path_factory.mktemp("dry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        (folder / "lib").symlink_to(ROOT / "lib")  # a shard's key holds the code that makes it
        yield folder


@pytest.mark.parametrize("boxes", ["all", "some", "none"])
def test_every_notebook_runs_whichever_items_have_boxes(
    boxes: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(root, boxes, monkeypatch)
    Extraction(PROFILE).run(1)
    tables = schema.read_tables(PROFILE, ["items", "quarantine"])
    items, quarantine = tables["items"], tables["quarantine"]
    assert set(items["benchmark"]) == set(registry.REAL)
    assert not quarantine["reason"].astype(str).str.contains("evidence box|annotat").any()
    has_boxes = items["evidence_missing"].astype(str) == ""
    assert has_boxes.all() if boxes == "all" else has_boxes.any() == (boxes == "some")
    # every figure is laid out, none is painted: that is half of the time
    layout = Figure.draw_without_rendering
    monkeypatch.setattr(Figure, "savefig", lambda own, *_, **how: layout(own) if how["format"] == "png" else None)
    monkeypatch.setattr(schema, "read_tables", partial(deal_labels, schema.read_tables))
    capsys.readouterr()
    said, spaces = {}, {}
    for stem in TINY:
        spaces[stem] = run_notebook(stem)
        said[stem] = capsys.readouterr().out
    numbers = {stem: json.loads((paths.outputs(PROFILE) / f"{stem}.json").read_text()) for stem in TINY}
    check(boxes, said, spaces, numbers)
    for place in ("paper", "params", "notebooks"):
        if not (root / place).exists():
            (root / place).symlink_to(ROOT / place)
    shutil.copytree(paths.outputs(PROFILE), paths.figures(PROFILE), dirs_exist_ok=True)
    claims = build_ledger(Numbers(PROFILE))
    verdicts = {name: show_verdict(claim) for name, claim in claims.items()}
    assert (verdicts["C1"] == "needs evidence boxes") == (boxes == "none")
    assert ("needs evidence boxes" in verdicts["C3"]) == (boxes != "all")
    assert verdicts["C2"].startswith("needs sampled answers")
    assert verdicts["C6"].startswith("needs answers forced along the reasoning")
    monkeypatch.syspath_prepend(str(ROOT / "paper"))
    assert import_module("build").find_gap(PROFILE).startswith("no text: 0" if boxes != "all" else "")


def check(boxes: str, said: dict[str, str], spaces: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Hold what the notebooks say and record against what the study has."""
    falls = numbers["02_collapse"]
    assert falls["judges_evidence"] == (boxes != "none") == ("C1 needs evidence boxes" not in said["02_collapse"])
    assert set(falls["image"]["grounding_layers"]["visual_over_uniform"][MODEL]) == set(registry.REAL)
    judged = set(falls["collapse"]["grounding_layers"]["evidence"][MODEL]) if boxes != "none" else set()
    if boxes == "all":
        assert judged == set(registry.REAL)
    if boxes == "some":
        assert judged >= {"treebench", "gqa", "refchartqa"} and not judged & {"mathvista", "mmmu_pro", "hallusionbench"}
        strata = pd.read_csv(paths.outputs(PROFILE) / "02_collapse_strata.csv").query("column == 'evidence'")
        assert set(strata["stratum"]) == {"below one token"} and set(strata["benchmark"]) <= {"vstar", "visual_cot"}
    for stem in ("03_entropy", "04_interaction", "05_veto"):
        visions = {"image", "cumulative image"} | ({"evidence", "cumulative evidence"} if boxes == "all" else set())
        assert set(spaces[stem]["visions"]) == visions and numbers[stem]["judges_evidence"] == (boxes == "all")
        assert ("set measures.items to boxed" in said[stem]) == (boxes != "all")
    assert ("evidence" in numbers["03_entropy"]["excess"]) == (boxes == "all")
    assert np.isfinite(numbers["05_veto"]["gain"]["entropy_length"]["image"]["pooled"]["all"]["all"]["gain"])
