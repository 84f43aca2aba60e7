"""Figures, numbers and tables of a run: the only writer of results/<profile>/figures, with the same bytes on every day.

Why it exists: a tracked figure must change in git only when its content changes, and a number in the paper must be
the number that a notebook computed, at full precision. In: a matplotlib figure, a mapping of numbers or a table, and
the notebook's stem. Out: <stem>.pdf and .png, with one printed line that says in words what the
figure shows (a text typed by hand would soon describe last month's); <stem>.json with the few hundred numbers that the
paper, the ledger and the pages name; <stem>_<name>.csv with whole tables. Importing this module gives the session the
look of dontblink.mplstyle. Never: round here, write a date, say what a figure means (its notebook does), or write a
figure or a number anywhere else.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dontblink import files, paths
from dontblink.errors import NamedError, make_printable
from dontblink.figures.style import STYLE

UNDATED = {"pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")), "png": {"Software": None}}

ENDS = ("_low", "_high")  # of an interval: infinite where too many resamplings of a few items have no value; left out

plt.style.use(STYLE)


def describe_figure(figure: Figure) -> str:
    """Return one line that says what a figure shows: its panels, axes, legend entries and colour bars.

    A text that several panels share is said once, in the order in which the panels were made.
    """
    drawn = [ax for ax in figure.axes if ax.axison or ax.get_title()]
    bars = [ax for ax in drawn if ax.get_label() == "<colorbar>"]
    panels = [ax for ax in drawn if ax not in bars]
    legends = [*figure.legends, *(legend for ax in panels if (legend := ax.get_legend()) is not None)]
    parts = {
        "": [figure.get_suptitle()],
        "titles": [ax.get_title(loc) for ax in panels for loc in ("left", "center", "right")],
        "horizontally": [figure.get_supxlabel(), *(ax.get_xlabel() for ax in panels)],
        "vertically": [figure.get_supylabel(), *(ax.get_ylabel() for ax in panels)],
        "legend": [text.get_text() for legend in legends for text in (legend.get_title(), *legend.get_texts())],
        "colour": [text for ax in bars for text in (ax.get_ylabel(), ax.get_xlabel())],
    }
    said = [f"{name}: {words}" if name else words for name, texts in parts.items() if (words := _join(texts))]
    return f"{len(panels)} panel{'' if len(panels) == 1 else 's'}. {'; '.join(said)}".rstrip()


def _join(texts: Iterable[str]) -> str:
    whole = dict.fromkeys(make_printable(" ".join(text.split()).replace(r"\$", "$")) for text in texts)
    return ", ".join(text for text in whole if text and text != "None")


def check_stem(stem: str) -> str:
    """Return the stem; raise NamedError unless it starts like its notebook, NN_name."""
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", stem):
        raise NamedError(f"stem {stem!r}: expected the notebook's, as 02_collapse or 02_collapse_steps")
    return stem


def save_figure(figure: Figure, stem: str, profile: str) -> list[Path]:
    """Write a figure as PDF (fonts embedded as TrueType) and PNG, byte for byte reproducible; return both files.

    One printed line says what the figure shows: the pages and a screen reader have no other text for it.
    """
    check_stem(stem)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # the embedded fonts carry a date that only this variable holds still
    try:
        with plt.style.context(STYLE):
            for suffix, metadata in UNDATED.items():
                drawn = io.BytesIO()  # on a full disk matplotlib would say something else than that
                figure.savefig(drawn, format=suffix, metadata=metadata)
                files.write_bytes(paths.outputs(profile) / f"{stem}.{suffix}", drawn.getvalue())
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
        if epoch is not None:
            os.environ["SOURCE_DATE_EPOCH"] = epoch
    print(f"{stem}: {describe_figure(figure)}")
    return [paths.outputs(profile) / f"{stem}.{suffix}" for suffix in UNDATED]


def save_table(stem: str, name: str, table: pd.DataFrame, profile: str) -> Path:
    """Write a whole table as <stem>_<name>.csv, every float with the digits that give it back exactly.

    Columns say their units (`entropy_nats`); of an index only named levels are written, as columns. A missing value is
    an empty field.

    Raises
    ------
    NamedError
        If there are no rows, a column has no name or that of another, or a number but an interval's end is infinite.
    """
    where = f"{check_stem(f'{stem}_{name}')}.csv"
    plain = table.reset_index([level for level in table.index.names if level is not None]).reset_index(drop=True)
    columns = [str(column) for column in plain]
    if plain.empty or len({*columns} - {""}) < len(columns):
        found = f"{len(plain)} rows, columns {', '.join(columns) or 'none'}"
        raise NamedError(f"{where}: {found}; a table has rows, and columns with different names")
    plain = plain.astype({c: np.float64 for c, kind in plain.dtypes.items() if kind == np.float32})
    numbers = plain.select_dtypes("float")
    ends = [name for name in numbers if str(name).endswith(ENDS)]
    plain[ends] = numbers[ends].where(np.isfinite(numbers[ends]))
    numbers = plain[numbers.columns]
    if (wrong := np.isinf(numbers).any()).any():
        raise NamedError(f"{where}: column {wrong.idxmax()} holds an infinity; find out why, or leave the row out")
    file = paths.outputs(profile) / where
    files.write_text(file, plain.to_csv(index=False, lineterminator="\n"))
    return file


QUANTITY = ("measure", "rows", "model", "benchmark", "vision", "adjustment", "method", "value")


def save_quantities(stem: str, tables: Sequence[pd.DataFrame], profile: str) -> Path:
    """Write published values with what they are values of, as <stem>_quantities.csv.

    Parameters
    ----------
    tables : of the columns `QUANTITY`: what was measured, over which rows (split and selection), of which model and
        benchmark or task type ("all" for several), with which vision and adjustment ("" for none), by which method.
        Two values of one quantity, from two methods or two notebooks, must be equal: a test compares them.

    Raises
    ------
    NamedError
        If a column is missing, or one method gives a quantity twice.
    """
    table = pd.concat(tables, ignore_index=True)
    if missing := set(QUANTITY) - set(table):
        raise NamedError(f"{stem}_quantities: no column {', '.join(sorted(missing))}; expected {', '.join(QUANTITY)}")
    table = table[[*QUANTITY]].dropna(subset=["value"]).astype(dict.fromkeys(QUANTITY[:-1], "str"))
    if (twice := table.duplicated([*QUANTITY[:-1]])).any():
        found = ", ".join(table[twice].iloc[0, :-1])
        raise NamedError(f"{stem}_quantities: {found} stands there twice; name the method")
    return save_table(stem, "quantities", table, profile)


def to_plain(value: Any, key: str) -> Any:
    """Return a number, text, truth value, list or mapping as JSON holds it, unrounded; `key` is where it stands.

    Raises
    ------
    NamedError
        If there is NaN, nothing, an infinity that is no interval's end, or something that is no number.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NamedError(f"{key} is {value}; find out why, or leave the key out where it has no value")
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not name.strip():
                raise NamedError(f"{key}: key {name!r}; expected a text that says what it holds, with its unit")
        bounded = {k: v for k, v in value.items() if not (k.endswith(ENDS) and isinstance(v, float) and math.isinf(v))}
        return {str(name): to_plain(entry, f"{key}.{name}") for name, entry in bounded.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry, f"{key}.{index}") for index, entry in enumerate(value)]
    found = type(value).__name__
    raise NamedError(f"{key}: found {value!r} ({found}); give a number, a text, a list or a mapping of them")


