"""What the trace viewer shows: some items of every cell, chosen by rule, as files that a page loads from a disk.

Why it exists: whoever doubts a mean wants to see single responses, and a page opened from a file may load scripts but
read nothing else. In: the tables, shards and items of a finished extraction, and, where there are any, the `swaps` of
its causal study and the monitor of notebook 07. Out: one JavaScript file an item under data/, an index of them, and the
pictures as PNG files. Boxes are shares of the picture's width and height, maps and masses are means over the grounding
layers and their heads, a monitor's masses over all heads. Never: pick an item by eye, rescale a map, or write a text
that a page could take for markup (the page's own script shows texts as texts).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from dontblink import params, paths, schema, store
from dontblink.attention.traces import Trace
from dontblink.extraction import examples
from dontblink.extraction.examples import GROUNDING_LAYERS
from dontblink.extraction.study import Study, iterate_traces
from dontblink.extraction.tables import read_bins
from dontblink.figures.style import COLOUR_MAP
from dontblink.models.generate import item_generator
from dontblink.questions import registry
from dontblink.questions.items import Item, Picture, open_image
from dontblink.schema import HEAD_SETS, REGIONS, read_manifest, read_tables
from dontblink.studies import collapse
from dontblink.studies.risk import Monitor, load_monitor

LARGEST_SIDE = 1024  # px of a picture in the page; a larger one is scaled down
DIGITS = 4  # significant ones of a mass, an entropy or a map: more than a screen can show


def choose_items(profile: str, quantiles: Sequence[float]) -> pd.DataFrame:
    """Return the rows of the items table to show, with their `collapse` and its `quantile`.

    Per cell, and there among the correct and among the wrong answers, the items nearest to the quantiles of the
    per-item collapse (`examples.pick_by_collapse`); then those of `read_swaps`, whose quantile is NaN where they are
    not among the nearest. Cells come in the manifest's order.
    """
    items = read_tables(profile, ["items"], split="test")["items"]
    n_bins = params.read_section(profile, "collapse")["bins"]
    bins = read_bins(profile, n_bins, split="test", head_set="grounding_layers")
    pairs = collapse.pair_bins(collapse.add_fraction(bins, items))
    manifest = read_manifest(profile)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    choices = itertools.product(manifest["models"], manifest["benchmarks"], (True, False), quantiles)
    wanted = [
        (model, item_id, quantile)
        for model, benchmark, correct, quantile in choices
        for item_id in examples.pick_by_collapse(pairs, items, model, benchmark, [quantile], correct)
    ]
    known = pairs[pairs["head_set"] == "grounding_layers"].groupby(["model", "item_id"], observed=True).groups
    wanted += [(*key, np.nan) for key in read_swaps(profile) if key in known]
    for model, item_id, quantile in wanted:
        own = examples.item_collapse(pairs, model, item_id)
        found = items[(items["model"] == model) & (items["item_id"] == item_id)].iloc[0].to_dict()
        rows.setdefault((model, item_id), {**found, "collapse": own, "quantile": quantile})
    places = {cell: n for n, cell in enumerate(itertools.product(manifest["models"], manifest["benchmarks"]))}
    return pd.DataFrame(sorted(rows.values(), key=lambda row: places[row["model"], row["benchmark"]]))


def read_swaps(profile: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the tokens of the responses behind an altered picture, by model and item; {} without a causal study."""
    file = paths.causal(profile) / "swaps.parquet"
    if not file.is_file():
        return {}
    swaps = schema.check_table("swaps", store.read_table(file), file).to_pandas()
    swaps = swaps.astype({"model": str, "item_id": str}).sort_values("token_index")
    return dict(iter(swaps.groupby(["model", "item_id"], sort=False)))


def round_values(values: Any) -> Any:
    """Return an array as nested lists of `DIGITS` significant digits."""
    rounded = np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[float])
    array = np.asarray(values, dtype=float)
    return rounded(array).tolist() if array.size else array.tolist()


def read_monitor(profile: str) -> Monitor | None:
    """Return the monitor that notebook 07 fitted; None where it fitted none."""
    file = paths.outputs(profile) / "07_monitor_fitted.json"
    return load_monitor(file) if file.is_file() else None


def describe_risk(trace: Trace, monitor: Monitor) -> dict[str, Any]:
    """Return what a monitor says at each token, as it would while the response is written; risk is None at first."""
    visual = trace.mass[HEAD_SETS.index("all_layers"), :, :2].sum(axis=-1)
    told = monitor.follow(trace.entropy_nats, visual, trace.model if trace.model in monitor.models else None)
    risks = [None if np.isnan(risk) else round_values(risk) for risk in told["risk"]]
    return {"risks": risks, "is_blind": told["is_blind"].tolist(), "domain": monitor.describe_domain()}


