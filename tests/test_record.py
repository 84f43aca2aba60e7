"""Figures and numbers are written whole, at full precision, and with the same bytes every day."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dontblink import paths
from dontblink.publish import record
from dontblink.publish.record import RecordError

DRAW = """
import sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from pathlib import Path
from dontblink import paths, record
paths.ROOT = Path(sys.argv[1])
figure, ax = plt.subplots()
ax.plot([0, 1, 2], [0.5, 0.25, 0.125], label="β and ∑, $m_i$")
ax.set(xlabel="position (%)", title="two lines")
ax.fill_between([0, 1, 2], 0, 0.1, hatch="//")
ax.legend()
record.save_figure(figure, "02_collapse", "testbed")
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write below a temporary root."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def figure() -> Iterator[Figure]:
    """Return a small figure with text."""
    drawn, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    ax.set_title("evidence mass")
    yield drawn
    plt.close(drawn)


def test_a_figure_has_the_same_bytes_in_another_process_on_another_day(tmp_path: Path) -> None:
    drawn = []
    for day in ("", "86400"):
        folder = tmp_path / f"day{day}"
        environment = os.environ | ({"SOURCE_DATE_EPOCH": day} if day else {})
        subprocess.run([sys.executable, "-c", DRAW, str(folder)], check=True, env=environment)
        files = sorted((folder / "figures" / "testbed").iterdir())
        assert [file.name for file in files] == ["02_collapse.pdf", "02_collapse.png"]
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]
    for content in drawn[0]:
        assert b"Date" not in content and b"matplotlib" not in content.lower()


def test_fonts_are_embedded_as_truetype_and_come_with_matplotlib(figure: Figure) -> None:
    pdf, _ = record.save_figure(figure, "02_collapse", "testbed")
    content = pdf.read_bytes()
    assert b"/FontFile2" in content and b"DejaVuSans" in content
    assert b"/Type3" not in content
    font = Path(mpl.font_manager.findfont("DejaVu Sans"))
    assert font.is_relative_to(mpl.get_data_path())


def test_saving_leaves_the_session_as_it_was(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    with mpl.rc_context({"pdf.fonttype": 3}):
        record.save_figure(figure, "02_collapse", "testbed")
        assert mpl.rcParams["pdf.fonttype"] == 3
    assert os.environ["SOURCE_DATE_EPOCH"] == "7"


def test_importing_record_gives_print_size_and_constrained_layout() -> None:
    with mpl.rc_context():
        mpl.rcdefaults()
        plt.style.use(record.STYLE)
        assert mpl.rcParams["font.size"] == 8
        assert mpl.rcParams["figure.constrained_layout.use"]
    code = "import matplotlib as m; from dontblink import record; print(m.rcParams['font.size'])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(printed) == 8


@pytest.mark.parametrize("stem", ["collapse", "2_collapse", "02_Collapse", "../02_collapse", "02_collapse.pdf"])
def test_a_stem_that_is_no_notebooks_is_refused(figure: Figure, root: Path, stem: str) -> None:
    with pytest.raises(RecordError, match="expected the notebook's"):
        record.save_figure(figure, stem, "testbed")
    with pytest.raises(RecordError, match="expected the notebook's"):
        record.save_numbers(stem, {"n": 1}, "testbed")
    assert not (root / "figures").exists() or not list((root / "figures").rglob("*.*"))


def test_a_failing_save_leaves_the_old_figure(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    pdf, _ = record.save_figure(figure, "02_collapse", "testbed")
    before = pdf.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        record.save_figure(figure, "02_collapse", "testbed")
    assert pdf.read_bytes() == before
    assert len(list(pdf.parent.iterdir())) == 2


def test_numbers_keep_every_digit_and_their_keys_are_sorted(root: Path) -> None:
    third = 1 / 3
    file = record.save_numbers("02_collapse", {"drop": third, "cells": {"b": 2, "a": [1e-17, True]}}, "testbed")
    assert file == root / "figures" / "testbed" / "02_collapse.json"
    assert json.loads(file.read_text()) == {"cells": {"a": [1e-17, True], "b": 2}, "drop": third}
    assert file.read_text().index('"cells"') < file.read_text().index('"drop"')
    assert file.read_text().index('"a"') < file.read_text().index('"b"')


def test_numpy_numbers_and_arrays_are_recorded_as_plain_numbers() -> None:
    numbers = {"n": np.int64(3), "mass": np.float32(0.1), "grid": np.eye(2), "ok": np.bool_(True), "id": np.str_("x")}
    read = json.loads(record.save_numbers("02_collapse", numbers, "testbed").read_text())
    assert read == {"n": 3, "mass": float(np.float32(0.1)), "grid": [[1, 0], [0, 1]], "ok": True, "id": "x"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, -np.inf])])
