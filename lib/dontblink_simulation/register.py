"""The register of `make simulate`: which statistic meets which populations, by which methods, and what leads.

Why: the settings of a simulation are its claims, so they stand in one place, to be read and argued with. In: nothing.
Out: STATISTICS. A new statistic is a study function (see `trials`) and an entry here. Never: a setting changed or left
out because of its result; `absent` says why one of the six (iid, clustered, tied, small, null_v, separation) is not
there.

How the leading interval was chosen, written down before the first of these simulations was run: of the intervals that
a quantity has, the one whose coverage lies within 93 to 97 % in more settings leads, in all settings alike; of equals
the one that is nearer to 95 % on average. A coefficient of one model leads with the profile of Firth's likelihood where
the rarer answer (right or wrong) has fewer than 10 rows a fitted coefficient, elsewhere with the symmetric bootstrap-t
(`logit.RARE`). The veto is decided by its permutation tests; the block jackknife of its gain stands beside them, errs
to the wide side by construction, and has no width where the rule never acts: it leads nothing.

small: as many items as notebooks 02 to 04 ask of a cell at least. null: the truth is the null value, so that tests
can be counted. few_errors, separation: about 25 and 10 wrong answers in 250 (interaction: 11 and 4). skewed: E and V
as skewed as in the testbed. testbed: its number of items too, and for AUROCs as few wrong answers as its best cell
has. unequal: scores of wrong answers spread twice as far, which no interval assumes.
"""

from __future__ import annotations

from dontblink_simulation.populations import Answers, Benchmarks, Masses, Scores
from dontblink_simulation.selection import Blind, study_selective, study_veto
from dontblink_simulation.trials import (
    MIN_ITEMS,
    Statistic,
    study_auroc,
    study_collapse,
    study_difference,
    study_interaction,
    study_transfer,
)

_INTERVALS = ("bca", "percentile")
_LOGIT_METHODS = {
    "entropy:vision": ("led", "bca", "percentile", "t", "wald"),
    "effect_difference": _INTERVALS,
}
_VETO_METHODS = {
    **dict.fromkeys(("gain_linear", "gain_veto"), "block_jackknife"),
    **dict.fromkeys(("permutation", "best_cell"), "permutation"),
}

