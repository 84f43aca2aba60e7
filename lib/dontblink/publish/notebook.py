"""Run one notebook: the .py source with a section's parameters, into results/<profile>/notebooks.

Why it exists: a notebook must run the same way from make, from a test and in Lab, with parameters that cannot be
misspelt. In: a jupytext py:percent file, the JSON of its section, the profile. Out: the executed .ipynb, one line at
its end (in a terminal a bar until then), and whatever the notebook itself records; on failure one line that says where
to look. A study may lack what some cells are about: those tagged `needs_boxes` are left out of the run where no cell of
the study (model x benchmark) has enough items with measured evidence, so that a notebook does not ask at every step;
all that a later cell without the tag reads has to be made without it. The kernel is the running interpreter, with the
arithmetic that the profile asks for. A notebook that has not come to its end leaves a mark, and runs again. Never write
beside the source (its age is a build input), and never let a parameter pass that the notebook does not declare, or one
that it declares and nobody gives.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupytext
import papermill
import pyarrow.parquet as pq
from nbformat import NotebookNode
from papermill.exceptions import PapermillException, PapermillExecutionError

from dontblink import arithmetic, files, params, paths
from dontblink.errors import NamedError, as_command
from dontblink.schema import read_tables
from dontblink.studies.cells import EVIDENCE, find_cells, size_evidence
from dontblink.studies.need import is_measured

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
TAG = "parameters"
SHARED = ("extraction",)  # sections of a stage: their notebook is given only what its cell declares
# of cells that are left out where there are none, see `leave_out`
BOXED, CAUSAL, MONITOR = "needs_boxes", "needs_effects", "needs_monitor"
HIDDEN = "remove-cell"  # the declared defaults: the injected values beside them are the ones that count


def read_source(source: Path) -> NotebookNode:
    """Return the notebook of a py:percent file, with a complete kernelspec; the file itself is only read."""
    if not source.is_file():
        raise NamedError(f"{paths.show(source)}: not there; give a file of notebooks/")
    notebook: NotebookNode = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata.pop("jupytext", None)  # the executed copy is no pair of the source
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"  # instead of a random one
    return notebook


def find_parameters_cell(notebook: NotebookNode, name: str) -> NotebookNode:
    """Return the one cell with the tag `parameters`."""
    tagged: list[NotebookNode] = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NamedError(f'{name}: {len(tagged)} cells tagged {TAG!r}, expected one: # %% tags=["parameters"]')
    return tagged[0]


def read_defaults(cell: NotebookNode, name: str) -> dict[str, Any]:
    """Return the names and literal values that a parameters cell declares, with or without a type annotation."""
    defaults: dict[str, Any] = {}
    for statement in ast.parse(cell.source).body:
        where = f"{name}: parameters cell, line {statement.lineno}"
        match statement:
            case ast.Assign([ast.Name(key)], value) | ast.AnnAssign(ast.Name(key), value=ast.expr() as value):
                pass
            case _:
                raise NamedError(f"{where}: expected only `name = value`; move the rest to the setup section")
        try:
            defaults[key] = ast.literal_eval(value)
        except ValueError as error:
            raise NamedError(f"{where}: {key} is computed; write a number, a text or a list") from error
    return defaults


def pick_parameters(declared: Iterable[str], values: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """Return what a notebook is given of its section: everything, of a stage's own section what its cell declares."""
    return {key: value for key, value in values.items() if key in declared or stem.partition("_")[2] not in SHARED}


def check_parameters(defaults: dict[str, Any], given: dict[str, Any], name: str, origin: str) -> None:
    """Raise NamedError unless the cell declares exactly the given parameters, with the same types."""
    for key in sorted(given.keys() - defaults.keys()):
        raise NamedError(f"{name}: parameters cell lacks {key}, which {origin} holds; add a line for it")
    for key in sorted(defaults.keys() - given.keys()):
        raise NamedError(f"{name}: unknown parameter {key}, not in {origin}; add it to params/ or remove its line")
    for key, value in given.items():
        if not _same_kind(defaults[key], value):
            kinds = f"{type(defaults[key]).__name__} {defaults[key]!r}, {origin} holds {type(value).__name__} {value!r}"
            raise NamedError(f"{name}: parameter {key} is declared as {kinds}; make them agree")


def _same_kind(declared: Any, given: Any) -> bool:
    if isinstance(declared, list | tuple) and isinstance(given, list):
        return not declared or all(_same_kind(declared[0], entry) for entry in given)
    return type(declared) is type(given) or (type(declared) is float and type(given) is int)


