"""A user's own model and processor: what each token of a response looks at, while it is written or afterwards.

Why it exists: whether a confident answer was blind is a question about one response, not only about a study. Three
lines answer it for any image-text model of transformers that the package can measure; another is refused by name. In: a
model and a processor as the Auto classes load them, chat messages with PIL pictures, and, where evidence is to be told
from the rest of the picture, its boxes in px. Out: a `Gaze` of each response: a table with a row a token, and a picture
of where it looked at each step. Never: an attention mass without the model's own softmax, a box where the image tokens
of a type cannot be placed, or a choice of heads that a test item had a part in (all heads weigh the same here).
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from transformers import StoppingCriteria

from dontblink.attention.replay import REGIONS, replay_responses, weigh_regions
from dontblink.attention.traces import SIDE, paint_steps
from dontblink.attention.trial import try_model
from dontblink.attention.watching import NUMBERS, Watching, watch_generation
from dontblink.errors import NamedError, make_printable
from dontblink.figures.picture import evidence_strip, watched_tokens
from dontblink.figures.style import STYLE
from dontblink.models.families import find_family
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM, Prompt, describe_model, find_placeholders, list_pictures
from dontblink.questions.items import Box
from dontblink.studies.risk import Follower, Monitor

Floats = NDArray[np.float32]
Boxes = Sequence[Box | Sequence[float]]
Rule = Callable[[Mapping[str, float]], bool]
NAMES = *(f"{region}_mass" for region in REGIONS), *NUMBERS
GIVE = "give dontblink.watch the processor and the messages as well"


@dataclass(frozen=True)
class Gaze:
    """What each of the T tokens of one response looked at, over the M image tokens and S steps.

    Attributes
    ----------
    mass : float32 [L, H, T, 8], attention mass of every head on `attention.replay.REGIONS`
    entropy_nats, top20_entropy_nats, log_probability_nats : float32 [T], see `attention.replay.Measures`
    step_map : float32 [S, M], attention to each image token, mean over all heads and the tokens of a step
    spans : its reasoning, answer and steps, as half-open ranges of tokens
    flags : bool [T], where the rule of `Watch.stop_when` held; None without one
    monitor : what tells need and risk of each token; None without one
    """

    vlm: VLM
    prompt: Prompt
    pictures: tuple[Any, ...]
    boxes: tuple[Box, ...] | None
    token_ids: tuple[int, ...]
    spans: Spans
    mass: Floats
    entropy_nats: Floats
    top20_entropy_nats: Floats
    log_probability_nats: Floats
    step_map: Floats
    flags: NDArray[np.bool_] | None = None
    monitor: Monitor | None = None

    def table(self) -> pd.DataFrame:
        """Return a row a token: its text, span and step, its entropies, and the mean mass of all heads on each region.

        `visual_mass` holds the evidence; `evidence_mass` is NaN without boxes. All masses but `evidence_mass` sum to 1.
        A monitor adds the columns of `Monitor.follow`.
        """
        n_tokens = len(self.token_ids)
        span, step = np.full(n_tokens, "marker", "<U9"), np.full(n_tokens, -1)
        span[slice(*self.spans.reasoning)], span[slice(*self.spans.answer)] = "reasoning", "answer"
        for index, (begin, end) in enumerate(self.spans.steps):
            step[begin:end] = index
        columns = {
            "token_index": np.arange(n_tokens), "token_id": self.token_ids,
            "token_text": self.vlm.token_texts(self.token_ids) if self.vlm.tokenizer else [""] * n_tokens,
            "span": span, "step_index": step, "entropy_nats": self.entropy_nats,
            "top20_entropy_nats": self.top20_entropy_nats, "log_probability_nats": self.log_probability_nats,
            **name_masses(self.mass.mean((0, 1)), self.boxes is not None),
        }  # fmt: skip
        table = pd.DataFrame(columns | ({} if self.flags is None else {"flag": self.flags}))
        if self.monitor is None:
            return table
        name = self.monitor.name_model(self.vlm.model)
        return table.join(self.monitor.follow(self.entropy_nats, table["visual_mass"], name))

    def plot(self, figure: Figure | None = None) -> Figure:
        """Draw the picture, its boxes, and the attention to it at each step, on one scale; of several, the most seen.

        NamedError without processor and messages, or where the image tokens of the type cannot be placed.
        """
        if not self.pictures:
            raise NamedError(f"no picture to draw on; {GIVE}")
        shown, painted, grid = paint(self.vlm, self.prompt, self.step_map)
        texts = [self.vlm.decode(self.token_ids[a:b]) for a, b in list_steps(self.spans, len(self.token_ids))]
        boxes = [box for box in self.boxes or () if box.image == shown]
        with plt.style.context(STYLE):
            figure = figure or plt.figure(figsize=(7.2, 1.5 * -(-(len(texts) + 1) // 6)), layout="constrained")
            return evidence_strip(figure, self.pictures[shown], boxes, painted, texts, grid)


@dataclass
class Watch:
    """A generation that is watched, see `watch`; its tables and pictures are there once it has ended."""

    vlm: VLM
    prompts: list[Prompt]
    pictures: tuple[Any, ...]
    boxes: tuple[Box, ...] | None
    starts: NDArray[np.int64]  # [B] where each prompt begins behind its padding
    watching: Watching | None = None
    monitor: Monitor | None = None
    stops: list[_StopWhen] = field(default_factory=list)
    views: list[_Live] = field(default_factory=list)
    rows: list[list[dict[str, float]]] = field(default_factory=list)  # of each token, of each sequence
    followers: list[Follower] = field(default_factory=list)  # of each sequence

    def read(self, output: Any) -> list[Gaze]:
        """Return the `Gaze` of each sequence of what `generate` returned: ids [B, P + T], or its output object."""
        assert self.watching is not None
        ids: Tensor = getattr(output, "sequences", output)[:, self.watching.n_prompt :]
        n_steps = self.watching.n_steps
        seen = self.watching.tokens
        if tuple(ids.shape) != (len(self.prompts), n_steps) or any(
            not torch.equal(ids[:, k].cpu(), own.cpu()) for k, own in enumerate(seen[:n_steps])
        ):
            other = f"output holds {tuple(ids.shape)} new ids, {n_steps} others were watched"
            raise NamedError(f"{other}; give what generate returned inside")
        self.watching.take_tokens(ids[:, -1])
        flags = np.any([stop.ask(ids[:, -1]) for stop in self.stops], 0) if self.stops else None
        found = list[Gaze]()
        for row, prompt in enumerate(self.prompts):
            own = trim(ids[row].tolist(), self.vlm.eos_ids)
            if flags is not None and flags[:, row].any():  # it ended there; what follows fills the batch
                own = own[: int(flags[:, row].argmax()) + 1]
            image, _ = prompt.find_image(self.vlm.image_token_id)
            read = self.watching.read(row, len(own), image + self.starts[row])
            spans = cut(self.vlm, own)
            maps = np.stack([read["attention"][a:b].mean(0) for a, b in list_steps(spans, len(own))])
            flagged = None if flags is None else flags[: len(own), row]
            found.append(Gaze(
                self.vlm, prompt, self.pictures, self.boxes, own, spans, read["mass"], read["entropy_nats"],
                read["top20_entropy_nats"], read["log_probability_nats"], maps, flagged, self.monitor,
            ))  # fmt: skip
        return found

    def table(self, output: Any) -> pd.DataFrame:
        """Return `Gaze.table` of all sequences, `sequence_index` in front."""
        tables = {row: gaze.table() for row, gaze in enumerate(self.read(output))}
        return pd.concat(tables, names=["sequence_index"]).reset_index(level=0)

    def plot(self, output: Any, sequence_index: int = 0) -> Figure:
        """Draw `Gaze.plot` of one sequence."""
        return self.read(output)[sequence_index].plot()

    def stop_when(self, rule: Rule, every_tokens: int = 1) -> StoppingCriteria:
        """Return what ends a sequence at the first token for which a rule holds; pass it to `generate`.

        `rule` is called with the token's row of numbers, as `Gaze.table` names them, and returns whether to stop. What
        it said of each token is the column `flag`. Asked every k tokens, for each of them, it costs less, and a
        sequence ends up to k - 1 tokens later: what came behind the first flag is in no table.
        """
        self.stops.append(_StopWhen(self, rule, every_tokens))
        return self.stops[-1]

    def live(self, every_tokens: int = 8) -> StoppingCriteria:
        """Return what shows the tokens while they come, and stops nothing; pass it to `generate`.

        In a Jupyter kernel it is one picture, drawn anew every `every_tokens` tokens; elsewhere a line a token on
        stderr. NamedError unless there is one sequence.
        """
        if len(self.prompts) != 1:
            raise NamedError(f"{len(self.prompts)} sequences, a live view shows one; watch them one by one")
        self.views.append(_Live(self, every_tokens))
        return self.views[-1]

    def look_again(self, output: Any, text: str) -> dict[str, Any]:
        """Return inputs with which `generate` goes on behind what was written, with `text` appended to it.

        An end token is left out, and what came behind the first flag. `output` is what `generate` returned. NamedError
        without processor and messages, or if the text holds a placeholder of a picture.
        """
        if not self.pictures:
            raise NamedError(f"nothing knows the tokens of a text; {GIVE}")
        more = self.vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        if {*more} & {*self.vlm.suppressed_ids}:
            raise NamedError("the text holds a token that stands for a picture; remove it")
        (own,) = self.read(output)
        written = [token for token in own.token_ids if token not in self.vlm.eos_ids]
        return self.vlm.collate(self.prompts, [[*written, *more]], side="left")

    def draw(self) -> Figure:
        """Draw the numbers of the tokens of one sequence that have been taken, and where they looked on average."""
        assert self.watching is not None
        tokens = pd.DataFrame([row for (row,) in self.rows])
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        if not self.pictures or self.prompts[0].unplaced:
            return watched_tokens(figure, tokens)
        image, _ = self.prompts[0].find_image(self.vlm.image_token_id)
        looks = torch.cat([part[:, 0] for part in self.watching.attention]).mean(0)[image + self.starts[0]]
        shown, (painted,), grid = paint(self.vlm, self.prompts[0], looks.cpu().numpy()[None])
        boxes = [box for box in self.boxes or () if box.image == shown]
        return watched_tokens(figure, tokens, self.pictures[shown], boxes, painted.reshape(grid))

    def take(self, tokens: Tensor) -> list[list[dict[str, float]]]:
        """Return the rows of numbers of all tokens so far, of each sequence; `tokens` [B] were chosen last."""
        assert self.watching is not None
        if len(self.rows) < self.watching.n_steps:
            self.watching.take_tokens(tokens)
            for step in self.watching.read_new():
                rows = [name_numbers(read, self.boxes is not None) for read in step]
                for row, follower in zip(rows, self.followers, strict=self.monitor is not None):
                    row |= follower.push(row["entropy_nats"], row["visual_mass"])
                self.rows.append(rows)
        return self.rows


class _StopWhen(StoppingCriteria):
    def __init__(self, watch: Watch, rule: Rule, every_tokens: int) -> None:
        self.watch, self.rule, self.every_tokens = watch, rule, every_tokens
        self.flags: list[list[bool]] = []  # of each token, of each sequence

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        assert self.watch.watching is not None
        if self.watch.watching.n_steps % self.every_tokens:
            return input_ids.new_zeros(len(input_ids), dtype=torch.bool)
        new = self.ask(input_ids[:, -1])[-self.every_tokens :]
        return torch.tensor(new, device=input_ids.device).any(0)

    def ask(self, tokens: Tensor) -> list[list[bool]]:
        """Return what the rule says of each token so far; `tokens` [B] were chosen last."""
        new = self.watch.take(tokens)[len(self.flags) :]
        self.flags += [[bool(self.rule(row)) for row in rows] for rows in new]
        return self.flags


class _Live(StoppingCriteria):
    def __init__(self, watch: Watch, every_tokens: int) -> None:
        self.watch, self.every_tokens = watch, every_tokens
        self.n_shown, self.tokens = 0, torch.empty(0)
        self.handle: Any = None  # of the picture in a notebook

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        assert self.watch.watching is not None
        self.tokens = input_ids[:, -1]
        if self.watch.watching.n_steps % self.every_tokens == 0:
            self.show()
        return input_ids.new_zeros(len(input_ids), dtype=torch.bool)

    def show(self) -> None:
        """Show the tokens that came since."""
        rows = self.watch.take(self.tokens)
        if len(rows) == self.n_shown:
            return
        if getattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel", None):
            from IPython.display import Image, display  # there where it can be used

            with plt.style.context(STYLE):
                self.watch.draw().savefig(content := io.BytesIO(), format="png")
            picture = Image(content.getvalue())  # type: ignore[no-untyped-call]
            if self.handle is None:
                self.handle = display(picture, display_id=True)  # type: ignore[no-untyped-call]
            else:
                self.handle.update(picture)
        else:
            assert self.watch.watching is not None
            tokens, vlm = self.watch.watching.tokens[self.n_shown :], self.watch.vlm
            for (row,), (token,) in zip(rows[self.n_shown :], map(Tensor.tolist, tokens), strict=True):
                text = make_printable(vlm.decode([token])) if vlm.tokenizer else str(token)
                numbers = f"entropy {row['entropy_nats']:6.3f} nats  image {row['visual_mass']:.3f}"
                risk = f"  risk {row['risk']:.2f}" if "risk" in row else ""
                print(f"{numbers}{risk}  {text}", file=sys.stderr)
        self.n_shown = len(rows)


@contextmanager
def watch(
    model: Any, inputs: Mapping[str, Any], boxes: Boxes | None = None, *, processor: Any = None,
    messages: Sequence[Mapping[str, Any]] | None = None, monitor: Monitor | None = None,
) -> Iterator[Watch]:  # fmt: skip
    """Watch `model.generate(**inputs, ...)`: what each new token looks at, and how sure it is. No token changes.

    Parameters
    ----------
    model : an image-text model of transformers, as `AutoModelForImageTextToText` loads it, in eval mode
    inputs : what its processor returned, `input_ids` int64 [B, P] padded on the left; given to `generate` as they are
    boxes : evidence, (x0, y0, x1, y1) in px of the picture, or `Box`es of several; then B is 1. Without any, only the
        mass on the whole image is known
    processor, messages : what made the inputs; needed for boxes, steps, texts and pictures
    monitor : adds need, risk and whether a token is blind to tables and to the rows of `stop_when`; a warning where it
        was calibrated on other models

    Yields
    ------
    Watch
        Its `table(output)`, `plot(output)` and `read(output)` take what `generate` returned; `stop_when(rule)` is a
        stopping criterion for it.

    Raises
    ------
    NamedError
        If the type cannot be measured, its image tokens cannot be placed where there are boxes, the inputs are not
        those of processor and messages, or generation gives rows to other sequences (beams, several sequences a
        prompt, an assistant, a prompt in chunks).

    Examples
    --------
    >>> with dontblink.watch(model, inputs, [(40, 30, 80, 60)], processor=processor, messages=messages) as gaze:
    ...     output = model.generate(**inputs, max_new_tokens=200)
    >>> gaze.table(output)  # entropy_nats, visual_mass, evidence_mass of each token
    >>> gaze.plot(output)
    """
    ids = inputs["input_ids"].cpu().numpy()
    if "attention_mask" not in inputs and len(ids) > 1:
        raise NamedError("several sequences without an attention_mask; give what the processor returned, all of it")
    mask = inputs["attention_mask"].cpu().numpy() if "attention_mask" in inputs else np.ones_like(ids)
    if mask.shape != ids.shape or not (np.diff(mask, axis=1) >= 0).all() or not mask[:, -1].all():
        raise NamedError("the attention_mask of the inputs is not that of prompts padded on the left; set padding_side")
    starts = mask.argmax(1)
    pictures: tuple[Any, ...] = ()
    if processor is not None and messages is not None:
        vlm = describe_model(model, processor)
        prompts = [vlm.encode_messages(messages)]
        pictures = tuple(list_pictures(messages, "messages"))
        if len(ids) != 1 or not np.array_equal(ids[0][starts[0] :], prompts[0].ids):
            raise NamedError("the inputs are not what the processor makes of these messages; make them of these")
    elif boxes is not None:
        raise NamedError(f"boxes without what maps a picture to its tokens; {GIVE}")
    else:
        vlm = describe_alone(model)
        own_ids = [own[start:] for own, start in zip(ids, starts, strict=True)]
        prompts = [Prompt(f"sequence {k}", own, {}, (), ()) for k, own in enumerate(own_ids)]
    try_model(vlm, inputs)
    weights = np.zeros((len(ids), ids.shape[1] + 1, len(REGIONS)), np.float32)
    own_boxes = None if boxes is None else read_boxes(boxes, pictures)
    for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
        weights[row, start:] = weigh_prompt(vlm, prompt, own_boxes)
    found = Watch(vlm, prompts, pictures, own_boxes, starts, monitor=monitor)
    if monitor is not None:
        name = check_domain(monitor, model)
        found.followers = [Follower(monitor, name) for _ in prompts]
    with watch_generation(model, torch.from_numpy(weights)) as found.watching:
        yield found
        for view in found.views:
            view.show()


def measure(
    model: Any, processor: Any, messages: Sequence[Mapping[str, Any]], response_ids: Sequence[int],
    boxes: Boxes | None = None, *, monitor: Monitor | None = None,
) -> Gaze:  # fmt: skip
    """Return what each token of a response looks at, from one pass over prompt and response, whoever wrote it.

    Parameters
    ----------
    model, processor, messages, boxes, monitor : as `watch`
    response_ids : the T token ids of the response, without the prompt; ids, because text may be cut otherwise

    Raises
    ------
    NamedError
        As `watch`; or if the response is empty or holds ids that the model cannot write.

    Examples
    --------
    >>> gaze = dontblink.measure(model, processor, messages, output[0, inputs["input_ids"].shape[1]:], boxes)
    >>> gaze.table()
    """
    vlm = describe_model(model, processor)
    prompt, ids = vlm.encode_messages(messages), tuple(int(token) for token in response_ids)
    try_model(vlm, vlm.collate([prompt]))
    pictures = tuple(list_pictures(messages, "messages"))
    own_boxes, spans = None if boxes is None else read_boxes(boxes, pictures), cut(vlm, ids)
    coverage = cover(vlm, prompt, own_boxes)
    (found,) = replay_responses(
        vlm, [prompt], [ids], coverage=[coverage], control=[np.zeros_like(coverage)],
        steps=[list_steps(spans, len(ids))],
    )  # fmt: skip
    if monitor is not None:
        check_domain(monitor, model)
    return Gaze(
        vlm, prompt, pictures, own_boxes, ids, spans, found.mass, found.entropy_nats, found.top20_entropy_nats,
        found.log_probability_nats, found.step_map.mean((1, 2)), monitor=monitor,
    )  # fmt: skip


def paint(vlm: VLM, prompt: Prompt, maps: Floats) -> tuple[int, Floats, tuple[int, int]]:
    """Return which picture maps [S, M] of image tokens see most, its own maps [S, rows x columns], and that grid.

    NamedError where the image tokens of the type cannot be placed.
    """
    if prompt.unplaced:
        raise NamedError(prompt.unplaced)
    if prompt.placement is None:
        grids = vlm.image_grid(prompt)
    else:
        grids, maps = [(SIDE, SIDE)] * len(prompt.image_sizes), paint_steps(maps, prompt.placement)
    ends = np.cumsum([rows * columns for rows, columns in grids])
    painted = np.split(maps, ends[:-1], axis=1)
    shown = int(np.argmax([each.sum() for each in painted]))
    return shown, painted[shown], grids[shown]


def check_domain(monitor: Monitor, model: Any) -> str | None:
    """Return the name by which a monitor knows a model; warn where it does not."""
    name = monitor.name_model(model)
    if name is None:
        own = f"{model.config.model_type} of {model.num_parameters():,} parameters"
        told = f"{own}: unknown to the monitor, its risk is a guess here; calibrated on {monitor.describe_domain()}"
        warnings.warn(told, stacklevel=4)
    return name


def describe_alone(model: Any) -> VLM:
    """Return a model without a processor: enough for masses on the whole image."""
    n_vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    image, suppressed = find_placeholders(model.config, None, n_vocabulary)
    eos = model.generation_config.eos_token_id
    eos_ids = tuple(int(i) for i in np.atleast_1d(eos)) if eos is not None else ()
    return VLM(
        model.config.model_type, find_family(model.config.model_type), model, None, None, "own", image, suppressed,
        eos_ids, n_vocabulary, False, False,
    )  # fmt: skip


def read_boxes(boxes: Boxes, pictures: Sequence[Any]) -> tuple[Box, ...]:
    """Return boxes given as (x0, y0, x1, y1) or `Box`es; NamedError where one shows nothing of a picture."""
    read = list[Box]()
    for given in boxes:
        if not isinstance(given, Box):
            if len(given) != 4:
                raise NamedError(f"{given}: expected (x0, y0, x1, y1) in px, or a Box")
            x0, y0, x1, y1 = map(float, given)
            given = Box(0, x0, y0, x1, y1)
        read.append(given)
    for box in read:
        if not 0 <= box.image < len(pictures):
            raise NamedError(f"{box}: expected one of {len(pictures)} pictures, counted from 0")
        width, height = pictures[box.image].size
        if not (max(box.x0, 0) < min(box.x1, width) and max(box.y0, 0) < min(box.y1, height)):
            raise NamedError(f"{box}: expected x0 < x1 and y0 < y1, in px of its picture of {width}x{height}")
    return tuple(read)


def cover(vlm: VLM, prompt: Prompt, boxes: tuple[Box, ...] | None) -> Floats:
    """Return the share of each image token inside the boxes, float32 [M], zeros without any."""
    if boxes is None:
        return np.zeros(len(prompt.find_image(vlm.image_token_id)[0]), np.float32)
    return vlm.cover(prompt, boxes)


def weigh_prompt(vlm: VLM, prompt: Prompt, boxes: tuple[Box, ...] | None) -> Floats:
    """Return the region weights float32 [P + 1, 8] of a prompt's keys and of one behind them."""
    image, blank = prompt.find_image(vlm.image_token_id)
    is_image = np.zeros(len(prompt.ids) + 1, bool)
    is_image[image] = True
    coverage = cover(vlm, prompt, boxes)
    return weigh_regions(is_image, len(prompt.ids), coverage, np.zeros_like(coverage), blank)


