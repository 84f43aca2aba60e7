"""Which recorded values moved between two runs, and whether each still agrees: a move is measured by what is known.

Why it exists: on another kind of processor the last digits differ, and a person must see at once whether a number, a
table or a figure says the same. In: the files of two runs by name. Out: every value that differs, with its move as a
share of its scale and whether that is within the tolerance. Never: read or write a file, or let a count, a verdict, an
id or a text differ at all.

The scale of a number is half the width of its interval; without one, its absolute value. A p-value is known to two of
its replicates at best. Below a floor in its unit a move is none, and two implementations agree below their own bar.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dontblink.errors import NamedError

Files = Mapping[str, bytes]  # by name, as 02_collapse.json
WHOLE = re.compile(r"-?\d+")
P_VALUE = re.compile(r"p|p_.*|.*_p|share_below")


class VerdictChange(NamedTuple):
    """One claim in the ledgers of two studies; `conditions` are those that hold in one of them alone."""

    claim: str
    first: str
    second: str
    conditions: dict[str, tuple[bool | None, bool | None]]

    @property
    def differs(self) -> bool:
        """Whether the verdict is another one."""
        return self.first != self.second

    def describe(self) -> str:
        """Return `C1: reproduced -> same direction (large_enough holds in the first alone)`."""
        words: dict[Any, str] = {(True, False): "holds in the first alone", (False, True): "holds in the second alone"}
        said = ", ".join(f"{name} {words.get(held, 'is asked in one alone')}" for name, held in self.conditions.items())
        moved = f"{self.first} -> {self.second}" if self.differs else f"{self.first} in both"
        return f"{self.claim}: {moved}{f' ({said})' if said else ''}"


class Change(NamedTuple):
    """One value that differs; None stands for a value that is not there. `size` is the move as a share of the scale."""

    key: str
    old: Any
    new: Any
    size: float = math.inf
    scale: str = "value"
    agrees: bool = False

    def describe(self) -> str:
        """Return `key: old -> new (1.2 % of its value)`."""
        texts = ["nothing" if value is None else f"{value}" for value in (self.old, self.new)]
        moved = f" ({100 * self.size:.2g} % of its {self.scale})" if math.isfinite(self.size) else ""
        return f"{self.key}: {texts[0]} -> {texts[1]}{moved}"


@dataclass(frozen=True)
class Rule:
    """When two values agree: the parameters of `reproduction`, and the fewest replicates behind a file's p-values.

    Without `pixels` no difference between two pictures, and two drawings, is small.
    """

    tolerance: float
    floor: float
    floor_nats: float
    difference_bar: float
    pixels: float | None
    n_replicates: int = 0

    def judge(self, key: str, old: Any, new: Any, row: Mapping[str, Any]) -> Change:
        """Return the change of one value, whose row holds its interval if it has one."""
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (old, new)):
            return Change(key, old, new)
        field = key.rsplit(".", 1)[-1]
        if all(isinstance(v, int) for v in (old, new)) or field.startswith("n_") or not math.isfinite(new - old):
            return Change(key, old, new)
        floor = self.floor_nats if "nats" in field else self.floor
        if "difference" in field and max(abs(old), abs(new)) <= self.difference_bar:
            floor = self.difference_bar
        size, scale = abs(old), "value"
        if P_VALUE.fullmatch(field):
            replicates = row.get("n_replicates") or row.get("n_deals") or self.n_replicates
            size = max(size, 2 / replicates / self.tolerance if replicates else 0)
        elif (half := find_half_width(field, old, row)) is not None:
            size, scale = half, "half interval"
        moved = abs(new - old) / max(size, floor / self.tolerance)
        return Change(key, old, new, moved, scale, moved <= self.tolerance)


def find_half_width(field: str, value: float, row: Mapping[str, Any]) -> float | None:
    """Return half the width of the interval that a field of a row is an end of or lies in, None if there is none.

    Its own (`risk_low`, `risk_high`) goes before the row's (`ci_low`, `ci_high`; `low`, `high`).
    """
    own = field.removesuffix("low").removesuffix("high") if field.endswith(("low", "high")) else f"{field}_"
    named = field.removesuffix("mean") if field.endswith("_mean") else None
    for start in dict.fromkeys(filter(lambda text: text is not None, (own, named, "ci_", ""))):
        low, high = row.get(f"{start}low"), row.get(f"{start}high")
        if isinstance(low, float) and isinstance(high, float) and (start in (own, named) or low <= value <= high):
            return (high - low) / 2
    return None


def compare_values(
    old: Any, new: Any, rule: Rule, key: str = "", row: Mapping[str, Any] | None = None
) -> Iterator[Change]:
    """Yield every value that differs, by its dotted key; lists are compared entry by entry."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = ({str(k): v for k, v in enumerate(values)} for values in (old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from compare_values(old.get(name), new.get(name), rule, f"{key}.{name}", old)
    elif isinstance(old, Mapping | list) or isinstance(new, Mapping | list):
        old, new = ("several values" if isinstance(value, Mapping | list) else value for value in (old, new))
        yield Change(key, old, new)
    elif old != new:
        yield rule.judge(key, old, new, row or {})


