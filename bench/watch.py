"""What does watching cost? CPU time of `generate` inside `dontblink.watch` / of `generate` alone.

Claims checked (bars in brackets): at width 512 and batch 1 and 8, a picture of 256 tokens and both families, <= 1.05;
with the shipped checkpoints of the testbed, whose layers are so narrow that calls from Python are most of a step, <=
1.08. With a monitor whose rule is asked every eighth token for the eight, <= 1.08 and <= 1.12; asked at every token it
has no bar. In every repeat, the watched tokens must be the plain ones: a difference ends the script.

Run `OMP_NUM_THREADS=1 python bench/watch.py [--width 512] [--layers 8] [--tokens 128]`. Weights at width 512 are
random, because cost does not depend on them, and every response is as long as asked for; the testbed's models answer
items of their benchmarks to the end, one at a time, evidence boxes given. Besides, without a bar: the same with what is
done once a response, before it and behind it, which is much where responses have a few dozen tokens. Plain and watched
runs are timed in turn, a ratio is taken within a turn.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from batches import draw_items
from measure import Result, build_parser, judge_pair, load_tiny_models, read_arguments, write_results

from dontblink import params, paths
from dontblink.models.checkpoints import load_vlm
from dontblink.monitor.gaze import watch
from dontblink.questions.items import open_image, split_question
from dontblink.studies.risk import Known, Line, Monitor, Scale, Signals, Stage

WIDE_BAR, TESTBED_BAR = 1.05, 1.08
WIDE_MONITOR_BAR, TESTBED_MONITOR_BAR = 1.08, 1.12
EVERY = 8, 1
BATCHES, CHECKPOINTS = (1, 8), ("qwen3vl-tiny-s", "glm4v-tiny")
GRID = (16, 16)


def time_both(
    model: Any, inputs: list[dict[str, Any]], repeats: int, watched: list[dict[str, Any]], **options: Any
) -> dict[str, list[float]]:
    """Return CPU seconds of plain and of watched generation from all inputs in turn, and of all that a watch costs.

    `monitored` k is watched generation with a monitor's rule that is asked every k tokens.

    The tokens must be the same. A first round, which loads the kernels, does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", "watched", "whole", *map(name_rule, EVERY))}
    monitor = build_monitor(model)
    for _ in range(repeats + 1):
        round_ = dict.fromkeys(seconds, 0.0)
        for given, more in zip(inputs, watched, strict=True):
            times = [time.process_time()]
            expected = model.generate(**given, **options)
            times.append(time.process_time())
            with watch(model, given, **more) as gaze:
                times.append(time.process_time())
                output = model.generate(**given, **options)
                times.append(time.process_time())
            gaze.read(output)
            times.append(time.process_time())
            if not output.equal(expected):
                raise AssertionError("watched tokens differ from plain ones")
            for name, begin, end in (("plain", 0, 1), ("watched", 2, 3), ("whole", 1, 4)):
                round_[name] += times[end] - times[begin]
            for every_tokens in EVERY:
                with watch(model, given, **more, monitor=monitor) as gaze:
                    rule = gaze.stop_when(lambda row: row["risk"] > 1, every_tokens)
                    begin = time.process_time()
                    output = model.generate(**given, **options, stopping_criteria=[rule])
                    round_[name_rule(every_tokens)] += time.process_time() - begin
                if not output.equal(expected):
                    raise AssertionError("tokens watched with a monitor differ from plain ones")
        for name, value in round_.items():
            seconds[name].append(value)
    return {name: values[1:] for name, values in seconds.items()}


def name_rule(every_tokens: int) -> str:
    """Return the name of watching with a monitor's rule that is asked every so many tokens."""
    return f"monitored {every_tokens}"


