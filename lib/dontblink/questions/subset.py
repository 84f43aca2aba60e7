"""Which rows of a benchmark a study uses, in which split, and what task each row is.

Why it exists: a study on 300 of 1000 rows must draw them so that anybody draws the same ones, in the benchmark's own
proportions, with no picture in both splits. In: ids, strata and groups of rows; rules from the parameters. Out: a split
per drawn id; a task type. Never: look at an answer or a response, or depend on the rows' order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from dontblink.questions.items import SPLITS, TASK_TYPES, Split, TaskType

RULE = re.compile(r"\s*(\w+)\.(?:\*|(\w+)=(.*)):([^:]*)")  # benchmark, covariate, value, task type
FORMS = "'<benchmark>.<covariate>=<value>:<task type>' or '<benchmark>.*:<task type>'"


class Stratum:
    """The groups of one stratum, each a list of ids, in seeded order: test draws from the front, calibration behind.

    A group, once opened for a split, is lost to the other one: `opened` holds what the split has not drawn of it.
    """

    def __init__(self, groups: list[list[str]]) -> None:
        self.groups = groups
        self.opened: dict[Split, list[str]] = {"test": [], "calibration": []}

    def draw(self, split: Split, wanted: int) -> list[str]:
        """Return up to `wanted` ids of the group that is open for the split, else of the next; [] if none is left."""
        if wanted and not self.opened[split] and self.groups:
            self.opened[split] = self.groups.pop(0 if split == "test" else -1)
        drawn, self.opened[split] = self.opened[split][:wanted], self.opened[split][wanted:]
        return drawn


def draw_subset(rows: Sequence[tuple[str, str, str]], sizes: Mapping[Split, int], seed: int) -> dict[str, Split]:
    """Draw rows for test and calibration, each in the proportions of the strata.

    Parameters
    ----------
    rows : (id, stratum, group) of each row; a shared id is a ValueError. A group that spans strata counts in the one
        that most of its rows name.
    sizes : how many rows each split should have. If there are fewer rows than that in all, every row is asked for and
        the splits share them in proportion.

    Returns
    -------
    The split of each drawn id, sorted by id; `find_shortfalls` says which split got fewer rows than it asked for.

    Notes
    -----
    Each split's size is shared among strata by largest remainder. Groups come in the order of a hash of seed and group,
    rows within a group in that of seed and id, so the order of `rows` changes nothing. Groups are taken whole, except
    that the last one of a stratum is cut to fit; what is left of it is not used in the other split. Where a stratum
    runs out of groups, others fill in. Sizes are never above what was asked, and exact if there are at least
    strata * (largest group - 1) rows more than asked (always, if groups are single rows).
    A larger size keeps the rows drawn before as long as no stratum's share falls (largest remainders may take one row
    from a stratum when the size grows) and none runs out of groups; the other split keeps its rows, too.
    """
    if len(ids := {identity for identity, _, _ in rows}) < len(rows):
        raise ValueError(f"{len(rows)} rows share {len(ids)} ids; make the ids unique")
    targets = {split: sizes.get(split, 0) for split in SPLITS}
    if min(targets.values()) < 0:
        raise ValueError(f"subset sizes {targets}; expected 0 rows or more; correct the parameters")
    if sum(targets.values()) > len(rows):
        shares = apportion(len(rows), list(targets.values()), [len(rows)] * len(SPLITS))
        targets = dict(zip(SPLITS, shares, strict=True))
    strata = gather(rows, seed)
    counts = [sum(map(len, stratum.groups)) for stratum in strata]
    room, wanted = counts, {}
    for split in SPLITS:
        wanted[split] = apportion(targets[split], counts, room)
        room = [left - share for left, share in zip(room, wanted[split], strict=True)]
    chosen: dict[str, Split] = {}
    for index, stratum in enumerate(strata):
        fill(chosen, [stratum], {split: wanted[split][index] for split in SPLITS})
    # what a stratum could not give, the fullest of the others do
    reserve = sorted(strata, key=lambda stratum: -sum(map(len, stratum.groups)))
    fill(chosen, reserve, {split: targets[split] - list(chosen.values()).count(split) for split in SPLITS})
    return dict(sorted(chosen.items()))


def fill(chosen: dict[str, Split], strata: Sequence[Stratum], wanted: dict[Split, int]) -> None:
    """Draw the wanted numbers into `chosen`; the split that lacks the larger part of its number draws next."""
    missing = dict(wanted)
    while any(missing.values()):
        split = max(SPLITS, key=lambda split: missing[split] / max(wanted[split], 1))
        drawn = next((ids for stratum in strata if (ids := stratum.draw(split, missing[split]))), [])
        chosen.update(dict.fromkeys(drawn, split))
        missing[split] -= len(drawn) or missing[split]  # nothing is left for this split


def find_shortfalls(sizes: Mapping[Split, int], chosen: Mapping[str, Split]) -> list[str]:
    """Return one line for each split that has fewer rows than asked for; no line if the sizes are exact."""
    drawn = Counter(chosen.values())
    return [
        f"{split}: {drawn[split]} rows drawn of {size} asked for; the data set, or its groups, allow no more"
        for split, size in sizes.items()
        if drawn[split] < size
    ]


def gather(rows: Sequence[tuple[str, str, str]], seed: int) -> list[Stratum]:
    """Return the strata in the order of their names, groups and rows in seeded order."""
    members: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    for identity, stratum, group in sorted(rows, key=lambda row: row[1]):
        members.setdefault(group, []).append(identity)
        named.setdefault(group, []).append(stratum)
    strata: dict[str, list[list[str]]] = {}
    for group in sorted(members, key=lambda group: order(seed, "group", group)):
        home = Counter(named[group]).most_common(1)[0][0]  # of several the first by name
        strata.setdefault(home, []).append(sorted(members[group], key=lambda row: order(seed, "row", row)))
    return [Stratum(strata[name]) for name in sorted(strata)]


def order(seed: int, kind: str, name: str) -> str:
    """Return where a name stands in a seeded order that depends on nothing but the name."""
    return hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).hexdigest()


def apportion(total: int, weights: Sequence[int], room: Sequence[int]) -> list[int]:
    """Share a total by largest remainder, nobody above their room; ties go to the first. Needs sum(room) >= total."""
    whole = sum(weights) or 1
    shares = [min(total * weight // whole, most) for weight, most in zip(weights, room, strict=True)]
    ranked = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    while sum(shares) < total:
        for index in ranked:
            if sum(shares) < total and shares[index] < room[index]:
                shares[index] += 1
    return shares


def task_type_of(covariates: Mapping[str, float | str], benchmark: str, rules: Sequence[str]) -> TaskType:
    """Return the task type of an item of the benchmark by the first rule that matches.

    `mathvista.category=math-targeted-vqa:symbolic` asks for one value of a covariate (numbers as `%g` writes them),
    `mmmu_pro.*:sustained_visual_reference` for nothing. A rule that is malformed (even behind one that matches), names
    an unknown task type, or asks for a covariate that the item lacks is a ValueError, and so it is if none matches.
    """
    read = [read_rule(rule) for rule in rules]
    for rule, (named, covariate, value, task_type) in zip(rules, read, strict=True):
        if named != benchmark:
            continue
        if covariate and covariate not in covariates:
            there = ", ".join(sorted(covariates)) or "none"
            raise ValueError(f"task rule {rule!r}: {benchmark} items have no {covariate!r}; they have {there}")
        found = covariates.get(covariate, "")
        if not covariate or (found.strip() if isinstance(found, str) else f"{found:g}") == value:
            return task_type
    raise ValueError(f"no task rule matches a {benchmark} item; end the rules with '{benchmark}.*:other'")


def read_rule(rule: str) -> tuple[str, str, str, TaskType]:
    """Return a rule's benchmark, covariate and value ('' for any) and task type."""
    read = RULE.fullmatch(rule)
    if read is None:
        raise ValueError(f"task rule {rule!r} is malformed; write {FORMS}")
    named, covariate, value, task_type = (part.strip() for part in read.groups(""))
    if task_type not in TASK_TYPES:
        raise ValueError(f"task rule {rule!r}: unknown task type; expected one of {', '.join(TASK_TYPES)}")
    return named, covariate, value, task_type
