"""Stand-ins of the real checkpoints: their classes, vision geometry, pixel budget and chat format, but small.

Why: loading, prompting, replay and dry runs of the real families can be proven where no weights are. In: a model's
name. Out: a checkpoint folder that `load_vlm` loads like a downloaded one, with random weights or none, or the full
configuration (`true_shape`). For shape, parity, plumbing and dry runs only, never for a result. The tokenizer is ours:
one token a byte, so that any text comes back, and prompts are about 3 to 4 times as long as with the real one. Never
here: downloaded vocabularies, the families' own template files (these say the same in our words).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    Glm4vConfig,
    Glm46VImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
)

from dontblink.models.families import find_family

StandIn = Literal["Qwen3-VL-2B", "Qwen3-VL-8B", "GLM-4.6V-Flash"]
N_HEADS, HEAD_WIDTH = 4, 32  # of a stand-in's attention; the real ones are 128 wide


class SpecialTokens(NamedTuple):
    """The special tokens of a family, in the order of their ids in a vocabulary made here or by the testbed."""

    all: tuple[str, ...]
    image: str
    image_start: str
    image_end: str
    video: str
    pad: str
    eos: str


SPECIAL_TOKENS = {
    "qwen3_vl": SpecialTokens(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>", "<think>", "</think>"),
        "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", pad="<|endoftext|>", eos="<|im_end|>",
    ),
    "glm4v": SpecialTokens(
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
         "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>", "<think>", "</think>",
         "<|begin_of_box|>", "<|end_of_box|>"),
        "<|image|>", "<|begin_of_image|>", "<|end_of_image|>", "<|video|>", pad="<|endoftext|>", eos="<|endoftext|>",
    ),
}  # fmt: skip
_CONTENT = """\
{%- if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] -%}
{%- if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif -%}"""
_QWEN_TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}CONTENT{{ '<|im_end|>\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\nTHINK' }}{% endif -%}"""
_GLM_TEMPLATE = """\
[gMASK]<sop>{%- set silent = enable_thinking is defined and not enable_thinking -%}
{%- for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}CONTENT
{%- if silent and message['role'] == 'user' %}/nothink{% endif %}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' + ('<think></think>\\n' if silent else '') }}{% endif -%}"""


@dataclass(frozen=True)
class Shape:
    """What tells the real models apart: sizes of text and vision, and the image tokens of one picture."""

    family: str
    text: dict[str, int]
    vision: dict[str, Any]
    rope: dict[str, Any]
    tied: bool
    image_tokens: tuple[int, int]


_QWEN_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_GLM_ROPE = {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5}
_QWEN_PATCHES = {"patch_size": 16, "num_position_embeddings": 2304, "num_heads": 16}
_GLM_PATCHES = {"patch_size": 14, "image_size": 336, "num_heads": 12}


def _text(*sizes: int) -> dict[str, int]:
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size")
    return dict(zip(names, sizes, strict=True))


def _vision(depth: int, width: int, inner: int, **more: Any) -> dict[str, Any]:
    return {"depth": depth, "hidden_size": width, "intermediate_size": inner, "spatial_merge_size": 2, **more}


SHAPES: dict[str, Shape] = {
    "Qwen3-VL-2B": Shape(
        "qwen3_vl", _text(28, 16, 8, 2048, 6144),
        _vision(24, 1024, 4096, deepstack_visual_indexes=[5, 11, 17], **_QWEN_PATCHES), _QWEN_ROPE, True, (64, 16384),
    ),
    "Qwen3-VL-8B": Shape(
        "qwen3_vl", _text(36, 32, 8, 4096, 12288),
        _vision(27, 1152, 4304, deepstack_visual_indexes=[8, 16, 24], **_QWEN_PATCHES), _QWEN_ROPE, False, (64, 16384),
    ),
    "GLM-4.6V-Flash": Shape(
        "glm4v", _text(40, 32, 2, 4096, 13696), _vision(24, 1536, 13696, **_GLM_PATCHES), _GLM_ROPE, False, (16, 6144),
    ),
}  # fmt: skip
TRUE_IDS: dict[str, dict[str, int]] = {
    "qwen3_vl": {
        "vocab_size": 151936, "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
        "vision_end_token_id": 151653, "eos_token_id": 151645,
    },
    "glm4v": {
        "vocab_size": 151552, "image_token_id": 151363, "video_token_id": 151364, "image_start_token_id": 151339,
        "image_end_token_id": 151340, "eos_token_id": 151329,
    },
}  # fmt: skip


def true_shape(model: StandIn) -> Qwen3VLConfig | Glm4vConfig:
    """Return the full-size configuration of a real model: layers, widths, heads, vocabulary, vision, token ids.

    What no shape depends on (rotary bases, video ids, layer-norm constants) is close to the real files, not checked
    against them.
    """
    shape = SHAPES[model]
    return _build_config(shape, shape.text, shape.vision, shape.rope, TRUE_IDS[shape.family], head_width=128)


