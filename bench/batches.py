"""How much faster is generation in batches? Items per CPU second of the local engine by batch size, over batch 1.

No bar: the numbers say which `batch_size` in params/ is worth its memory. Real work: a shipped checkpoint of the
testbed answers items of its three benchmarks at the difficulty of params/testbed.yaml, greedily and to the end; the
engine orders them by expected length, and rows that have ended wait for the longest of their batch.

Run `OMP_NUM_THREADS=1 python bench/batches.py [--items 96] [--checkpoint qwen3vl-tiny-s]`. All sizes are timed in turn;
a ratio is taken within a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import build_parser, judge_pair, read_arguments, time_in_turn, write_results

from dontblink import params, paths
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, generate_responses
from dontblink.questions.items import Item
from dontblink_testbed import benchmark

SIZES = (1, 2, 4, 8, 16, 32)


def draw_items(n_items: int, settings: dict[str, Any]) -> list[Item]:
    """Return `n_items` items, one of each benchmark after the other."""
    n_each = -(-n_items // len(benchmark.BENCHMARKS))
    columns = [
        benchmark.load_items(
            name, "calibration", n_each, settings["item_seed"], benchmark.read_difficulty(name, settings)
        )
        for name in benchmark.BENCHMARKS
    ]
    return [item for row in zip(*columns, strict=True) for item in row][:n_items]


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, items=96, repeats=5)
    parser.add_argument("--checkpoint", default="qwen3vl-tiny-s", help="a folder of models/testbed")
    arguments = read_arguments(parser)
    _, sections = params.load(paths.params_file("testbed"))
    items = draw_items(arguments.items, sections["testbed"])
    vlm = load_vlm(paths.ROOT / "models" / "testbed" / arguments.checkpoint)
    n_tokens = sections["extraction"]["max_new_tokens"]

    def answer(items: list[Item], batch_size: int) -> Callable[[], object]:
        return lambda: list(generate_responses(vlm, items, Sampling(n_tokens), batch_size=batch_size, progress=False))

    answer(items[:4], 2)()  # loads the kernels
    seconds = time_in_turn({str(n): answer(items, n) for n in SIZES}, arguments.repeats, warm_up=False)
    first = seconds[str(SIZES[0])]
    print(f"     batch 1: {len(items) * len(first) / sum(first):.3g} items a CPU second")
    claim = "items per second of local generation in batches of {} / of 1"
    # items / s of a batch over items / s of batch 1 = seconds of batch 1 over seconds of the batch
    results = [judge_pair(claim.format(n), first, seconds[str(n)]) for n in SIZES[1:]]
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