def test_nan_and_infinity_are_errors_that_name_the_key(root: Path, bad: object) -> None:
    with pytest.raises(RecordError, match=r"testbed/02_collapse.json: cells\.symbolic\.ci_low\S* is -?(nan|inf)"):
        record.save_numbers("02_collapse", {"cells": {"symbolic": {"ci_low": bad}}}, "testbed")
    assert not list(root.rglob("*.json"))


@pytest.mark.parametrize("bad", [None, {1, 2}, pd.Series([1]), {"a": object()}, {1: 2}, {"": 2}])
def test_what_is_no_number_is_refused_by_name(bad: object) -> None:
    with pytest.raises(RecordError, match=r"02_collapse.json: drop"):
        record.save_numbers("02_collapse", {"drop": bad}, "testbed")


@pytest.mark.parametrize("numbers", [{}, {3: 1}])
def test_no_numbers_and_nameless_numbers_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(RecordError, match=r"02_collapse.json: (no numbers|numbers: key 3)"):
        record.save_numbers("02_collapse", numbers, "testbed")


def test_numbers_are_written_again_even_if_equal_so_that_make_sees_it() -> None:
    file = record.save_numbers("02_collapse", {"n": 1}, "testbed")
    os.utime(file, (0, 0))
    record.save_numbers("02_collapse", {"n": 1}, "testbed")
    assert file.stat().st_mtime > 0


def test_a_table_is_nested_by_its_keys() -> None:
    models = pd.Categorical(["m", "s"])
    table = pd.DataFrame({"model": models, "benchmark": "symbolic", "estimate": [0.25, 0.5], "n_items": [3, 4]})
    nested = record.nest(table, ["model", "benchmark"])
    assert nested == {
        "m": {"symbolic": {"estimate": 0.25, "n_items": 3}},
        "s": {"symbolic": {"estimate": 0.5, "n_items": 4}},
    }


def test_a_missing_value_of_a_table_is_noticed_when_it_is_saved() -> None:
    nested = record.nest(pd.DataFrame({"model": ["m"], "p_holm": [float("nan")]}), ["model"])
    with pytest.raises(RecordError, match=r"02_collapse.json: m\.p_holm is nan"):
        record.save_numbers("02_collapse", nested, "testbed")


def test_two_rows_with_the_same_keys_are_an_error() -> None:
    with pytest.raises(RecordError, match="two rows for m"):
        record.nest(pd.DataFrame({"model": ["m", "m"], "n": [1, 2]}), ["model"])


def test_an_optional_column_is_left_out_where_it_has_no_value_and_any_other_stops() -> None:
    table = pd.DataFrame({"rule": ["entropy", "veto"], "gain": [0.0, 0.1], "p": [np.nan, 0.5]})
    nested = record.nest(table, ["rule"], optional=["p"])
    assert nested == {"entropy": {"gain": 0.0}, "veto": {"gain": 0.1, "p": 0.5}}
    assert "p" in record.nest(table, ["rule"])["entropy"]  # for save_numbers to stop at


def test_a_saved_figure_is_described_in_one_printed_line(figure: Figure, capsys: pytest.CaptureFixture[str]) -> None:
    record.save_figure(figure, "02_collapse", "testbed")
    assert capsys.readouterr().out == "02_collapse: 1 panel. titles: evidence mass\n"


def test_a_full_disk_is_said_by_a_figure_and_keeps_the_old_one(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [file.read_bytes() for file in record.save_figure(figure, "02_collapse", "testbed")]
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(paths.PathsError, match="02_collapse.pdf not written: No space left on device; free some space"):
        record.save_figure(figure, "02_collapse", "testbed")
    folder = paths.figures("testbed")
    assert [(folder / f"02_collapse.{suffix}").read_bytes() for suffix in ("pdf", "png")] == before
    assert len(list(folder.iterdir())) == 2