def build_monitor(model: Any) -> Monitor:
    """Return a monitor of three stages that knows a model; its cost does not depend on its numbers."""
    signals = Signals(Scale(1.0, 1.0), Scale(0.3, 0.1))
    four = (0.1, 0.2, 0.3, 0.4), 0.0, (-9.0,) * 4, (9.0,) * 4
    return Monitor(
        tuple(Stage(n, *four) for n in (8, 16, 32)), Line((0.1, 0.2, 0.3, 0.4, 0.5), 0.0), 0.0, 0.0, 0.5,
        {"own": Known(model.config.model_type, model.num_parameters(), signals)}, signals, ("bench",), 1,
    )  # fmt: skip


def judge_monitored(claim: str, seconds: dict[str, list[float]], bar: float) -> list[Result]:
    """Return the ratios with a monitor, asked every eighth token against a bar, and at every token without one."""
    return [
        judge_pair(f"{claim}, monitor asked every {k} tokens", seconds[name_rule(k)], seconds["plain"], at_most=most)
        for k, most in zip(EVERY, (bar, None), strict=True)
    ]


def measure_wide(arguments: Any) -> list[Result]:
    """Return the ratios at the width of real heads, with random weights."""
    tiny, results = load_tiny_models(), []
    for family in tiny.FAMILY_NAMES:
        vlm = tiny.build_vlm(
            family, width=arguments.width, n_layers=arguments.layers, n_vocabulary=arguments.vocabulary
        )
        rng = np.random.default_rng(0)
        prompts = [tiny.draw_prompt(rng, f"item {row}", grids=[GRID], n_text=24) for row in range(max(BATCHES))]
        options = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens, "do_sample": False}
        for n in BATCHES:
            inputs = [vlm.collate(prompts[:n], side="left")]
            own = options | {"suppress_tokens": list(vlm.suppressed_ids)}
            seconds = time_both(vlm.model, inputs, arguments.repeats, [{}], **own)
            claim = f"time of watched / plain generation, {family} of width {arguments.width}, batch {n}"
            results.append(judge_pair(claim, seconds["watched"], seconds["plain"], at_most=WIDE_BAR))
            results += judge_monitored(claim, seconds, WIDE_MONITOR_BAR)
    return results


def measure_testbed(arguments: Any) -> list[Result]:
    """Return the ratios of the shipped checkpoints on items of their benchmarks, evidence boxes given."""
    _, sections = params.load(paths.params_file("testbed"))
    results = []
    for name in CHECKPOINTS:
        vlm = load_vlm(paths.ROOT / "models" / "testbed" / name)
        inputs, watched = list[dict[str, Any]](), list[dict[str, Any]]()
        for item in draw_items(arguments.items, sections["testbed"]):
            content = [
                {"type": "image", "image": open_image(item.images[part])} if isinstance(part, int)
                else {"type": "text", "text": part} for part in split_question(item)
            ]  # fmt: skip
            messages = [{"role": "user", "content": content}]
            inputs.append(vlm.collate([vlm.encode_messages(messages)], side="left"))
            watched.append({"boxes": item.boxes, "processor": vlm.processor, "messages": messages})
        options = {"max_new_tokens": sections["extraction"]["max_new_tokens"], "do_sample": False}
        options["suppress_tokens"] = list(vlm.suppressed_ids)
        seconds = time_both(vlm.model, inputs, arguments.repeats, watched, **options)
        claim = f"time of watched / plain generation, {name}, items of its benchmarks"
        results.append(judge_pair(claim, seconds["watched"], seconds["plain"], at_most=TESTBED_BAR))
        results += judge_monitored(claim, seconds, TESTBED_MONITOR_BAR)
        claim = f"{claim}, prompt and boxes prepared and all read"
        results.append(judge_pair(claim, seconds["whole"], seconds["plain"]))
    return results


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, width=512, layers=8, tokens=96, vocabulary=2048, items=12, repeats=9)
    arguments = read_arguments(parser)
    write_results(__file__, [*measure_testbed(arguments), *measure_wide(arguments)], parser, arguments)


if __name__ == "__main__":
    main()
