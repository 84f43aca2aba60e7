"""The viewer's data: items by rule, values as measured, and files that are harmless wherever they end up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_extraction import HERE, MODEL, PROFILE
from small_monitor import build_monitor

from dontblink import params, paths, schema
from dontblink.attention.traces import Trace
from dontblink.extraction import examples
from dontblink.extraction.study import Study, iterate_traces
from dontblink.extraction.tables import read_bins
from dontblink.models.generate import item_generator
from dontblink.publish import viewer
from dontblink.questions.items import Drawing, Item, Recall, open_image
from dontblink.studies import collapse
from dontblink.studies.need import read_signals
from dontblink_testbed.recalls import find_recalls

HOSTILE = "</script><img src=x onerror=\"hacked=1\">&'"
QUANTILES = [0.2, 0.8]


@pytest.fixture(scope="module")
def folder(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", small_root)
        viewer.write_viewer(PROFILE, site, QUANTILES)
        yield site


def read(file: Path) -> Any:
    text = file.read_text()
    assert text.startswith("dontblink.") and text.endswith(");\n")
    return json.loads(text[text.index("(") + 1 : -3])


@pytest.fixture(scope="module")
def chosen(folder: Path) -> pd.DataFrame:
    return viewer.choose_items(PROFILE, QUANTILES)


def test_items_are_those_nearest_to_the_quantiles_of_their_answers(chosen: pd.DataFrame) -> None:
    items = schema.read_tables(PROFILE, ["items"], split="test")["items"]
    pairs = collapse.pair_bins(collapse.add_fraction(read_bins(PROFILE, 10, split="test"), items))
    for benchmark in ("visual_reference", "hallucination"):
        for correct in (True, False):
            rows = chosen[(chosen["benchmark"] == benchmark) & (chosen["correct"] == correct)]
            expected = examples.pick_by_collapse(pairs, items, MODEL, benchmark, QUANTILES, correct)
            assert list(rows["item_id"]) == list(dict.fromkeys(expected))
    assert {True, False} == set(chosen["correct"])
    assert not chosen.duplicated(["model", "item_id"]).any()


def test_a_cell_without_a_wrong_answer_gives_none(chosen: pd.DataFrame) -> None:
    items = schema.read_tables(PROFILE, ["items"], split="test")["items"].assign(correct=True)
    pairs = collapse.pair_bins(collapse.add_fraction(read_bins(PROFILE, 10, split="test"), items))
    assert examples.pick_by_collapse(pairs, items, MODEL, "hallucination", [0.5], False) == []


def test_the_index_lists_the_items_in_order_with_their_files(folder: Path, chosen: pd.DataFrame) -> None:
    index = read(folder / "data" / "index.js")
    assert [entry["id"] for entry in index["items"]] == list(chosen["item_id"])
    assert len(index["colours"]) == 256 and index["colours"][0] == "#00224e"
    for entry in index["items"]:
        shown = read(folder / entry["file"])
        assert {key: shown[key] for key in ("id", "model", "benchmark", "correct", "collapse")} == {
            key: entry[key] for key in ("id", "model", "benchmark", "correct", "collapse")
        }


def test_values_are_those_of_the_tables_and_traces(folder: Path) -> None:
    tables = schema.read_tables(PROFILE, ["items", "tokens", "token_masses"], split="test")
    (layer,) = examples.read_grounding(PROFILE, MODEL).layers
    for entry in read(folder / "data" / "index.js")["items"]:
        shown = read(folder / entry["file"])
        own = {name: table[table["item_id"] == entry["id"]] for name, table in tables.items()}
        masses = own["token_masses"][own["token_masses"]["head_set"] == "grounding_layers"]
        masses = masses.assign(other_image_mass=masses["visual_mass"] - masses["evidence_mass"])
        for region, values in shown["masses"].items():
            np.testing.assert_allclose(values, masses[f"{region}_mass"], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(shown["entropy_nats"], own["tokens"]["entropy_nats"], rtol=1e-3, atol=1e-7)
        assert shown["tokens"] == list(own["tokens"]["token_text"])
        assert shown["prediction"] == own["items"]["prediction"].item()
        trace = next(t for t in iterate_traces(PROFILE, MODEL, entry["benchmark"]) if t.item_id == entry["id"])
        assert shown["layers"] == [layer]
        for step, step_map in zip(shown["steps"], trace.step_map[:, examples.GROUNDING_LAYERS], strict=True):
            np.testing.assert_allclose(step["map"], step_map, rtol=1e-3)


def test_pictures_are_written_once_and_boxes_lie_inside_them(folder: Path) -> None:
    used = set()
    for entry in read(folder / "data" / "index.js")["items"]:
        (image,) = read(folder / entry["file"])["images"]
        used.add(image["file"])
        with Image.open(folder / image["file"]) as opened:
            assert opened.size == (image["width"], image["height"]) == (96, 96)
        assert image["boxes"] and (image["rows"], image["columns"]) == (6, 6)
        for box in image["boxes"]:
            x0, y0, x1, y1 = box["corners"]
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            cell = "abcdef"[round(x0 * 6)] + str(round(y0 * 6) + 1)
            assert box["label"] == cell
    assert {f"pictures/{file.name}" for file in (folder / "pictures").iterdir()} == used


def test_a_picture_is_that_of_its_place_in_the_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question may name its second picture first; the viewer lists them as the model was shown them."""
    images = tuple(Drawing(partial(np.full, (4, 4, 3), grey, np.uint8), (4, 4)) for grey in (0, 255))
    item = Item("two", "b", "test", images, "<image 2> <image 1>", "a", "other")
    shown = {"id": "two", "model": "m", "benchmark": "b", "correct": True, "collapse": 0.5}
    monkeypatch.setattr(viewer, "choose_items", lambda *_: None)
    monkeypatch.setattr(
        viewer, "describe_items", lambda *_: [(item, shown | {"images": [{"place": 1}, {"place": 0}]}, None)]
    )
    viewer.write_viewer(PROFILE, tmp_path, QUANTILES)
    files = [image["file"] for image in read(tmp_path / "data" / "0000.js")["images"]]
    assert [np.asarray(Image.open(tmp_path / file)).max() for file in files] == [255, 0]