def read_cells(content: bytes) -> dict[str, dict[str, Any]]:
    """Return the rows of a CSV file by their number and what their texts say."""
    rows = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(content.decode())), 1):
        cells = {column: read_cell(text) for column, text in row.items()}
        texts = [cell for cell in cells.values() if isinstance(cell, str) and cell]
        rows[" ".join([f"row {number}", "/".join(texts)])] = cells
    return rows


def read_cell(text: str) -> Any:
    """Return a cell as a whole number, a number, or the text that it is."""
    if WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def compare_pictures(old: bytes, new: bytes) -> float:
    """Return the root mean square difference of two PNG files, 0 to 1; infinite if their sizes differ."""
    import numpy as np
    from PIL import Image

    first, second = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), float) / 255 for one in (old, new))
    return float(np.sqrt(np.mean((first - second) ** 2))) if first.shape == second.shape else math.inf


def compare_file(name: str, old: bytes | None, new: bytes | None, rule: Rule) -> Iterator[Change]:
    """Yield what differs between two versions of a file; with `rule.pixels` of a PDF nothing, its PNG stands for it."""
    stem, _, kind = name.rpartition(".")
    if old is None or new is None:
        yield Change(name, None if old is None else "a file", None if new is None else "a file")
    elif kind in ("json", "csv"):
        read = json.loads if kind == "json" else read_cells
        yield from compare_values(read(old), read(new), rule, stem)
    elif rule.pixels is None:
        yield Change(name, "a picture", "another")
    elif kind == "png":
        moved = compare_pictures(old, new)
        yield Change(name, "a picture", "another", moved, "scale", moved <= rule.pixels)


def count_values(name: str, content: bytes) -> int:
    """Return how many numbers and texts a JSON file holds, or cells a CSV file; of a picture one."""

    def count(value: Any) -> int:
        if isinstance(value, Mapping | list):
            return sum(map(count, value.values() if isinstance(value, Mapping) else value))
        return 1

    if name.endswith(".csv"):
        _, *rows = csv.reader(io.StringIO(content.decode()))
        return sum(map(len, rows))
    return count(json.loads(content)) if name.endswith(".json") else 1


def compare_verdicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[VerdictChange]:
    """Return every claim of two ledgers (08_claims.json as recorded), as of two training seeds.

    Only verdicts and which conditions hold are compared: numbers of two trainings differ anyway.

    Raises
    ------
    NamedError
        If the ledgers do not judge the same claims.
    """
    ours, theirs = first["claims"], second["claims"]
    if lacking := sorted({*ours} ^ {*theirs}):
        raise NamedError(f"ledgers: {', '.join(lacking)} in one of two alone; run notebook 08 of both profiles again")
    found = []
    for name, claim in ours.items():
        conditions = [own.get("conditions", {}) for own in (claim, theirs[name])]
        held = [{key: bool(condition["holds"]) for key, condition in own.items()} for own in conditions]
        keys = dict.fromkeys((*held[0], *held[1]))
        pairs = {key: (held[0].get(key), held[1].get(key)) for key in keys}
        differ = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        found.append(VerdictChange(name, str(claim["verdict"]), str(theirs[name]["verdict"]), differ))
    return found


def describe_verdicts(found: Sequence[VerdictChange]) -> str:
    """Return one sentence: how many verdicts change, and which."""
    changed = [change for change in found if change.differs]
    words = "; ".join(change.describe() for change in changed)
    return f"{len(changed)} of {len(found)} verdicts change{f': {words}' if words else ''}"
