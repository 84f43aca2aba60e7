"""The benchmarks by name: their questions as Items, and their scorers.

In: a benchmark's name and the `testbed` or `questions` section of the parameters. Out: the Items of each split with the
rows that could not be used, and the scores of a response. The real benchmarks ask a stratified, seeded subset. A
row that makes no Item is named with its reason and not drawn. Pictures are decoded only of rows that were drawn, once:
where one is corrupt, its row is named, too, and the subset drawn anew without it. Never: guess a missing box, picture
or answer.

To add a benchmark, write a module that has the names of `Benchmark`; a whole one, of yes/no questions:

    NAME = "spot"

    def load_rows(source, config=""):  # of the split that is asked, pictures still encoded; SourceError if unreadable
        return read_rows(source, split="test", config=config, image_columns=("picture",))

    def build_item(row):  # a draft: split and task type are set here; ItemError with the reason if it is none
        require_columns(row, ("id", "topic"), texts=("question", "answer"))
        picture = find_picture(row, row.images.values(), "unpack the pictures there")
        question = f"{row.fields['question']} Please answer yes or no."
        return Item(name_item(NAME, row.fields["id"]), NAME, "test", (picture,), question, row.fields["answer"],
                    "other", covariates={"topic": row.fields["topic"]}, source=row.name, licence="MIT")

    def place(row):  # what a subset keeps the proportions of; what rows share that must not stand in both splits
        return row.fields["topic"], str(row.fields["id"])

    def scores(response, item):  # by scorer: `strict`, which takes no guess, and `official`
        return compare(item.answer, official=official_answer(response), strict=strict_answer(response))

then name it in REAL and in `extraction.benchmarks`, and give `params.Questions` and params/testbed.yaml its
`spot_source`, `spot_revision` and `spot_config`, and a rule among `task_types`, which may ask for a covariate. A
benchmark that ships boxes puts them into its drafts; they are measured against the picture when it is opened, cut off
at its edge by at most the module's `CLIP_PX` (0 where it has none), and refused if `picture_size` of the row, (width,
height) px, is not that of the picture. The covariate `no_evidence` says why a draft has none.
Generated benchmarks are named by a parameter, `questions.generator`: this package never imports the testbed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from dontblink.errors import NamedError
from dontblink.questions import (
    gqa,
    hallusionbench,
    mathvista,
    mathvista_annotated,
    mmmu_pro,
    refchartqa,
    treebench,
    visual_cot,
    vstar,
)
from dontblink.questions.items import SPLITS as SPLITS
from dontblink.questions.items import Item, ItemError, Recall, Score, Split, validate
from dontblink.questions.sources import Row, Source, SourceError, require_writable, resolve_revision, settle_boxes
from dontblink.questions.subset import draw_subset, find_shortfalls, task_type_of


class Benchmark(Protocol):
    """What the module of a real benchmark has; this module's docstring shows a whole one."""

    NAME: str

    def load_rows(self, source: Source, config: str = "") -> list[Row]: ...
    def build_item(self, row: Row) -> Item: ...
    def place(self, row: Row) -> tuple[str, str]: ...
    def scores(self, response: str, item: Item) -> dict[str, Score]: ...


class Generator(Protocol):
    """What a module has that makes benchmarks from a seed, as difficult as the settings say."""

    BENCHMARKS: Sequence[str]

    def read_difficulty(self, benchmark: str, settings: dict[str, Any]) -> Any: ...
    def load_items(self, benchmark: str, split: Split, n_items: int, seed: int, difficulty: Any) -> Iterable[Item]: ...
    def score(self, item: Item, answer_text: str) -> Score: ...
    def find_recalls(self, item: Item, words: Sequence[str], rng: np.random.Generator) -> tuple[list[Recall], str]: ...