def name_masses(mass: Floats, has_boxes: bool) -> dict[str, Floats]:
    """Return masses [T, 8] as columns; `visual_mass` holds the evidence, `evidence_mass` is NaN without boxes."""
    named = {f"{region}_mass": mass[:, k] for k, region in enumerate(REGIONS) if region != "control_box"}
    evidence, other = named.pop("evidence_mass"), named.pop("other_image_mass")
    visual, evidence = evidence + other, evidence if has_boxes else np.full_like(evidence, np.nan)
    return {"visual_mass": visual, "evidence_mass": evidence, **named}


def name_numbers(read: Sequence[float], has_boxes: bool) -> dict[str, float]:
    """Return what `Watching.read_new` says of one token, named as `Gaze.table` does."""
    named = dict(zip(NAMES, read, strict=True))
    del named["control_box_mass"]
    named["visual_mass"] = named["evidence_mass"] + named.pop("other_image_mass")
    if not has_boxes:
        named["evidence_mass"] = np.nan
    return named


def cut(vlm: VLM, ids: Sequence[int]) -> Spans:
    """Return the spans of a response; without a tokenizer it is one answer."""
    return vlm.segment(ids) if vlm.tokenizer else Spans((0, 0), (0, len(ids)), (), True)


def list_steps(spans: Spans, n_tokens: int) -> tuple[tuple[int, int], ...]:
    """Return the steps of a response; one that has none is one step."""
    return spans.steps or ((0, n_tokens),)


def trim(ids: Sequence[int], eos_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the ids up to the first end of sequence, with it."""
    stop = next((place for place, token in enumerate(ids) if token in eos_ids), len(ids) - 1)
    return tuple(ids[: stop + 1])