STATISTICS: dict[str, Statistic] = {
    "collapse": Statistic(
        study_collapse,
        {
            "iid": Masses(),
            "clustered": Masses(n_models=3),
            "tied": Masses(step=0.05),
            "small": Masses(n_items=MIN_ITEMS),
            "null": Masses(fall=0.0, dilution=0.0),
            "null_small": Masses(n_items=MIN_ITEMS, fall=0.0, dilution=0.0),
            "testbed": Masses(n_items=1000),
        },
        dict.fromkeys(("evidence", "evidence_over_uniform"), ("bca", "percentile", "t", "signed_rank")),
        {"evidence": "t", "evidence_over_uniform": "t"},
        one_model=("signed_rank",),
        absent={"null_v": "no vision score enters", "separation": "no classes and no fit"},
    ),
    "auroc": Statistic(
        study_auroc,
        {
            "iid": Scores(),
            "clustered": Scores(n_models=3),
            "tied": Scores(step=1.0),
            "small": Scores(n_items=MIN_ITEMS),
            "few_errors": Scores(accuracy=0.9, shift_a=2.0),
            "separation": Scores(accuracy=0.96, shift_a=2.0),
            "null_v": Scores(n_models=3, shift_a=0.0),
            "null_v_small": Scores(n_items=MIN_ITEMS, shift_a=0.0),
            "testbed": Scores(n_items=1000, accuracy=0.9, shift_a=2.0),
            "unequal": Scores(shift_a=1.5, spread=2.0),
            "unequal_few_errors": Scores(accuracy=0.9, shift_a=3.0, spread=2.0),
        },
        {"auroc": ("newcombe", *_INTERVALS)},
        {"auroc": "newcombe"},
        null=0.5,
    ),
    "auroc_difference": Statistic(
        study_difference,
        {
            "iid": Scores(),
            "clustered": Scores(n_models=3),
            "tied": Scores(step=1.0),
            "small": Scores(n_items=MIN_ITEMS),
            "few_errors": Scores(accuracy=0.9, shift_a=2.0, shift_b=1.2),
            "separation": Scores(accuracy=0.96, shift_a=2.0, shift_b=1.2),
            "null": Scores(shift_b=1.0),
            "null_clustered": Scores(n_models=3, shift_b=1.0),
            "null_tied": Scores(step=1.0, shift_b=1.0),
            "null_small": Scores(n_items=MIN_ITEMS, shift_b=1.0),
            "null_few_errors": Scores(accuracy=0.9, shift_a=2.0, shift_b=2.0),
            "null_separation": Scores(accuracy=0.96, shift_a=2.0, shift_b=2.0),
            "null_v": Scores(n_models=3, shift_a=0.0, shift_b=0.0),
            "null_testbed": Scores(n_items=1000, accuracy=0.9, shift_a=2.0, shift_b=2.0),
            "null_unequal": Scores(shift_a=1.5, shift_b=1.5, spread=2.0),
            "null_unequal_few_errors": Scores(accuracy=0.9, shift_a=3.0, shift_b=3.0, spread=2.0),
        },
        {"difference": ("mover", "bca", "percentile", "obuchowski", "delong_pooled")},
        {"difference": "mover"},
        several_models=("delong_pooled",),
    ),
    "interaction": Statistic(
        study_interaction,
        {
            "iid": Answers(),
            "clustered": Answers(n_models=3, difficulty_sd=1.2),
            "skewed": Answers(n_models=3, difficulty_sd=1.2, skew=0.6),
            "tied": Answers(step=1.0),
            "small_50": Answers(n_items=50),
            "null_v_one_model": Answers(vision=0.0, interaction=0.0),
            "null_v": Answers(n_models=3, difficulty_sd=1.2, vision=0.0, interaction=0.0),
            "null_v_skewed": Answers(n_models=3, difficulty_sd=1.2, skew=0.6, vision=0.0, interaction=0.0),
            "null_v_small": Answers(n_items=MIN_ITEMS, vision=0.0, interaction=0.0),
            "null_v_small_50": Answers(n_items=50, vision=0.0, interaction=0.0),
            "few_errors": Answers(constant=3.5, vision=0.0, interaction=0.0),
            "separation": Answers(constant=4.5, vision=0.0, interaction=0.0),
            "testbed": Answers(n_items=1000, n_models=3, difficulty_sd=1.2, skew=0.6),
        },
        _LOGIT_METHODS,
        {"entropy:vision": "led", "effect_difference": "percentile"},
        absent={
            "small": "null_v_small, so that its tests count too",
            "effect_difference": "refused by the library (`LogitBootstrap.derive`) where the rarer answer of one model "
            "has fewer than 10 rows a coefficient: small_50, few_errors, separation, small nulls show counts alone",
        },
    ),
    "transfer": Statistic(
        study_transfer,
        {"clustered": Benchmarks(n_items=100, n_models=2)},
        {"gain": ("bca_fixed_fit", "percentile_refit")},
        {"gain": "percentile_refit"},
        averaged=("percentile_refit",),
        absent={
            "iid": "one model: the easier case, and a refit costs more than any other study",
            "tied": "the scores of a rule are AUROC scores: see auroc_difference",
            "small": "as auroc_difference; a fit on 20 items is not reported as a result",
            "null_v": "a rule with useless vision loses on average: its gain has no null value",
            "separation": "see interaction and auroc_difference",
        },
    ),
    "selective": Statistic(
        study_selective,
        {"iid": Scores(), "tied": Scores(step=1.0), "small": Scores(n_items=MIN_ITEMS)},
        {"aurc": ("bca",), "risk": ("bca",)},
        {"aurc": "bca", "risk": "bca"},
        averaged=("bca",),
        absent={
            "clustered": "a table of cells, and in a cell an item has one row",
            "null_v": "a risk has no null value",
            "separation": "nothing is fitted",
        },
    ),
    "veto": Statistic(
        study_veto,
        {
            "iid": Blind(),
            "clustered": Blind(n_models=3),
            "tied": Blind(step=0.5),
            "small_60": Blind(n_items=60),
            "null_v": Blind(n_models=3, danger=0.0),
            "null_v_small_60": Blind(n_items=60, danger=0.0),
        },
        {name: (method,) for name, method in _VETO_METHODS.items()},
        dict.fromkeys(("permutation", "best_cell"), "permutation"),
        averaged=("block_jackknife",),
        absent={
            "small": "the notebook asks 150 items of a cell; small_60 shows why",
            "separation": "see interaction; separated halves are fitted by Firth and counted",
        },
    ),
}
