"""A study without a model: `make extract PROFILE=paper DRY=1` loads, prompts, cuts and scores.

Why: what fails in the third hour of a paid machine fails here in a minute. In: the parameters of a profile; official
files in a folder, where there are any, in place of the sources. Out: a printed report. Every question is loaded and
built; some of the chosen ones are prompted through each model's processor (a stand-in of its family where no checkpoint
is there); a response that ends in the gold answer is written in the family's form, cut on its ids and must be scored
right by both scorers. Never: weights, a result, or a picture that nobody gave: where official files come without
their pictures, grey ones of the recorded size stand in, and the report says so.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from dontblink import params, paths
from dontblink.errors import NamedError
from dontblink.extraction.study import Study
from dontblink.models.checkpoints import check_checkpoint, check_device, load_vlm
from dontblink.models.vlm import VLM
from dontblink.questions import registry
from dontblink.questions.items import MOST_PIXELS, Item, ItemError
from dontblink.questions.sources import Row
from dontblink_testbed.stand_in import StandIn, build_stand_in

OFFICIAL = {  # where a folder of official files has each benchmark
    "mathvista": "mathvista/testmini.json",
    "mmmu_pro": "mmmu_pro/mini/items.jsonl",
    "hallusionbench": "hallusionbench/HallusionBench.json",
    "treebench": "treebench/TreeBench.tsv",
    "gqa": "gqa/val_balanced_questions.json",
    "refchartqa": "refchartqa",
    "vstar": "vstar_bench/test_questions.jsonl",
}
CHAIN = "The picture shows what is asked. I look at it again. So the answer follows."


def use_official_files(study: Study, folder: Path) -> list[str]:
    """Point the sources at the official files of a folder; return which benchmarks have one there.

    Raises
    ------
    NamedError
        If none has.
    """
    found = [name for name, file in OFFICIAL.items() if (folder / file).exists()]
    if not found:
        raise NamedError(f"{folder}: no official file; expected one of {', '.join(OFFICIAL.values())}; correct it")
    for name in found:
        study.question_settings[f"{name}_source"] = str((folder / OFFICIAL[name]).resolve())
    if "gqa" in found:
        study.question_settings["gqa_config"] = str((folder / "gqa" / "val_sceneGraphs.json").resolve())
    return found


class GreyPictures:
    """Puts a grey picture in place of each file that is not there, and counts the rows per benchmark."""

    def __init__(self) -> None:
        self.n_rows = 0

    def __call__(self, row: Row) -> Row:
        missing = {k: draw_grey(row) for k, p in row.images.items() if isinstance(p, Path) and not os.path.isfile(p)}
        self.n_rows += bool(missing)
        return replace(row, images={**row.images, **missing})


def draw_grey(row: Row) -> bytes:
    """Return a grey PNG of the size that the row records, where a picture can have it; else 512 x 512 px."""
    metadata = row.fields.get("metadata")
    recorded = metadata if isinstance(metadata, dict) else {}
    of_boxes = row.fields.get("picture_size")  # a grey picture of another size would lose them
    width, height = of_boxes or (recorded.get("img_width"), recorded.get("img_height"))
    size = (512, 512)
    if isinstance(width, int) and isinstance(height, int) and width > 0 < height and width * height <= MOST_PIXELS:
        size = (width, height)
    buffer = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def open_model(study: Study, model: str, folder: Path) -> tuple[VLM, str]:
    """Return a model without weights and whose prompts it makes: its own, or those of a stand-in of its family."""
    if study.checkpoint(model).is_dir():
        return study.load_model(model, weights=False), "its own processor"
    likely = [name for name in get_args(StandIn) if model.startswith(name)]
    if not likely:
        raise NamedError(
            f"{paths.show(study.checkpoint(model))}: no checkpoint, and no stand-in of {model}; download it"
        )
    made = build_stand_in(likely[0], folder / model, weights="none", instruct=model.endswith("-Instruct"))
    limit, thinking = study.settings["max_image_tokens"], study.settings["thinking"] == "enabled"
    vlm = load_vlm(made, name=model, thinking=thinking, max_image_tokens=limit, weights=False)
    return vlm, "a stand-in (one token a byte: texts 3 to 4 times as long)"


def write_gold_response(vlm: VLM, item: Item) -> list[int]:
    """Return the ids of a response that reasons briefly and gives the gold answer in the family's form."""
    family, answer = vlm.family, item.answer
    opened = "" if vlm.prompt_opens_think or not vlm.thinks else family.think_open
    boxed = f"{family.box_open}{answer}{family.box_close}" if family.writes_think else answer
    text = f"{opened}{CHAIN}{family.think_close if vlm.thinks else ''}\n\nAnswer: {boxed}"
    return [*vlm.tokenizer.encode(text, add_special_tokens=False), vlm.eos_ids[0]]


