"""Whatever is wrong with an input, it is used, refused in one line that says how to go on, or left out with a reason.

The fast part of `bad_input_campaign`: some of every kind's known bad inputs, and a few drawn ones.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import Kind, Ledger, Rows, find_fault, judge, run
from bad_input_campaign import KINDS, summarize
from bad_input_images import FORMATS, ODD, bomb, use
from hypothesis import strategies as st

from dontblink.questions.items import ItemError, open_image

ROOT = Path(__file__).resolve().parents[1]
N_KNOWN, N_DRAWN = 40, 12


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bad_input_is_used_or_named_and_never_a_traceback_or_a_silent_drop(kind: Kind, tmp_path: Path) -> None:
    step = max(1, len(kind.corpus) // N_KNOWN)
    short = Kind(kind.name, kind.use, kind.inputs, [value for value in kind.corpus[::step] if len(str(value)) < 50_000])
    ledger = Ledger()
    run([short], N_DRAWN, 1, tmp_path, ledger)
    assert not ledger.failures, "\n".join(ledger.failures)
    assert ledger.counts.total() >= min(N_KNOWN, len(kind.corpus)) // 2


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_picture_of_any_mode_turn_and_format_comes_through_from_end_to_end(name: str, tmp_path: Path) -> None:
    use(FORMATS[name], tmp_path)


@pytest.mark.parametrize("name", sorted(set(ODD) - {"1x1", "1x2", "bomb 20000x200", "bad exif", "trailing"}))
def test_what_is_no_picture_is_named_with_its_item(name: str, tmp_path: Path) -> None:
    verdict, message = judge(lambda: use(ODD[name], tmp_path))
    assert verdict == "named error" and message.startswith("item q1: ") and ";" in message, message


def test_a_decompression_bomb_costs_neither_memory_nor_time() -> None:
    content = bomb(40_000, 40_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(content) < 1_000_000
    with pytest.raises(ItemError, match=r"not a readable image|scale it down"):
        open_image(content)
    with pytest.raises(ItemError, match=r"12000x12000 px are 144000000, expected at most 64000000; scale it down"):
        open_image(ODD["bomb 12000x12000"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_sixteen_bits_keep_their_range() -> None:
    assert open_image(FORMATS["16 bit"]).getextrema() == ((0, 255),) * 3


def test_a_format_that_runs_a_program_is_not_opened() -> None:
    with pytest.raises(ItemError, match="none of PNG, JPEG"):
        open_image(ODD["eps"])


def test_every_error_class_that_may_quote_an_input_is_one_printable_line() -> None:
    """Read from the sources, so that a class which nobody raises here counts as well."""
    for path in (ROOT / "lib" / "dontblink").rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("class ") and "Error(" in line and path.stem != "messages":
                bases = line.partition("(")[2]
                assert bases.startswith(("NamedError", "StoreError)")), (
                    f"{path.name}: {line}"
                )


def test_the_judge_finds_what_it_looks_for() -> None:
    def fail(error: BaseException) -> Rows | None:
        raise error

    assert judge(lambda: None) == ("accepted", "")
    assert judge(lambda: fail(KeyError("x")))[0] == "traceback"
    assert judge(lambda: fail(ItemError("item x: no; remove it")))[0] == "named error"
    assert judge(lambda: Rows(3, 1, ["a reason"]))[0] == "silent drop"
    assert judge(lambda: Rows(2, 1, ["two\nlines"]))[0] == "message"
    assert judge(lambda: Rows(2, 1, ["a reason"])) == ("quarantined", "a reason")
    assert find_fault("") and find_fault("a\x1bb") and find_fault("a\u2028b") and not find_fault("a — b")


def test_the_campaign_counts_and_fails_on_a_traceback(tmp_path: Path) -> None:
    def use_one(value: int, folder: Path) -> Rows | None:
        if value == 3:
            raise KeyError(value)
        return Rows(1, 0, ["odd"]) if value % 2 else None

    ledger = Ledger()
    run([Kind("numbers", use_one, st.just(0), [0, 1, 2, 3])], 0, 1, tmp_path, ledger)
    line = "4 bad inputs (numbers 4): accepted 2, named errors 0, quarantined 1, tracebacks 1, silent drops 0"
    assert summarize(ledger) == line and "KeyError" in ledger.failures[0] and "input: 3" in ledger.failures[0]


def test_params_tags_run_no_code(tmp_path: Path) -> None:
    file = tmp_path / "testbed.yaml"
    file.write_text(f"profile: !!python/object/apply:os.system ['touch {tmp_path}/canary']\n")
    done = subprocess.run(
        [sys.executable, "-m", "dontblink.params", str(file), "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not (tmp_path / "canary").exists()