def leave_out(notebook: NotebookNode, profile: str, parameters: Mapping[str, Any]) -> None:
    """Take out the cells of which the study lacks what their tag names.

    `needs_boxes`: a cell of the study has enough items with measured evidence, that is the notebook's own `min_items`
    with a token in the first and in the last of its `bins`. `needs_effects`: the causal study has been run.
    `needs_monitor`: need is measured in the second set, by the same models (`studies.need.is_measured`).
    """

    def has_boxes() -> bool:
        items = read_tables(profile, ["items"], split="test")["items"]
        boxed = items[size_evidence(items) == EVIDENCE[0]]
        return bool(find_cells(boxed, parameters["bins"], parameters["min_items"]))

    def has_effects() -> bool:
        file = paths.causal(profile) / "effects.parquet"
        return file.is_file() and pq.read_metadata(file).num_rows > 0

    def has_needs() -> bool:
        return is_measured(profile, parameters["second_profile"])

    for tag, is_there in ((BOXED, has_boxes), (CAUSAL, has_effects), (MONITOR, has_needs)):
        kept = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", [])]
        if len(kept) < len(notebook.cells) and not is_there():
            notebook.cells = kept


def offer_kernel(folder: Path) -> None:
    """Make this interpreter the kernel `python3`, ahead of any that the machine or its user installed."""
    spec = folder / "kernels" / KERNEL["name"]
    quiet = "--IPKernelApp.log_level=CRITICAL"  # of its transport, and of an interrupt at its end, which help nobody
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
    content = {"argv": command, "display_name": KERNEL["display_name"], "language": KERNEL["language"]}
    files.write_text(spec / "kernel.json", json.dumps(content, indent=1))
    earlier = [part for part in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if part]
    # What loading libraries would print into a page that is read: bars, and a hint about a missing widget.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(dict.fromkeys([str(folder), *earlier]))


@contextmanager
def begin(stem: str, profile: str) -> Iterator[None]:
    """Mark a notebook as unfinished until the block ends well, and keep extractions and a second run of it away.

    What an earlier run of it recorded is removed: this one may record less.
    """
    with files.hold(paths.lock(profile), shared=True), files.hold(paths.lock(profile, stem)):
        with files.whole_file(paths.unfinished(profile, stem)) as mark:
            mark.touch()
        folder = paths.outputs(profile)
        for file in [*folder.glob(f".{stem}*.tmp"), *(f for f in folder.glob(f"{stem}*") if files.belongs(f, stem))]:
            file.unlink(missing_ok=True)  # the first are of a run that was killed
        yield
        paths.unfinished(profile, stem).unlink(missing_ok=True)


def run_notebook(source: Path, parameters: dict[str, Any], profile: str, origin: str = "the caller") -> Path:
    """Execute a py:percent file with the values of a section, which `origin` names, and return the executed copy.

    Raises
    ------
    NamedError
        If the parameters do not fit or a cell fails (the executed copy then shows how far it came); if an extraction or
        the same notebook is running; if a file cannot be written.
    """
    name = paths.show(source.resolve())
    notebook = read_source(source)
    cell = find_parameters_cell(notebook, name)
    declared = read_defaults(cell, name)
    given = {"profile": profile} | pick_parameters(declared, parameters, source.stem)
    check_parameters(declared, given, name, origin)
    cell.metadata["tags"] = [TAG, HIDDEN]
    leave_out(notebook, profile, given)
    target = paths.notebooks(profile) / f"{source.stem}.ipynb"
    started = time.perf_counter()
    number = int(source.stem[:2]) if source.stem[:2].isdigit() else 0
    bar = {"desc": source.stem, "position": number, "leave": False} if sys.stderr.isatty() else False
    with begin(source.stem, profile), files.writable(target):
        offer_kernel(target.parent / ".jupyter")
        try:
            papermill.execute_notebook(
                notebook, str(target), parameters=given, kernel_name=KERNEL["name"],
                cwd=str(paths.ROOT), progress_bar=bar, log_output=False,
            )  # fmt: skip
        except (PapermillException, RuntimeError) as error:  # nbclient reports a dead kernel as a RuntimeError
            reason = str(error)
            if isinstance(error, PapermillExecutionError):
                reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
            raise NamedError(f"{name}: {reason}; see {paths.show(target)}") from error
    print(f"{source.stem}: done in {time.perf_counter() - started:.0f} s", flush=True)
    return target


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Run a notebook: `python -m dontblink.publish.notebook notebooks/02_collapse.py --params FILE --profile NAME`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.notebook", description=main.__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--params", type=Path, required=True, help="the section's JSON, from dontblink.params")
    parser.add_argument("--profile", default="testbed")
    given = parser.parse_args(arguments)
    values = params.read_values(given.params)
    arithmetic.put(arithmetic.find_settings(params.read_section(given.profile, "arithmetic")["portable"]))
    run_notebook(given.source, values, given.profile, paths.show(given.params.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
