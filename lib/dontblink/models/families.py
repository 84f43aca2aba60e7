"""The architecture families: their classes, their markers, how they think, and how they count pixels.

Why: a family is one row of a table and three small rules, apart from loading and prompting, which are the same for all.
In: a processor with its chat template, an image processor. Out: whether a checkpoint thinks, found by rendering its own
generation prompt (no constant of the family can know: Qwen3-VL's Thinking and Instruct checkpoints share everything but
the template), and a budget of image tokens set through `size`. Never here: min_pixels or max_pixels, remote code, token
ids. To add a family: one row in FAMILIES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers

from dontblink.errors import NamedError


@dataclass(frozen=True)
class Family:
    """Facts of one architecture."""

    name: str  # the checkpoint's config.model_type
    model: str  # the names of its classes in transformers
    processor: str
    writes_think: bool  # the model itself, where neither the prompt opens <think> nor the template has a switch
    budget_counts_frames: bool  # the processor's `size` counts each pixel once per frame of a temporal patch
    without_thinking: str  # which checkpoint to take where thinking is not wanted
    think_open: str = "<think>"
    think_close: str = "</think>"
    box_open: str = "<|begin_of_box|>"
    box_close: str = "<|end_of_box|>"

    @property
    def model_class(self) -> Any:
        """The model's class, imported when it is asked for."""
        return getattr(transformers, self.model)

    @property
    def processor_class(self) -> Any:
        """The real processor without its video half, which needs torchvision even when no video comes."""

        class ImageTextProcessor(getattr(transformers, self.processor)):  # type: ignore[misc]
            def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
                super().__init__(image_processor, tokenizer, None, chat_template=chat_template)
                self.video_token = self.video_token_id = None

        return ImageTextProcessor


FAMILIES = {
    "qwen3_vl": Family(
        "qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor",
        writes_think=False, budget_counts_frames=False, without_thinking="the -Instruct checkpoint",
    ),
    "glm4v": Family(
        "glm4v", "Glm4vForConditionalGeneration", "Glm46VProcessor", writes_think=True, budget_counts_frames=True,
        without_thinking="a checkpoint whose chat template knows enable_thinking (GLM-4.6V)",
    ),
}  # fmt: skip


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


def read_image_tokens(images: Any, family: Family) -> tuple[int, int]:
    """Return the least and the most image tokens of one picture that the processor's `size` stands for."""
    pixels = pixels_per_token(images, family)
    return -(-images.size["shortest_edge"] // pixels), images.size["longest_edge"] // pixels


def limit_image_tokens(images: Any, family: Family, most: int | None) -> None:
    """Set the processor's `size` so that a picture gets at most `most` merged tokens; None keeps the checkpoint's own.

    The checkpoint's own least number is lowered to most / 4 where it is above that: enlarging rounds both sides up, and
    would step over a `most` close by. NamedError if no number of tokens is within the limits.
    """
    own_least, own_most = read_image_tokens(images, family)
    highest = own_most if most is None else most
    lowest = min(own_least, max(highest // 4, 1))
    if not 1 <= lowest <= highest:
        raise NamedError(f"{lowest} to {highest} image tokens a picture; expected 1 <= least <= max_image_tokens")
    if most is not None:
        pixels = pixels_per_token(images, family)
        images.size = type(images.size)(shortest_edge=lowest * pixels, longest_edge=highest * pixels)
