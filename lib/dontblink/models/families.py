"""What the files of a checkpoint do not say of its architecture: its markers, how it thinks, how it counts pixels.

Why: a family is a row of data with defaults, apart from loading and prompting, which are the same for every type. In: a
processor with its chat template, an image processor. Out: whether a checkpoint thinks, found by rendering its own
generation prompt (no constant of the family can know: Qwen3-VL's Thinking and Instruct checkpoints share everything but
the template), and a budget of image tokens set through `size`. Never here: min_pixels or max_pixels, remote code, token
ids. A type without a row has the defaults; a row is added only for what they get wrong.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from dontblink.errors import NamedError


@dataclass(frozen=True)
class Family:
    """Facts of one architecture, `name` its config.model_type."""

    name: str = ""
    writes_think: bool = False  # the model itself, where neither the prompt opens <think> nor the template has a switch
    budget_counts_frames: bool = False  # the processor's `size` counts each pixel once per frame of a temporal patch
    without_thinking: str = "a checkpoint that does not"  # which to take where thinking is not wanted
    think_open: str = "<think>"
    think_close: str = "</think>"
    box_open: str = "<|begin_of_box|>"
    box_close: str = "<|end_of_box|>"


_QWEN = Family(without_thinking="the -Instruct checkpoint")
_GLM = Family(
    writes_think=True, budget_counts_frames=True,
    without_thinking="a checkpoint whose chat template knows enable_thinking (GLM-4.6V)",
)  # fmt: skip
FAMILIES = {"qwen3_vl": _QWEN, "qwen3_vl_moe": _QWEN, "glm4v": _GLM, "glm46v": _GLM, "glm4v_moe": _GLM}


def find_family(model_type: str) -> Family:
    """Return the facts of a type, the defaults for one that has no row."""
    return replace(FAMILIES.get(model_type, Family()), name=model_type)


@dataclass(frozen=True)
class Thinking:
    """Whether a checkpoint thinks, whether its prompt opens <think>, and what its chat template must be told."""

    thinks: bool
    prompt_opens_think: bool
    template_options: dict[str, bool]


def find_thinking(processor: Any, family: Family, wanted: bool) -> Thinking:
    """Render the generation prompt and read from it how the checkpoint thinks.

    A template that renders differently for enable_thinking True and False has a switch, and is told `wanted`. Then, in
    the text that the template puts behind the question: `<think>` left open means that the model thinks, a closed
    `<think></think>` that it does not, and neither leaves it to the switch or, without one, to the family. A
    checkpoint that never thinks is used as it is also where thinking is wanted: it is the non-reasoning contrast.
    NamedError if the template thinks whatever it is told, and `wanted` is False.
    """
    probe = "Which question?"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": probe}]}]
    # the tokenizer renders, because the processor warns about a switch that a template does not have
    rendered = {
        choice: str(processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True,
            enable_thinking=choice,
        ))
        for choice in (True, False)
    }  # fmt: skip
    has_switch = rendered[True] != rendered[False]
    behind = rendered[wanted].rpartition(probe)[2]
    opened, closed = behind.rfind(family.think_open), behind.rfind(family.think_close)
    opens = opened > closed
    thinks = opens or (closed < 0 and (wanted if has_switch else family.writes_think))
    if thinks and not wanted:
        raise NamedError(f"its chat template always thinks, thinking is disabled here; use {family.without_thinking}")
    return Thinking(thinks, opens, {"enable_thinking": wanted} if has_switch else {})


def pixels_per_token(images: Any, family: Family) -> int:
    """Return how much of the processor's `size` one merged image token takes, in px (times frames, for GLM)."""
    frames = images.temporal_patch_size if family.budget_counts_frames else 1
    return int((images.patch_size * images.merge_size) ** 2 * frames)


def has_pixel_budget(images: Any) -> bool:
    """Return whether a processor scales a picture between two numbers of pixels, by which its tokens are counted."""
    edges = {"shortest_edge", "longest_edge"}
    return all(hasattr(images, name) for name in ("patch_size", "merge_size")) and edges <= set(dict(images.size))


def read_image_tokens(images: Any, family: Family) -> tuple[int, int]:
    """Return the least and the most image tokens of one picture that the processor's `size` stands for.

    A processor without a budget of pixels sets no bound: (1, no end).
    """
    if not has_pixel_budget(images):
        return 1, sys.maxsize
    pixels = pixels_per_token(images, family)
    return -(-images.size["shortest_edge"] // pixels), images.size["longest_edge"] // pixels


def limit_image_tokens(images: Any, family: Family, most: int | None) -> None:
    """Set the processor's `size` so that a picture gets at most `most` merged tokens; None keeps the checkpoint's own.

    The checkpoint's own least number is lowered to most / 4 where it is above that: enlarging rounds both sides up, and
    would step over a `most` close by. A processor without a budget of pixels stays as it is: prompts are checked. NamedError
    if no number of tokens is within the limits.
    """
    own_least, own_most = read_image_tokens(images, family)
    highest = own_most if most is None else most
    lowest = min(own_least, max(highest // 4, 1))
    if not 1 <= lowest <= highest:
        raise NamedError(f"{lowest} to {highest} image tokens a picture; expected 1 <= least <= max_image_tokens")
    if most is not None and has_pixel_budget(images):
        pixels = pixels_per_token(images, family)
        images.size = type(images.size)(shortest_edge=lowest * pixels, longest_edge=highest * pixels)
