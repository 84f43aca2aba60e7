"""A study of real questions goes from the official file to notebook 01, with stand-ins of both real families.

The models have random weights: what is tested is that every stage passes on what the next one needs, that nothing is
lost, and that a second run changes nothing. No number of these models means anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dontblink import paths, schema, store
from dontblink.boxes.annotations import describe_image, read_annotations, write_annotations
from dontblink.questions import mmmu_pro
from dontblink.questions.items import Box
from dontblink.questions.sources import Source
from dontblink_testbed.stand_in import build_stand_in

ROOT = paths.ROOT
MINI = ROOT.parent / "shared" / "fixtures" / "mmmu_pro" / "mini" / "items.jsonl"
MODELS = {"Qwen3-VL-2B-Thinking": "Qwen3-VL-2B", "GLM-4.6V-Flash": "GLM-4.6V-Flash"}
OVERRIDES = (
    f"extraction.models=[{','.join(MODELS)}] extraction.benchmarks=[mmmu_pro] extraction.max_new_tokens=24 "
    "extraction.batch_size=4 extraction.device=cpu extraction.dtype=float32 extraction.max_image_tokens=48 "
    "extraction.grounding_layers=1 extraction.grounding_heads=1 extraction.shard_items=8 extraction.temperature=1.0 "
    "extraction.n_sampled_items=10 extraction.samples_per_item=2 "
    f"questions.mmmu_pro_source={MINI} questions.n_test_items=14 questions.n_calibration_items=7"
)
pytestmark = pytest.mark.slow  # processes that load models


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the copied package in its checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root / "lib"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )


def annotate(file: Path) -> None:
    """Accept the middle of every picture as the evidence of every item but two: one proposed only, one left out."""
    rows = mmmu_pro.load_rows(Source(str(MINI)))
    items = [mmmu_pro.build_item(row) for row in rows]
    found = []
    for number, item in enumerate(items[:-1]):
        for image in range(len(item.images)):
            facts = describe_image(item, image)
            width, height = facts.size
            box = Box(image, width * 0.25, height * 0.25, width * 0.75, height * 0.75, "middle")
            found.append(facts.annotate([box], "test", "accepted" if number else "proposed", "drawn"))
    write_annotations(file, found)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract the 21 items in a checkout of its own."""
    if not MINI.exists():
        pytest.skip("real items are not part of the repository: ../shared/fixtures/mmmu_pro/mini")
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "lib", root / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    for model, kind in MODELS.items():
        build_stand_in(kind, root / "models" / "paper" / model, seed=1)  # type: ignore[arg-type]
    annotate(root / "data" / "evidence" / "mmmu_pro.jsonl")
    params = run(root, "dontblink.lineage", "--profile", "paper", "--set", OVERRIDES)
    assert params.returncode == 0, params.stderr
    done = run(root, "dontblink.extraction", "--profile", "paper", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    (root / "first.log").write_text(done.stdout)
    return root


@pytest.fixture
def tables(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    monkeypatch.setattr(paths, "ROOT", checkout)
    return schema.read_tables("paper", ["items", "scores", "samples", "quarantine"])


def test_every_item_is_in_the_tables_or_in_the_quarantine_with_its_reason(tables: dict[str, pd.DataFrame]) -> None:
    items, quarantine = tables["items"], tables["quarantine"]
    for model in MODELS:
        measured = set(items.loc[items["model"] == model, "item_id"])
        assert len(measured) == 21 and not (quarantine["model"] == model).any()
    assert items["split"].value_counts().to_dict().keys() == {"test", "calibration"}


def test_the_first_test_items_are_sampled_boxes_or_not(tables: dict[str, pd.DataFrame]) -> None:
    samples = tables["samples"].astype({"model": str, "item_id": str})
    assert samples.groupby(["model", "item_id"]).size().to_dict().keys() >= {(m, "mmmu_pro-1") for m in MODELS}
    assert len(samples) == 2 * 10 * 2 and set(samples["sample_index"]) == {0, 1}
    # cut at 24 tokens before the reasoning ended: the strict scorer takes no guess
    assert not samples["parsed"].any() and set(samples["finish_reason"].astype(str)) <= {"stop", "length", "empty"}


def test_the_evidence_is_a_quarter_of_the_picture(tables: dict[str, pd.DataFrame]) -> None:
    boxed = tables["items"][tables["items"]["evidence_missing"] == ""]
    assert len(boxed) == 38 and boxed["evidence_fraction"].between(0.2499, 0.2501).all()


def test_an_item_without_boxes_is_measured_but_for_its_evidence(
    tables: dict[str, pd.DataFrame], checkout: Path
) -> None:
    items = tables["items"].astype({"item_id": str, "evidence_missing": str})
    lacking = items[items["evidence_missing"] != ""]
    reasons = lacking.drop_duplicates("item_id").set_index("item_id")["evidence_missing"]
    assert "proposed" in reasons["mmmu_pro-1"] and "annotat" in reasons["mmmu_pro-21"] and len(lacking) == 4
    assert lacking[["evidence_fraction", "evidence_tokens", "vision_evidence_mass"]].isna().all(axis=None)
    assert lacking["full_entropy_nats"].notna().all()
    masses = schema.read_tables("paper", ["tokens", "token_masses", "bins"])
    own = {name: table[table["item_id"].isin(reasons.index)] for name, table in masses.items()}
    assert own["tokens"]["uniform_evidence_share"].isna().all() and len(own["token_masses"])
    assert own["token_masses"][["evidence_mass", "control_box_mass"]].isna().all(axis=None)
    rest = own["token_masses"][["visual_mass", "prompt_mass", "earlier_response_mass", "sink_mass"]]
    assert np.allclose(rest.sum(axis=1), 1, atol=1e-5) and (own["token_masses"]["visual_mass"] > 0).all()
    assert own["bins"]["evidence_mass"].isna().all() and own["bins"]["visual_mass"].notna().all()
    grounding = schema.read_manifest("paper")["grounding"]
    heads = schema.read_tables("paper", ["heads"], split="calibration")["heads"].dropna(subset=["evidence_mass"])
    reasoned = set(heads["model"].astype(str))
    assert {model for model, found in grounding.items() if found["n_items"]} == reasoned
    for model in {*MODELS} - reasoned:  # a hybrid model that was cut before it opened a reasoning
        assert len(grounding[model]["layers"]) > 1 and grounding[model]["layer_lift"] == []


def test_a_cut_chain_is_kept_and_marked_and_has_no_strict_answer(tables: dict[str, pd.DataFrame]) -> None:
    items = tables["items"]
    reasons = set(items["finish_reason"].astype(str))
    assert reasons <= {"stop", "length", "empty"} and "length" in reasons
    scores = tables["scores"].astype({"scorer": str})
    assert scores.groupby("scorer").size().to_dict() == {"official": 42, "strict": 42}
    assert not scores.loc[scores["scorer"] == "strict", "parsed"].any()


def test_the_run_says_what_it_will_cost_and_which_items_lack_boxes(checkout: Path) -> None:
    said = (checkout / "first.log").read_text()
    assert "mmmu_pro: 21 items; 0 rows cannot be used; 2 items lack evidence boxes" in said
    for model in MODELS:
        line = next(text for text in said.splitlines() if text.startswith(f"estimate: {model}"))
        assert "21 items and 20 samples left, about 2500 tokens each" in line and " GB of traces" in line
    listed = pd.read_csv(checkout / "results" / "paper" / "questions" / "mmmu_pro.csv", keep_default_na=False)
    assert len(listed) == 21 and (listed["lacks"] != "").sum() == 2 and listed["n_boxes"].sum() == 23


def test_boxes_that_come_later_cost_a_replay_and_no_new_answer(checkout: Path, tmp_path: Path) -> None:
    root = tmp_path / "later"
    shutil.copytree(checkout, root, symlinks=True)
    file = root / "data" / "evidence" / "mmmu_pro.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["status"] = "accepted"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not read_annotations(file)[1]
    responses = {p.name for p in (root / "results" / "paper" / "responses").rglob("*.parquet")}
    done = run(root, "dontblink.extraction", "--profile", "paper", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert responses == {p.name for p in (root / "results" / "paper" / "responses").rglob("*.parquet")}
    quarantine = store.read_table(root / "results" / "paper" / "tables" / "quarantine.parquet")
    assert not quarantine.num_rows
    manifest = json.loads((root / "results" / "paper" / "extraction.json").read_text())
    assert "mmmu_pro" in manifest["benchmarks"]


def test_notebook_01_reads_the_study(checkout: Path) -> None:
    command = ("notebooks/01_extraction.py", "--params", "results/paper/params/extraction.json", "--profile", "paper")
    done = run(checkout, "dontblink.publish.notebook", *command)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((checkout / "results" / "paper" / "figures" / "01_extraction.json").read_text())
    cell = numbers["scorer_agreement"]["GLM-4.6V-Flash/mmmu_pro"]
    assert cell["n"] == cell["strict_unparsed"] == numbers["cells"]["GLM-4.6V-Flash/mmmu_pro"]["n_items"] > 0
    assert (checkout / "results" / "paper" / "figures" / "01_extraction.pdf").stat().st_size > 1000