REAL: dict[str, Benchmark] = {
    module.NAME: module
    for module in (
        mathvista, mmmu_pro, hallusionbench, treebench, gqa, refchartqa, vstar, mathvista_annotated, visual_cot,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """The usable items of a benchmark by split, each row left out with its reason, and each item's stratum."""

    items: dict[Split, list[Item]]
    rejected: list[tuple[str, str]]  # (row or item, reason)
    strata: dict[str, str]
    notes: list[str] = field(default_factory=list)  # what a reader of the counts must know
    origin: str = ""  # where the rows came from, with the commit of a hub


def load_questions(
    benchmark: str, testbed_settings: dict[str, Any], settings: dict[str, Any],
    prepare: Callable[[Row], Row] = lambda row: row,
) -> Questions:  # fmt: skip
    """Return the questions of one benchmark, by the `testbed` and `questions` sections of the parameters.

    `prepare` is applied to every row of a real benchmark before it is read. An unknown benchmark, and a source that
    cannot be read, are a NamedError.
    """
    if benchmark not in REAL:
        return _generate_questions(benchmark, settings["generator"], testbed_settings)
    module, rejected = REAL[benchmark], list[tuple[str, str]]()
    source = Source(settings[f"{benchmark}_source"], settings[f"{benchmark}_revision"])
    drafts: dict[str, tuple[Item, Row]] = {}
    for row in map(prepare, module.load_rows(source, settings[f"{benchmark}_config"])):
        try:
            require_writable(row)
            draft = module.build_item(row)
            if draft.id in drafts:
                other = drafts[draft.id][1].name
                raise ItemError(f"{row.name}: its id {draft.id} is that of {other}, too; make the ids unique")
            drafts[draft.id] = draft, row
        except ItemError as error:
            rejected.append((f"{benchmark}: {row.name}", str(error)))
    places = {item_id: (item_id, *module.place(row)) for item_id, (_, row) in drafts.items()}
    sizes = {split: settings[f"n_{split}_items"] for split in SPLITS}
    checked = set[str]()
    while unchecked := (drawn := draw_subset(list(places.values()), sizes, settings["subset_seed"])).keys() - checked:
        for item_id in sorted(unchecked):
            draft, row = drafts[item_id]
            try:
                if draft.boxes:
                    draft = settle_boxes(draft, getattr(module, "CLIP_PX", 0.0), row.fields.get("picture_size"))
                    drafts[item_id] = draft, row
                validate(draft)
            except ItemError as error:
                rejected.append((item_id, str(error)))
                del places[item_id]
        checked |= unchecked
    items: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for draft, _ in drafts.values():
        if split := drawn.get(draft.id):
            kind = task_type_of(draft.covariates, benchmark, settings["task_types"])
            items[split].append(replace(draft, split=split, task_type=kind))
    notes = find_shortfalls(sizes, drawn)
    try:
        origin = f"{source.location} {resolve_revision(source)}".rstrip()
    except SourceError as error:  # the rows came from the hub's cache, which does not say what a branch meant
        origin = f"{source.location} {source.revision}"
        notes.append(str(error))
    return Questions(items, rejected, {item_id: places[item_id][1] for item_id in drawn}, notes, origin)


def load_generator(name: str) -> Generator:
    """Return the module that makes benchmarks from a seed; raise NamedError if there is none of this name."""
    try:
        return cast(Generator, import_module(name))
    except ModuleNotFoundError as error:
        raise NamedError(f"questions.generator {name!r}: no such module ({error}); correct it") from error


def read_level(item: Item, generator: str) -> str:
    """Return the level of need that a generator made an item for, "" where it makes none."""
    read = None if item.benchmark in REAL else getattr(load_generator(generator), "read_level", None)
    return str(read(item.id)) if read else ""


def _generate_questions(benchmark: str, generator_name: str, settings: dict[str, Any]) -> Questions:
    generator = load_generator(generator_name)
    if benchmark not in generator.BENCHMARKS:
        known = ", ".join((*generator.BENCHMARKS, *REAL))
        raise NamedError(f"benchmark {benchmark!r} has no loader; expected one of {known}")
    difficulty, seed = generator.read_difficulty(benchmark, settings), settings["item_seed"]
    made: dict[Split, list[Item]] = {
        split: list(generator.load_items(benchmark, split, settings[f"n_{split}_items"], seed, difficulty))
        for split in SPLITS
    }
    faults = {item.id: fault for items in made.values() for item in items if (fault := find_fault(item))}
    kept = {split: [item for item in items if item.id not in faults] for split, items in made.items()}
    return Questions(kept, list(faults.items()), {item.id: benchmark for items in kept.values() for item in items})


def find_fault(item: Item) -> str:
    """Return why an item cannot be used (a corrupt picture, a box outside it), '' where it can."""
    try:
        validate(item)
    except ItemError as error:
        return str(error)
    return ""


def score(item: Item, response_text: str, answer_text: str, is_closed: bool, generator: str) -> dict[str, Score]:
    """Return the scores of a response by scorer; `strict` is the one that every result uses.

    Parameters
    ----------
    response_text : the decoded ids without the end of sequence, special tokens kept
    answer_text : the decoded answer span (all that a generated benchmark's scorer reads)
    is_closed : False where the reasoning never ended; the strict scorer then finds no answer
    generator : the module of the generated benchmarks, `questions.generator`
    """
    if item.benchmark not in REAL:
        return {"strict": load_generator(generator).score(item, answer_text)}
    found = REAL[item.benchmark].scores(response_text, item)
    return found if is_closed else {**found, "strict": Score(False, False, "")}
