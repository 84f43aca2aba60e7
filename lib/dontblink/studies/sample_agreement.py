"""Agreement of a response with others that the same model samples: the strongest baseline that needs no replay.

Why it exists: who praises entropy must show that it says more than asking the model again does. In: the items table of
ONE split and the table of samples. Out: the rows of the items that were asked again, with a score column. Which items
these are is their place in the benchmark and nothing that a model answered, so no row is chosen by its outcome. Never:
count an answer that was not found as one that agrees, or drop a response because it has no answer.
"""

from __future__ import annotations

import pandas as pd

from dontblink.statistics.bootstrap import EstimateError

KEYS = ["model", "benchmark", "split", "item_id"]
AGREEMENT = "sample_agreement"


def join_agreement(items: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `items` that were sampled, with the columns `sample_agreement` and `n_samples`.

    For a response whose strictly parsed prediction is a, and the K samples a_k of its item by the same model, it is
    (1/K) sum_k [a_k = a], in 0 to 1 (self-consistency: Wang et al., 2023); a sample without an answer agrees with none.
    Where the response itself has no answer it is NaN, which `entropy.contrast_scores` ranks last. Answers are compared
    as the scorer writes them.

    Raises
    ------
    EstimateError
        If a sample occurs twice, or no item was sampled.
    """
    if samples.duplicated([*KEYS, "sample_index"]).any():
        raise EstimateError("samples table: a sample of an item occurs twice; keep one row each")
    answers = items[[*KEYS, "prediction", "parsed"]].astype(dict.fromkeys([*KEYS, "prediction"], "str"))
    drawn = samples[[*KEYS, "prediction", "parsed"]].astype(dict.fromkeys([*KEYS, "prediction"], "str"))
    pairs = drawn.merge(answers, on=KEYS, suffixes=("_sampled", ""), validate="m:1")
    if pairs.empty:
        raise EstimateError("no item of this table was sampled; raise extraction.n_sampled_items and extract again")
    agrees = (pairs["prediction_sampled"] == pairs["prediction"]) & pairs["parsed_sampled"]
    share = pairs.assign(agrees=agrees.astype(float).where(pairs["parsed"])).groupby(KEYS)["agrees"]
    found = pd.DataFrame({AGREEMENT: share.mean(), "n_samples": share.size()})
    place = pd.MultiIndex.from_frame(answers[KEYS])
    kept = items[place.isin(found.index)].reset_index(drop=True)
    own = found.loc[place[place.isin(found.index)]]
    return kept.assign(**{name: own[name].to_numpy() for name in found})
