"""A fitted monitor: from what the tokens of a response show so far, the probability that its answer is wrong.

Why it exists: a warning is worth something while a response is written, so everything at a token uses that token and
those before it, and there is one way to compute it: the same steps run behind `generate`, behind a finished response,
and behind the replayed responses that the monitor is fitted and evaluated on. In: the entropy and the mass on the whole
image of each token, and numbers fitted elsewhere, as a small JSON. Out: a row a token: need, risk, whether it is blind,
and whether the monitor knows such a response at all. Never: a box, a benchmark's name, or a fit.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from dontblink.errors import NamedError
from dontblink.files import read_json, write_text
from dontblink.paths import show

FEATURES = "mean_entropy_z", "largest_entropy_z", "mean_visual_z", "visual_change_z"  # see `first_features`
RISK_TERMS = "mean_entropy_z", "look_z", "need", "need_look_z", "log_n_tokens"  # see `risk_terms`
COLUMNS = "mean_entropy_nats", "look_mass", "need", "risk", "is_blind", "in_domain"
REMEDY = "make it anew with notebooks/07_monitor.py, or name a file that Monitor.save wrote"
Four = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


@dataclass(frozen=True)
class Scale:
    """Mean and spread (standard deviation) of a signal over the calibration tokens of a model."""

    mean: FiniteFloat
    spread: Annotated[FiniteFloat, Field(gt=0)]

    def standardise(self, value: Any) -> Any:
        """Return the z-score of a value, or of an array of them."""
        return (value - self.mean) / self.spread


@dataclass(frozen=True)
class Signals:
    """The scales of the two signals of a token: its entropy, and the mean mass of all heads on the whole image."""

    entropy_nats: Scale
    visual_mass: Scale


@dataclass(frozen=True)
class Known:
    """A model of the calibration; a model of the same type and size is taken for it, a later version of it too."""

    model_type: str
    n_parameters: PositiveInt
    signals: Signals


@dataclass(frozen=True)
class Line:
    """A logistic line: P = 1 / (1 + exp(-(intercept + weights . terms)))."""

    weights: tuple[FiniteFloat, ...]
    intercept: FiniteFloat

    def read(self, terms: Sequence[float]) -> float:
        """Return the probability at the terms."""
        logit = self.intercept + sum(weight * term for weight, term in zip(self.weights, terms, strict=True))
        return 0.5 + 0.5 * math.tanh(0.5 * logit)  # of any logit, without overflow


@dataclass(frozen=True)
class Stage:
    """What the first n tokens say of the need to look: a line of `FEATURES`, and where calibration had each feature.

    `low` and `high` are its 1 % and 99 % quantiles.
    """

    n_tokens: Annotated[int, Field(ge=2)]
    weights: Four
    intercept: FiniteFloat
    low: Four
    high: Four


@dataclass(frozen=True)
class Monitor:
    """A fitted monitor and the domain that it was calibrated on; `follow` says what it makes of a response.

    Attributes
    ----------
    stages : the lines of need, by growing number of tokens
    risk : the line of `RISK_TERMS`
    sure, least_look, least_need : a token is blind where the mean entropy so far (z) <= `sure`, the mean mass of the
        last `window_tokens` tokens (z) < `least_look`, and the need >= `least_need`
    models, pooled : the calibration's models by name, and the scales for any other
    benchmarks, n_items : what else was calibrated on
    """

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    risk: Line
    sure: FiniteFloat
    least_look: FiniteFloat
    least_need: FiniteFloat
    models: Mapping[str, Known]
    pooled: Signals
    benchmarks: tuple[str, ...]
    n_items: int
    window_tokens: PositiveInt = 8

    def follow(self, entropy_nats: ArrayLike, visual_mass: ArrayLike, model: str | None = None) -> pd.DataFrame:
        """Return a row a token of a response, from that token and those before it alone.

        Parameters
        ----------
        entropy_nats, visual_mass : float [T], as `Gaze.table` names them
        model : the name of one of `models`; None is another, which takes the pooled scales and is outside the domain

        Returns
        -------
        DataFrame
            T rows. `mean_entropy_nats` of the tokens so far; `look_mass`, the mean visual mass of the last
            `window_tokens`; `need`, the probability that looking is needed, NaN before the first stage; `risk`, the
            probability that the answer is wrong if it came now, NaN as long; `is_blind`, False as long; `in_domain`,
            whether the model is known and each feature of the stage within its range, False as long.
        """
        follower = Follower(self, model)
        pairs = zip(np.asarray(entropy_nats).tolist(), np.asarray(visual_mass).tolist(), strict=True)
        rows = [follower.push(entropy, visual) for entropy, visual in pairs]
        return pd.DataFrame({name: [row[name] for row in rows] for name in COLUMNS})

    def name_model(self, model: Any) -> str | None:
        """Return which of `models` a loaded model is, by its type and its number of parameters; None if it is none."""
        own = model.config.model_type, model.num_parameters()
        names = (name for name, known in self.models.items() if (known.model_type, known.n_parameters) == own)
        return next(names, None)

    def describe_domain(self) -> str:
        """Return what the monitor was calibrated on, in one line."""
        return f"{', '.join(self.models)} on {', '.join(self.benchmarks)} ({self.n_items} items)"

    def save(self, path: Path | str) -> None:
        """Write the monitor as JSON, which `load_monitor` reads; ValueError where a number is none."""
        write_text(Path(path), json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")


class Follower:
    """The state of a monitor behind the tokens of one response, so that a token costs the same wherever it stands."""

    def __init__(self, monitor: Monitor, model: str | None = None) -> None:
        self.monitor, self.is_known = monitor, model is not None
        self.scales = monitor.pooled if model is None else monitor.models[model].signals
        self.stages = {stage.n_tokens: stage for stage in monitor.stages}
        self.first: list[tuple[float, float]] = []  # z-scores, up to the last stage
        self.last = deque[float](maxlen=monitor.window_tokens)
        self.n_tokens, self.entropy_nats = 0, 0.0  # the latter: their sum
        self.need, self.in_domain = math.nan, False

    def push(self, entropy_nats: float, visual_mass: float) -> dict[str, float]:
        """Take the next token; return its row, named as `COLUMNS`."""
        entropy, visual = self.scales.entropy_nats, self.scales.visual_mass
        self.n_tokens += 1
        self.entropy_nats += entropy_nats
        self.last.append(visual_mass)
        if self.n_tokens <= self.monitor.stages[-1].n_tokens:
            self.first.append((entropy.standardise(entropy_nats), visual.standardise(visual_mass)))
            if self.n_tokens in self.stages:
                self.reach(self.stages[self.n_tokens])
        mean, look = self.entropy_nats / self.n_tokens, sum(self.last) / len(self.last)
        mean_z, look_z = entropy.standardise(mean), visual.standardise(look)
        risk, is_blind = math.nan, False
        if self.n_tokens >= self.monitor.stages[0].n_tokens:
            risk = self.monitor.risk.read(risk_terms(mean_z, look_z, self.need, math.log(self.n_tokens)))
            sure = mean_z <= self.monitor.sure
            is_blind = sure and look_z < self.monitor.least_look and self.need >= self.monitor.least_need
        return dict(zip(COLUMNS, (mean, look, self.need, risk, is_blind, self.in_domain), strict=True))

    def reach(self, stage: Stage) -> None:
        """Take what a stage says from its last token on."""
        entropy_z, visual_z = np.array(self.first).T[:, None]
        features = first_features(entropy_z, visual_z)[0].tolist()
        self.need = Line(stage.weights, stage.intercept).read(features)
        inside = (low <= x <= high for low, x, high in zip(stage.low, features, stage.high, strict=True))
        self.in_domain = self.is_known and all(inside)


def first_features(entropy_z: NDArray[np.float64], visual_z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `FEATURES` of the first n tokens of N responses, float64 [N, 4], from their z-scored signals [N, n].

    They are the mean entropy, the largest entropy, the mean visual mass, and the visual mass of the second half less
    that of the first (an odd token in the middle belongs to the second).
    """
    half = entropy_z.shape[1] // 2
    change = visual_z[:, half:].mean(1) - visual_z[:, :half].mean(1)
    return np.stack([entropy_z.mean(1), entropy_z.max(1), visual_z.mean(1), change], 1)


def risk_terms(mean_entropy_z: Any, look_z: Any, need: Any, log_n_tokens: Any) -> tuple[Any, ...]:
    """Return `RISK_TERMS` of tokens, numbers or arrays; `log_n_tokens` is log(t + 1) of token t."""
    return mean_entropy_z, look_z, need, need * look_z, log_n_tokens


def load_monitor(path: Path | str) -> Monitor:
    """Return the monitor that `Monitor.save` wrote; NamedError where the file is missing, damaged or another one."""
    file = Path(path)
    content = read_json(file, REMEDY)
    try:
        monitor = TypeAdapter(Monitor).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        found = f"no monitor ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise NamedError(f"{show(file)}: {found}; {REMEDY}") from error
    sizes = [stage.n_tokens for stage in monitor.stages]
    if len(monitor.risk.weights) != len(RISK_TERMS) or sizes != sorted({*sizes}):
        found = f"{len(monitor.risk.weights)} weights of risk and stages of {sizes} tokens"
        raise NamedError(f"{show(file)}: {found}, expected {len(RISK_TERMS)} and growing stages; {REMEDY}")
    return monitor
