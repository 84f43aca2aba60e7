"""Small whole checkpoints of both families on disk, loaded as `VLM`s.

In: a family name. Out: random weights (`tiny_models`) with a word-level tokenizer, the testbed's chat template and an
image processor of 16 px per image token. For parity and plumbing, never for accuracy.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import tiny_models
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Glm46VImageProcessorPil, PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from dontblink.models.checkpoints import load_vlm
from dontblink.models.vlm import VLM
from dontblink_testbed.stand_in import SPECIAL_TOKENS, wrap_tokens
from dontblink_testbed.vocabulary import FORMATS

FAMILIES = ("qwen3_vl", "glm4v")
SIDE = 16  # pixels per merged image token: patch 8, merge 2
SPECIAL = {  # ids 3, 4, 5, 6 and 7 must have the meaning that tiny_models gives them
    "qwen3_vl": [
        "<|endoftext|>", "<unk>", "<|im_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
        "<|vision_end|>", "<|im_end|>", "<think>", "</think>",
    ],
    "glm4v": [
        "<pad>", "<unk>", "<sop>", "<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>",
        "<|endoftext|>", "<think>", "</think>", "[gMASK]", "<|user|>", "<|assistant|>", "<|begin_of_box|>",
        "<|end_of_box|>",
    ],
}  # fmt: skip
WORDS = [
    "user", "assistant", ".", "?", "answer", "is", "was", "f5", "3", "4", "7", "+", "plus", "what", "digit", "final",
    "Answer", ":", "A", "B",
]  # fmt: skip


def show_images(family: str, *counts: int) -> str:
    """What the prompt of a family shows of images with so many tokens."""
    special = SPECIAL_TOKENS[family]
    shown = (" ".join([special.image_start, *[special.image] * count, special.image_end]) for count in counts)
    return " ".join(shown)


def build_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the family's special tokens and chat template."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL[family], *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap_tokens(words, family, FORMATS[family].chat_template, unk_token="<unk>")


def save_checkpoint(folder: Path, family: str) -> Path:
    """A complete random checkpoint of the family: 16 px per image token, 4 to 400 image tokens."""
    tiny_models.build_vlm(family).model.save_pretrained(folder)
    build_tokenizer(family).save_pretrained(folder)
    temporal = 2 if family == "glm4v" else 1  # GLM's pixel budget includes the temporal factor
    size = {"shortest_edge": 4 * SIDE**2 * temporal, "longest_edge": 400 * SIDE**2 * temporal}
    kind = Glm46VImageProcessorPil if family == "glm4v" else Qwen2VLImageProcessorPil
    kind(patch_size=8, merge_size=2, size=size).save_pretrained(folder)
    return folder


@functools.cache
def tiny_vlm(family: str) -> VLM:
    """One loaded checkpoint per family and test run."""
    with tempfile.TemporaryDirectory() as folder:
        return load_vlm(save_checkpoint(Path(folder), family), name=f"tiny-{family}")


def cut(vlm: VLM, ids: list[int]) -> tuple[str, str, list[str], bool]:
    """The text of a response's reasoning, answer and steps, and whether it is closed."""
    spans = vlm.segment(ids)
    steps = [vlm.decode(ids[slice(*step)]) for step in spans.steps]
    return vlm.decode(ids[slice(*spans.reasoning)]), vlm.decode(ids[slice(*spans.answer)]), steps, spans.closed
