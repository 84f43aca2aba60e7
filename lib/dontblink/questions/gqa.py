"""GQA: short questions on photographs, with the scene graph's boxes of every object that a question speaks of.

Why it exists: its yes/no questions about objects that ARE there are a hallucination set with boxes on both sides, and
all of its questions together are the largest set with boxes. In: the balanced validation questions (official JSON
beside `images/`, or the hub's two configurations), `val_sceneGraphs.json`, which no hub table holds, and responses.
Out: Items with boxes, Scores. Never: a row about the whole scene, or about an object that the picture lacks ("(-)"):
no box shows what is not there.

`official` is the official `==`, on the text behind the reasoning. `strict` compares in small letters without the final
point, reads a stated answer ("Answer: dog"), and the yes or no of a yes/no question as HallusionBench's does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dontblink import paths
from dontblink.questions import sources
from dontblink.questions.answers import compare, plain, read_final, read_statements, strict_yes_no
from dontblink.questions.items import Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, read_box, read_rows, require_columns

NAME = "gqa"
LICENCE = "CC BY 4.0 (as GQA's page says); pictures: Visual Genome"
INSTRUCTION = "Answer the question using a single word or phrase."
CLIP_PX = 1.0
SPLIT = "val_balanced"
REMEDY = "get sceneGraphs.zip of cs.stanford.edu/people/dorarad/gqa and name its val_sceneGraphs.json in gqa_config"
STRATA = {"verify": "verify/logical", "logical": "verify/logical"}


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the questions with what the scene graph says of their objects; `config` is where the graphs lie."""
    graphs = sources.read_beside(paths.ROOT / config, REMEDY)
    place = sources.find_local(source)
    if place is None or (place / f"{SPLIT}_instructions").is_dir():
        rows = read_rows(source, split="val", config=f"{SPLIT}_instructions", image_columns=())
        shown = read_rows(source, split="val", config=f"{SPLIT}_images", image_columns=("image",))
        pictures: dict[str, Any] = {str(row.fields.get("id")): row.images["image"] for row in shown}
    else:
        folder = (place if place.is_dir() else place.parent) / "images"
        rows = read_rows(source, split=f"{SPLIT}_questions", image_columns=())
        pictures = {name: folder / f"{name}.jpg" for row in rows if (name := str(row.fields.get("imageId"))).isalnum()}
    made = []
    for row in rows:
        name, graph = str(row.fields.get("imageId")), graphs.get(str(row.fields.get("imageId"))) or {}
        objects, ids = graph.get("objects") or {}, dict.fromkeys(list_objects(row.fields))
        kept = {key: objects[key] for key in ids if key in objects}
        size = (graph.get("width"), graph.get("height")) if graph else None
        fields = {"id": row.name.rpartition(" ")[2], **row.fields, "objects": kept, "picture_size": size}
        made.append(Row(row.name, fields, {"image": pictures.get(name)}))
    return made


def list_objects(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the objects in `semantic` and in all `annotations`, as the official JSON or the hub has them."""
    for step in fields.get("semantic") or []:
        yield from re.findall(r"\((\d+)\)", str(step.get("argument")))
    for part in (fields.get("annotations") or {}).values():
        spans = part.values() if isinstance(part, Mapping) else [entry.get("value") for entry in part or []]
        yield from (str(key) for key in spans if key)


def place(row: Row) -> tuple[str, str]:
    """Return verify/logical, query, choose or compare, and the picture."""
    kind = str(row.fields["types"]["structural"])
    return STRATA.get(kind, kind), str(row.fields["imageId"])


def build_item(row: Row) -> Item:
    """Return the row as a draft; ItemError for a row that a box cannot show, or without graph, object or picture."""
    fields = row.fields
    require_columns(row, ("id", "semantic", "types", "objects"), texts=("question", "answer", "imageId"))
    arguments = [str(step.get("argument")) for step in fields["semantic"]]
    if absent := [text for text in arguments if text == "scene" or "(-)" in text]:
        raise ItemError(f"{row.name}: asks for {absent[0]!r}, which no box shows; leave the row out")
    if not isinstance(fields["types"], Mapping) or not fields["types"].get("structural"):
        raise ItemError(f"{row.name}: types {fields['types']!r} name no structural type; take the official row")
    ids = list(dict.fromkeys(list_objects(fields)))
    if lost := [key for key in ids if key not in fields["objects"]] or ([] if ids else ["any"]):
        raise ItemError(f"{row.name}: object {lost[0]} is in no scene graph of picture {fields['imageId']}; {REMEDY}")
    found = [(fields["objects"][key], key) for key in ids]
    if odd := [key for graph, key in found if not isinstance(graph, Mapping)]:
        raise ItemError(f"{row.name}: object {odd[0]} holds no x, y, w, h; {REMEDY}")
    stratum, _ = place(row)
    return make_draft(
        row, NAME, fields["id"], "unpack images.zip of GQA beside the questions",
        question=f"{fields['question'].strip()} {INSTRUCTION}", answer=fields["answer"], licence=LICENCE,
        boxes=tuple(read_box(row, graph, str(graph.get("name") or key)) for graph, key in found),
        covariates={"stratum": stratum, "structural": str(fields["types"]["structural"])},
    )  # fmt: skip


def read_short(response: str) -> str | None:
    """Return the short answer of a response, plain, in small letters: the last statement, else the only line.

    None where the text behind the reasoning states nothing and has several lines: no line is taken on trust.
    """
    final = read_final(response)
    if found := [text for text in map(plain, read_statements(final)) if text]:
        return found[-1]
    lines = [text for line in final.splitlines() if (text := plain(line))]
    return lines[0] if len(lines) == 1 else None


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both rules."""
    official = Score(read_final(response) == item.answer, bool(read_final(response)), read_final(response))
    is_closed = item.covariates.get("stratum") == STRATA["verify"]
    answer = strict_yes_no(response) if is_closed else read_short(response)
    return {"official": official, **compare(plain(item.answer), strict=answer)}