def describe_response(item: Item, trace: Trace, row: dict[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """Return everything that the viewer shows of one response, except its pictures' files.

    Lengths: `tokens`, `entropy_nats` and each entry of `masses` T, `steps` S, each `map` M over all pictures.
    """
    masses = trace.mass[GROUNDING_LAYERS].astype(np.float64)
    maps = trace.step_map[:, GROUNDING_LAYERS].astype(np.float64)
    sizes = [open_image(source).size for source in item.images]
    boxes: list[list[dict[str, Any]]] = [[] for _ in sizes]
    for box in item.boxes:
        width, height = sizes[box.image]
        corners = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
        boxes[box.image].append({"corners": round_values(corners), "label": box.label})
    return {
        "id": item.id, "model": trace.model, "benchmark": item.benchmark, "question": item.question,
        "choices": [choice for choice in item.choices if choice not in item.question], "answer": item.answer,
        "prediction": str(row["prediction"]), "correct": bool(row["correct"]), "parsed": bool(row["parsed"]),
        "finish_reason": str(row["finish_reason"]), "collapse": round_values(row["collapse"]),
        "quantile": None if np.isnan(row["quantile"]) else row["quantile"], "layers": list(layers),
        "images": [
            dict(zip(("width", "height"), sizes[place], strict=True))
            | {"place": place, "rows": rows, "columns": columns, "boxes": boxes[place]}
            for place, (rows, columns) in zip(trace.image_order, trace.grids, strict=True)
        ],
        "coverage": round_values(trace.coverage),
        "steps": [
            {"text": text, "begin": begin, "end": end, "map": round_values(step_map)}
            for text, (begin, end), step_map in zip(trace.step_texts, trace.spans.steps, maps, strict=True)
        ],
        "tokens": list(trace.token_texts), "entropy_nats": round_values(trace.entropy_nats),
        "masses": dict(zip(REGIONS, round_values(masses.T), strict=False)),
        "answer_span": list(trace.spans.answer),
    }  # fmt: skip


def describe_swap(
    item: Item, trace: Trace, swap: pd.DataFrame, generator: registry.Generator, seed: int
) -> tuple[dict[str, Any], Picture] | None:
    """Return what the viewer shows of a swap, except its picture's file, and that picture, drawn again.

    None where response or altered word are not those that the causal study has seen (another run may write another).
    """
    texts, first = trace.token_texts, swap.iloc[0]
    if list(swap["token_text"]) != list(texts):
        return None
    recalls = generator.find_recalls(item, texts[: trace.spans.reasoning[1]], item_generator(seed, item.id))[0]
    wanted = first["word"], first["own_word"], first["altered_word"]
    recall = next((own for own in recalls if (own.kind, own.own_word, own.altered_word) == wanted), None)
    if recall is None:
        return None
    image, box = trace.image_order.index(recall.box.image), recall.box
    width, height = open_image(item.images[box.image]).size
    lost = swap["log_probability_nats"] - swap["altered_log_probability_nats"]
    return {
        "kind": recall.kind, "own_word": recall.own_word, "altered_word": recall.altered_word, "image": image,
        "corners": round_values((box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)),
        "tokens": [
            {"text": own, "lost_nats": nats, "other": other if other != own else None}
            for own, nats, other in zip(texts, round_values(lost), swap["altered_text"], strict=True)
        ],
    }, recall.item.images[box.image]  # fmt: skip


def describe_items(
    profile: str, chosen: pd.DataFrame
) -> Iterator[tuple[Item, dict[str, Any], tuple[dict[str, Any], Picture] | None]]:
    """Yield each chosen item, what the viewer shows of it, and its swap; one cell's traces are read at a time."""
    study, swaps, monitor = Study(profile), read_swaps(profile), read_monitor(profile)
    items = {item.id: item for (_, split), cell in study.items.items() if split == "test" for item in cell}
    generator = registry.load_generator(study.question_settings["generator"]) if swaps else None
    seed = params.read_section(profile, "interventions")["seed"] if swaps else 0
    for (model, benchmark), rows in chosen.groupby(["model", "benchmark"], sort=False, observed=True):
        layers = examples.read_grounding(profile, model).layers
        wanted = set(rows["item_id"])
        traces = {t.item_id: t for t in iterate_traces(profile, model, benchmark) if t.item_id in wanted}
        for row in rows.to_dict("records"):
            item, swap = items[row["item_id"]], swaps.get((model, row["item_id"]))
            trace, found = traces[item.id], None
            if swap is not None and generator is not None:
                found = describe_swap(item, trace, swap, generator, seed)
            shown = describe_response(item, trace, row, layers)
            yield item, shown | ({"monitor": describe_risk(trace, monitor)} if monitor else {}), found


def to_script(call: str, value: Any) -> str:
    """Return a JavaScript statement that hands a value to a function of the page.

    `<`, `>` and `&` are written as escapes, so that the text is harmless wherever it ends up.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f"dontblink.{call}({text});\n"


def write_viewer(profile: str, folder: Path, quantiles: Sequence[float]) -> int:
    """Write data/ and pictures/ of the viewer below `folder`; return the number of items."""
    pictures: dict[tuple[str, ...], str] = {}
    index = []
    for name in ("data", "pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    def draw(source: Picture, *key: str) -> str:
        if key not in pictures:
            pictures[key] = f"pictures/{len(pictures):04d}.png"
            image = open_image(source)
            image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            image.save(folder / pictures[key], optimize=True)
        return pictures[key]

    for number, (item, shown, swap) in enumerate(describe_items(profile, choose_items(profile, quantiles))):
        for image in shown["images"]:  # in the order in which the model was shown them
            image["file"] = draw(item.images[image["place"]], item.id, str(image["place"]))
        if swap:
            shown["swap"] = swap[0] | {"file": draw(swap[1], item.id, shown["model"], "altered")}
        file = f"data/{number:04d}.js"
        (folder / file).write_text(to_script("show", shown), encoding="utf-8")
        index.append({"file": file} | {key: shown[key] for key in ("id", "model", "benchmark", "correct", "collapse")})
    colours = [mpl.colors.to_hex(colour) for colour in mpl.colormaps[COLOUR_MAP](np.linspace(0, 1, 256))]
    statements = to_script("offer", {"items": index, "colours": colours})
    (folder / "data" / "index.js").write_text(statements, encoding="utf-8")
    return len(index)