def test_a_script_holds_no_letter_that_ends_it() -> None:
    text = viewer.to_script("show", {"question": HOSTILE + "\u2028\u00e9"})
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text[text.index("(") + 1 : -3]) == {"question": HOSTILE + "\u2028\u00e9"}


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        viewer.to_script("show", {"mass": float("nan")})


def test_numbers_keep_four_digits_in_their_shape() -> None:
    assert viewer.round_values([[0.123456, 1.0], [2e-9, 12345.6]]) == [[0.1235, 1.0], [2e-09, 12350.0]]
    assert viewer.round_values(0.98765) == 0.9877
    assert viewer.round_values(np.zeros((0, 3))) == []


# -- the same item with one word altered ----------------------------------------------------------------------------


def find_restated(wanted: bool) -> Iterator[tuple[Item, Trace, list[Recall]]]:
    """Yield the responses that are shown anyway, or those that are not, with the words that they restate."""
    _, sections = params.load(HERE / "params" / "testbed.yaml")
    (paths.results(PROFILE) / "params" / "interventions.json").write_text(json.dumps(sections["interventions"]))
    seed, chosen = sections["interventions"]["seed"], set(viewer.choose_items(PROFILE, QUANTILES)["item_id"])
    for (benchmark, split), items in Study(PROFILE).items.items():
        if split == "test":
            traces = {trace.item_id: trace for trace in iterate_traces(PROFILE, MODEL, benchmark)}
            for item in items:
                trace, rng = traces[item.id], item_generator(seed, item.id)
                recalls = find_recalls(item, trace.token_texts[: trace.spans.reasoning[1]], rng)[0]
                if recalls and (item.id in chosen) == wanted:
                    yield item, trace, recalls


def write_swaps(*restated: tuple[Item, Sequence[str], Recall]) -> None:
    """Write swaps in which token t loses t / 8 nats and the restated word turns into the altered one."""
    rows = [
        {"model": MODEL, "benchmark": item.benchmark, "split": "test", "item_id": item.id, "token_index": t,
         "token_text": text, "altered_text": recall.altered_word if t == recall.recall_token else text,
         "log_probability_nats": -0.25, "altered_log_probability_nats": -0.25 - t / 8, "word": recall.kind,
         "own_word": recall.own_word, "altered_word": recall.altered_word}
        for item, texts, recall in restated for t, text in enumerate(texts)
    ]  # fmt: skip
    columns = pd.DataFrame(rows[::-1], columns=list(schema.CAUSAL["swaps"]))  # the order of rows says nothing
    paths.causal(PROFILE).mkdir(parents=True, exist_ok=True)
    schema.write_table("swaps", schema.to_table("swaps", columns), paths.causal(PROFILE) / "swaps.parquet")