def check_scores(vlm: VLM, item: Item, generator: str) -> dict[str, bool]:
    """Return by scorer whether a gold response, cut on its ids, is scored right."""
    ids = write_gold_response(vlm, item)
    spans = vlm.segment(ids)
    text = vlm.decode(ids[:-1])
    scores = registry.score(item, text, vlm.decode(ids[slice(*spans.answer)]), spans.closed, generator)
    return {name: score.correct for name, score in scores.items()}


def report(study: Study, pictures: GreyPictures, n_items: int) -> Iterator[str]:
    """Yield the report line by line.

    Raises
    ------
    NamedError
        At the end, if a chosen item could not be prompted or its gold answer is scored wrong by the strict scorer.
    """
    failures: list[str] = []
    found, generator = study.questions, study.question_settings["generator"]
    if pictures.n_rows:
        yield f"{pictures.n_rows} rows have no picture file; grey ones of the recorded size stand in for this dry run"
    for name, questions in found.items():
        sizes = ", ".join(f"{len(items)} {split}" for split, items in questions.items.items())
        kinds = sorted({item.task_type for items in questions.items.values() for item in items})
        yield f"{name}: {sizes} items of {len(set(questions.strata.values()))} strata; task types {', '.join(kinds)}"
        yield from (f"  {note}" for note in questions.notes)
        if questions.rejected:
            yield f"  {len(questions.rejected)} rows cannot be used, the first: {questions.rejected[0][1]}"
        ids = [item.id for items in questions.items.values() for item in items if item.id in study.lacking_boxes]
        if ids:
            yield f"  {len(ids)} items lack accepted evidence boxes: {', '.join(ids[:5])}{', ...' * (len(ids) > 5)}"
    yield from say_what_fails(check_device, study.settings["device"])
    drawn = params.read_section(study.profile, "collapse")
    for key, known in (("picture_model", "models"), ("picture_benchmark", "benchmarks")):
        if drawn[key] not in study.settings[known]:
            expected = f"expected one of extraction.{known}, {', '.join(study.settings[known])}"
            yield f"  notebook 02 would end here: collapse.{key} is {drawn[key]}, {expected}; name one in SET, too"
    with tempfile.TemporaryDirectory() as folder:
        for model in study.settings["models"]:
            vlm, whose = open_model(study, model, Path(folder))
            yield f"{model}: prompts through {whose}; {'thinks' if vlm.thinks else 'does not think'}"
            yield from say_what_fails(check_checkpoint, study.checkpoint(model))
            for name, questions in found.items():
                limited, items = vlm.limit(study.image_tokens(name)), questions.items["test"][:n_items]
                yield f"  {name}: {check_prompts(limited, items, generator, failures)}"
    if failures:
        raise NamedError(f"{len(failures)} problems, the first: {failures[0]}")


def say_what_fails(check: Callable[[Any], None], subject: Any) -> Iterator[str]:
    """Yield the line that an extraction on this machine would end with, where a check finds one."""
    try:
        check(subject)
    except NamedError as error:
        yield f"  the extraction would end here: {error}"


def check_prompts(vlm: VLM, items: list[Item], generator: str, failures: list[str]) -> str:
    """Prompt and score some items; return what was found, and add what failed to `failures`."""
    lengths, image_tokens, right = [], [], {"strict": 0}
    for item in items:
        try:
            prompt = vlm.encode(item)
        except ItemError as error:
            failures.append(str(error))
            continue
        lengths.append(len(prompt.ids))
        image_tokens.append(len(prompt.find_image(vlm.image_token_id)[0]))
        for scorer, correct in check_scores(vlm, item, generator).items():
            right[scorer] = right.get(scorer, 0) + correct
            if scorer == "strict" and not correct:
                failures.append(f"item {item.id}: its gold answer {item.answer!r} is scored wrong; look at the scorer")
    scored = ", ".join(f"{scorer} {n}" for scorer, n in right.items())
    return (
        f"{len(lengths)} of {len(items)} prompted; tokens {np.median(lengths):.0f} (median), {max(lengths)} (longest), "
        f"image tokens {min(image_tokens)} to {max(image_tokens)}; gold answers read back: {scored} of {len(lengths)}"
        if lengths
        else "nothing to prompt"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run: `python -m dontblink_testbed.dry_run --profile paper [--official FOLDER] [--items 20]`."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m dontblink_testbed.dry_run", description=about)
    parser.add_argument("--profile", default="paper", help="which params/<profile>.yaml")
    parser.add_argument("--official", type=Path, help="folder of official benchmark files, in place of the sources")
    parser.add_argument("--items", type=int, default=20, help="items to prompt and score, per model and benchmark")
    given = parser.parse_args(arguments)
    try:
        study = Study(given.profile, pictures := GreyPictures())
        if given.official:
            found = use_official_files(study, given.official)
            print(f"official files of {', '.join(found)} in {given.official} stand in for the sources", flush=True)
        for line in report(study, pictures, given.items):
            print(line, flush=True)
    except (NamedError, ValueError) as error:
        print(f"dry run: {error}", file=sys.stderr)
        return 1
    print("dry run: every step went through; no model was loaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