def save_numbers(stem: str, numbers: Mapping[str, Any], profile: str) -> Path:
    """Write a notebook's numbers as JSON, keys sorted, floats with every digit that they have.

    A name that says the unit (`entropy_nats`) needs no look into the notebook.
    """
    file = paths.outputs(profile) / f"{check_stem(stem)}.json"
    if not numbers:
        raise NamedError(f"{paths.show(file)}: no numbers; a notebook records at least one")
    try:
        plain = {name: to_plain(numbers[name], str(name)) for name in to_plain(dict.fromkeys(numbers, 0), "numbers")}
    except NamedError as error:
        raise NamedError(f"{paths.show(file)}: {error}") from error
    text = json.dumps(plain, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    files.write_text(file, text + "\n")
    return file


def nest(table: pd.DataFrame, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return a tidy table as nested mappings, one level a key column, the other columns as the innermost one.

    A missing value stops `save_numbers`, except in the `optional` columns, which not every row has: it is left out
    there. Two rows with the same keys are a NamedError.
    """
    nested: dict[str, Any] = {}
    for row in table.to_dict("records"):
        names = [str(row.pop(key)) for key in keys]
        level = nested
        for name in names[:-1]:
            level = level.setdefault(name, {})
        if names[-1] in level:
            raise NamedError(f"two rows for {' / '.join(names)}; {', '.join(keys)} must tell all rows apart")
        level[names[-1]] = {str(key): value for key, value in row.items() if key not in optional or pd.notna(value)}
    return nested
