"""The benchmarks by name: their questions as Items, and their scorers.

In: a benchmark's name and the `testbed` or `questions` section of the parameters. Out: the Items of each split with the
rows that could not be used, and the scores of a response. The real benchmarks ask a stratified, seeded subset. A
row that makes no Item is named with its reason and not drawn. Pictures are decoded only of rows that were drawn, once:
where one is corrupt, its row is named, too, and the subset drawn anew without it. Never: guess a missing box, picture
or answer.

To add a benchmark: a module like `mmmu_pro`, one entry in REAL, its `<name>_source` keys in params/. Generated benchmarks
are named by a parameter, `questions.generator`: this package never imports the testbed by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any, get_args

from dontblink.errors import NamedError
from dontblink.questions import hallusionbench, mathvista, mmmu_pro
from dontblink.questions.items import Item, ItemError, Score, Split, validate
from dontblink.questions.sources import Row, Source, SourceError, require_writable, resolve_revision
from dontblink.questions.subset import draw_subset, find_shortfalls, task_type_of

SPLITS: tuple[Split, ...] = get_args(Split)
REAL: dict[str, ModuleType] = {module.NAME: module for module in (mathvista, mmmu_pro, hallusionbench)}


@dataclass(frozen=True)
class Questions:
    """The usable items of a benchmark by split, each row left out with its reason, and each item's stratum."""

    items: dict[Split, list[Item]]
    rejected: list[tuple[str, str]]  # (row or item, reason)
    strata: dict[str, str]
    notes: list[str] = field(default_factory=list)  # what a reader of the counts must know
    origin: str = ""  # where the rows came from, with the commit of a hub


def load_questions(
    benchmark: str,
    testbed_settings: dict[str, Any],
    settings: dict[str, Any],
    prepare: Callable[[Row], Row] = lambda row: row,
) -> Questions:
    """Return the questions of one benchmark.

    Parameters
    ----------
    testbed_settings, settings : the `testbed` and `questions` sections of the parameters
    prepare : applied to every row of a real benchmark before it is read

    Raises
    ------
    NamedError, SourceError
        If the benchmark is unknown, or its source cannot be read; one line.
    """
    if benchmark not in REAL:
        generator = load_generator(settings["generator"])
        if benchmark not in generator.BENCHMARKS:
            known = ", ".join((*generator.BENCHMARKS, *REAL))
            raise NamedError(f"benchmark {benchmark!r} has no loader; expected one of {known}")
        return _generate_questions(generator, benchmark, testbed_settings)
    module, rejected = REAL[benchmark], list[tuple[str, str]]()
    usable: dict[str, tuple[Row, Item]] = {}
    source = Source(settings[f"{benchmark}_source"], settings[f"{benchmark}_revision"])
    for row in map(prepare, module.load_rows(source, settings[f"{benchmark}_config"])):
        try:
            require_writable(row)
            draft = module.build_item(row, "test", "other")
            if draft.id in usable:
                first = usable[draft.id][0].name
                raise ItemError(f"{row.name}: its id {draft.id} is that of {first}, too; make the ids unique")
        except ItemError as error:
            rejected.append((f"{benchmark}: {row.name}", str(error)))
        else:
            usable[draft.id] = (row, draft)
    places = {item_id: (item_id, module.stratum(row), module.group(row)) for item_id, (row, _) in usable.items()}
    sizes = {split: settings[f"n_{split}_items"] for split in SPLITS}
    checked = set[str]()
    while unchecked := (drawn := draw_subset(list(places.values()), sizes, settings["subset_seed"])).keys() - checked:
        for item_id in sorted(unchecked):
            if fault := find_fault(usable[item_id][1]):
                rejected.append((item_id, fault))
                del places[item_id]
        checked |= unchecked
    items: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item_id, (_, draft) in usable.items():
        if item_id in drawn:
            kind = task_type_of(draft.covariates, benchmark, settings["task_types"])
            items[drawn[item_id]].append(replace(draft, split=drawn[item_id], task_type=kind))
    strata = {item_id: places[item_id][1] for item_id in drawn}
    notes = find_shortfalls(sizes, drawn)
    try:
        origin = f"{source.location} {resolve_revision(source)}".rstrip()
    except SourceError as error:  # the rows came from the hub's cache, which does not say what a branch meant
        origin = f"{source.location} {source.revision}"
        notes.append(str(error))
    return Questions(items, rejected, strata, notes, origin)


def load_generator(name: str) -> ModuleType:
    """Return the module that makes benchmarks from a seed: it has BENCHMARKS, read_difficulty, load_items and score.

    Raises
    ------
    NamedError
        If there is no such module.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise NamedError(f"questions.generator {name!r}: no such module ({error}); correct it") from error


def _generate_questions(generator: ModuleType, benchmark: str, settings: dict[str, Any]) -> Questions:
    difficulty = generator.read_difficulty(benchmark, settings)
    items: dict[Split, list[Item]] = {
        split: list(
            generator.load_items(benchmark, split, settings[f"n_{split}_items"], settings["item_seed"], difficulty)
        )
        for split in SPLITS
    }
    faults = {item.id: fault for found in items.values() for item in found if (fault := find_fault(item))}
    kept = {split: [item for item in found if item.id not in faults] for split, found in items.items()}
    return Questions(kept, list(faults.items()), {item.id: benchmark for found in kept.values() for item in found})


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
    module = REAL[item.benchmark]
    found: dict[str, Score] = module.scores(response_text, module.item_fields(item))
    return found if is_closed else {**found, "strict": Score(False, False, "")}