def read_shown(site: Path) -> dict[str, Any]:
    """Write the viewer and return what it shows of each item."""
    viewer.write_viewer(PROFILE, site, QUANTILES)
    return {entry["id"]: read(site / entry["file"]) for entry in read(site / "data" / "index.js")["items"]}


def test_a_swap_is_shown_word_by_word_beside_both_pictures(small_copy: Path, tmp_path: Path) -> None:
    (item, trace, recalls), (known, known_trace, known_recalls) = next(find_restated(False)), next(find_restated(True))
    recall = recalls[-1]
    write_swaps((item, trace.token_texts, recall), (known, known_trace.token_texts, known_recalls[0]))
    shown = read_shown(tmp_path)
    assert {name for name, own in shown.items() if "swap" in own} == {item.id, known.id}
    assert shown[item.id]["quantile"] is None and shown[known.id]["quantile"] in QUANTILES
    benchmarks = [own["benchmark"] for own in shown.values()]
    assert benchmarks == sorted(benchmarks, key=benchmarks.index), "cells stay together"

    swap = shown[item.id]["swap"]
    assert (swap["kind"], swap["own_word"], swap["altered_word"]) == (
        recall.kind, recall.own_word, recall.altered_word,
    )  # fmt: skip
    assert [token["text"] for token in swap["tokens"]] == list(trace.token_texts)
    np.testing.assert_allclose([t["lost_nats"] for t in swap["tokens"]], np.arange(len(swap["tokens"])) / 8, rtol=1e-3)
    changed = {t: token["other"] for t, token in enumerate(swap["tokens"]) if token["other"] is not None}
    assert changed == {recall.recall_token: recall.altered_word}
    own, altered = (
        np.asarray(Image.open(tmp_path / file)) for file in (shown[item.id]["images"][0]["file"], swap["file"])
    )
    np.testing.assert_array_equal(altered, np.asarray(open_image(recall.item.images[0])))
    rows, columns = np.nonzero((own != altered).any(-1))
    x0, y0, x1, y1 = (96 * corner for corner in swap["corners"])
    assert x0 <= columns.min() <= columns.max() < x1 and y0 <= rows.min() <= rows.max() < y1


def test_the_risk_is_what_the_monitor_says_of_the_tables(small_copy: Path, tmp_path: Path) -> None:
    monitor = build_monitor()
    assert not any("monitor" in own for own in read_shown(tmp_path / "without").values())
    monitor.save(paths.outputs(PROFILE) / "07_monitor_fitted.json")
    signals = read_signals(PROFILE)
    for name, shown in read_shown(tmp_path / "with").items():
        own = signals[signals["item_id"] == name].sort_values("token_index")
        told = monitor.follow(own["entropy_nats"], own["visual_mass"])
        risks = [np.nan if risk is None else risk for risk in shown["monitor"]["risks"]]
        np.testing.assert_allclose(risks, told["risk"], rtol=2e-3)
        assert shown["monitor"]["is_blind"] == told["is_blind"].tolist() and np.isnan(risks).sum() == 1


def test_without_a_causal_study_no_swap_is_shown(small_copy: Path, tmp_path: Path, chosen: pd.DataFrame) -> None:
    write_swaps()
    empty = read_shown(tmp_path / "empty")
    (paths.causal(PROFILE) / "swaps.parquet").unlink()
    absent = read_shown(tmp_path / "absent")
    assert list(empty) == list(absent) == list(chosen["item_id"])
    assert not any("swap" in own for own in (*empty.values(), *absent.values()))


def test_a_swap_of_another_response_is_not_shown(small_copy: Path, tmp_path: Path) -> None:
    item, trace, recalls = next(find_restated(True))
    write_swaps((item, [*trace.token_texts[:-1], "other"], recalls[0]))
    assert "swap" not in read_shown(tmp_path / "text")[item.id]
    write_swaps((item, trace.token_texts, replace(recalls[0], altered_word="unknown")))
    assert "swap" not in read_shown(tmp_path / "word")[item.id]
