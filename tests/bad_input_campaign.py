"""The bad-input campaign: `python tests/bad_input_campaign.py --inputs 1000 --seed 1`.

Every kind's corpus, and drawn inputs on top of it until there are as many as asked for. Each must end as accepted, as
an error of this package in one printable line, or as rows left out with their reasons; the exit status says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bad_input_boxes
import bad_input_images
import bad_input_params
import bad_input_responses
import bad_input_rows
import bad_input_shards
from bad_input import GOOD, Kind, Ledger, run

KINDS: list[Kind] = [
    kind
    for module in (
        bad_input_params, bad_input_rows, bad_input_boxes, bad_input_images, bad_input_responses, bad_input_shards
    )
    for kind in module.KINDS
]  # fmt: skip


def summarize(ledger: Ledger) -> str:
    """Return the campaign's line."""
    by_kind: dict[str, int] = {}
    for (kind, _), count in ledger.counts.items():
        by_kind[kind] = by_kind.get(kind, 0) + count
    other = sum(
        count for (_, found), count in ledger.counts.items() if found not in (*GOOD, "traceback", "silent drop")
    )
    return (
        f"{ledger.counts.total()} bad inputs ({', '.join(f'{name} {count}' for name, count in by_kind.items())}): "
        f"accepted {ledger.total('accepted')}, named errors {ledger.total('named error')}, "
        f"quarantined {ledger.total('quarantined')}, tracebacks {ledger.total('traceback')}, "
        f"silent drops {ledger.total('silent drop')}" + (f", bad messages or hold-ups {other}" if other else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; return 1 if an input ended in another way than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="at least so many, every kind's corpus among them")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    ledger, n_known = Ledger(), sum(len(kind.corpus) for kind in KINDS)
    drawn = max(20, -(-(given.inputs - n_known) // len(KINDS)))
    with tempfile.TemporaryDirectory() as folder:
        run(KINDS, drawn, given.seed, Path(folder), ledger)
    for failure in ledger.failures:
        print(failure, file=sys.stderr)
    print(summarize(ledger))
    return 1 if ledger.failures or ledger.counts.total() < given.inputs else 0


if __name__ == "__main__":
    sys.exit(main())
