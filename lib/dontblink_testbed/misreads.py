"""How far errors are textual: a wrong answer whose gold reads were all written right went wrong in the text.

In: the stored test responses of a profile whose items have gold steps. Out: a row a response. Never: a judgement of
which read mattered.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dontblink.extraction import study
from dontblink_testbed.benchmark import score


def count_misreads(profile: str, models: Sequence[str], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return, per test response, whether it is correct and whether every gold read is written in it.

    Only items with gold steps (the testbed's) have rows.

    Returns
    -------
    DataFrame with model, benchmark, item_id, correct, reads_right
    """
    own = study.Study(profile)
    rows = []
    for benchmark in benchmarks:
        items = {item.id: item for item in own.items[benchmark, "test"]}
        for model in models:
            for trace in study.iterate_traces(profile, model, benchmark):
                item = items[trace.item_id]
                if not item.gold_steps:
                    continue
                written = {text.strip(" .") for text in trace.step_texts}
                gold = {step.text for step in item.gold_steps if step.kind == "read"}
                rows.append({
                    "model": model, "benchmark": benchmark, "item_id": item.id,
                    "correct": score(item, trace.answer_text).correct, "reads_right": gold <= written,
                })  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "benchmark", "item_id", "correct", "reads_right"])
    return table.astype({"correct": bool, "reads_right": bool})  # also where it is empty