def build_stand_in(
    model: StandIn,
    folder: Path,
    *,
    weights: Literal["none", "random"] = "random",
    instruct: bool = False,
    seed: int = 0,
) -> Path:
    """Write a small checkpoint of the model's family into `folder` and return it.

    Heads are grouped as the real ones; the deepstack layers, where the family has them, are the first three.

    Parameters
    ----------
    weights : 'none' leaves them out, for `load_vlm(weights=False)`
    instruct : for Qwen, the template that opens no <think>; GLM's has the enable_thinking switch instead
    """
    shape = SHAPES[model]
    tokenizer = build_tokenizer(shape.family, instruct)
    per_group = shape.text["num_attention_heads"] // shape.text["num_key_value_heads"]
    text = _text(2, N_HEADS, max(1, N_HEADS // per_group), N_HEADS * HEAD_WIDTH, 3 * N_HEADS * HEAD_WIDTH)
    vision = shape.vision | {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
    if "deepstack_visual_indexes" in vision:
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    sections = [6, 5, 5] if shape.family == "qwen3_vl" else [2, 3, 3]
    config = _build_config(
        shape, text, vision, shape.rope | {"mrope_section": sections}, _find_ids(shape.family, tokenizer), HEAD_WIDTH
    )
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    folder.mkdir(parents=True, exist_ok=True)
    if weights == "random":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model_class(config).save_pretrained(folder)
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor(model).save_pretrained(folder)
    stops = {"qwen3_vl": ("<|im_end|>", "<|endoftext|>"), "glm4v": ("<|endoftext|>", "<|user|>")}[shape.family]
    settings = {"eos_token_id": tokenizer.convert_tokens_to_ids(list(stops))}
    (folder / "generation_config.json").write_text(json.dumps(settings) + "\n")
    return folder


def build_tokenizer(family: str, instruct: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of 256 bytes and the family's special tokens, with its chat template."""
    special = SPECIAL_TOKENS[family]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    template = (_QWEN_TEMPLATE if family == "qwen3_vl" else _GLM_TEMPLATE).replace("CONTENT", _CONTENT)
    template = template.replace("IMAGE", special.image_start + special.image + special.image_end)
    return wrap_tokens(tokens, family, template.replace("THINK", "" if instruct else "<think>\\n"))


def wrap_tokens(tokens: Tokenizer, family: str, chat_template: str, **options: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the family's special tokens.

    `<think>` and its like are ordinary added tokens, as in the real tokenizers: they survive skip_special_tokens.
    """
    special, thinking = SPECIAL_TOKENS[family], ("<think>", "</think>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=special.pad, eos_token=special.eos,
        additional_special_tokens=[token for token in special.all if token not in thinking],
        clean_up_tokenization_spaces=False, **options,
    )  # fmt: skip
    tokenizer.add_tokens(list(thinking))
    tokenizer.chat_template = chat_template
    return tokenizer


def build_image_processor(model: StandIn) -> Any:
    """Return the real processor class with the real patch, merge and limits of image tokens of one picture."""
    shape = SHAPES[model]
    patch = shape.vision["patch_size"]
    counted = 2 if find_family(shape.family).budget_counts_frames else 1  # each pixel once per frame
    least, most = (tokens * (2 * patch) ** 2 * counted for tokens in shape.image_tokens)
    settings: dict[str, Any] = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    settings["size"] = {"shortest_edge": least, "longest_edge": most}
    if shape.family == "qwen3_vl":
        return Qwen2VLImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, **settings)
    return Glm46VImageProcessorPil(**settings)


def _find_ids(family: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return the ids that `TRUE_IDS` holds for the real model, of a stand-in's tokenizer."""
    special = SPECIAL_TOKENS[family]
    named = (special.image, special.video, special.image_start, special.image_end, special.eos)
    return dict(zip(TRUE_IDS[family], [len(tokenizer), *tokenizer.convert_tokens_to_ids(list(named))], strict=True))


def _build_config(
    shape: Shape,
    text: dict[str, int],
    vision: dict[str, Any],
    rope: dict[str, Any],
    ids: dict[str, int],
    head_width: int,
) -> Qwen3VLConfig | Glm4vConfig:
    """Return a configuration of the family from its parts."""
    outer = {key: value for key, value in ids.items() if key not in ("vocab_size", "eos_token_id")}
    inner = {
        **text, "vocab_size": ids["vocab_size"], "eos_token_id": ids["eos_token_id"], "bos_token_id": None,
        "head_dim": head_width, "rope_parameters": rope, "max_position_embeddings": 131072,
        "attention_bias": shape.family == "glm4v",  # as transformers builds them; other engines (vLLM) believe it
    }  # fmt: skip
    vision = {**vision, "temporal_patch_size": 2, "out_hidden_size": text["hidden_size"]}
    kind = Qwen3VLConfig if shape.family == "qwen3_vl" else Glm4vConfig
    return kind(text_config=inner, vision_config=vision, tie_word_embeddings=shape.tied, **outer)
