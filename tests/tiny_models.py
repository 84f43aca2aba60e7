"""Random-weight models of both families, small enough for exact parity tests, as `VLM`s.

In: a family name and, where a benchmark needs them, larger sizes. Out: a `VLM` (no tokenizer: ids only)
and `Prompt`s with random ids and pixels. Weights are drawn wide (std 0.12) so that attention is peaked
and position matters: near-uniform attention would hide most mistakes, and at 0.2 float32 round-off alone
moves eager's own masses by 5e-6. Never measure accuracy with these models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import (
    DynamicCache,
    Gemma2Config,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    GptOssConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from dontblink.models.families import find_family
from dontblink.models.vlm import VLM, Prompt

FAMILY_NAMES = ("qwen3_vl", "glm4v")
PAD, IMAGE, VIDEO, OPEN, CLOSE, EOS = 0, 3, 4, 5, 6, 7  # special ids; ordinary text starts at 8
FIRST_TEXT = 8
MASS_BAR, ENTROPY_BAR, MAP_BAR = 2e-6, 1e-5, 1e-6  # fp32 parity with eager attention
PATCH_VALUES = 3 * 2 * 8 * 8  # channels x temporal patch x patch x patch
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
# Text models with what SDPA knows nothing of: learned sinks, soft caps of the scores, windows shorter than the text.
UNPLAIN = {
    "gpt_oss": GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1, sliding_window=4),
    "gemma2": Gemma2Config(**SIZES, query_pre_attn_scalar=8, attn_logit_softcapping=0.5, sliding_window=4),
}



def build_vlm(
    family: str,
    *,
    seed: int = 0,
    width: int = 64,
    n_layers: int = 3,
    n_vocabulary: int = 96,
    std: float = 0.12,
) -> VLM:
    """Return a random model of `family` in eval mode: 4 heads, 2 key/value heads, patch 8, merge 2."""
    torch.manual_seed(seed)
    pairs = width // 4 // 2  # rotary frequencies of one head
    text: dict[str, Any] = {
        "vocab_size": n_vocabulary, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": std,
        "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": width, "initializer_range": std,
    }  # fmt: skip
    model: Any
    if family == "qwen3_vl":
        sections = [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]
        text["rope_parameters"] |= {"mrope_section": sections, "mrope_interleaved": True}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(
            text_config={**text, "head_dim": width // 4},
            vision_config={**vision, "num_position_embeddings": 144, "deepstack_visual_indexes": [0]},
            image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=OPEN, vision_end_token_id=CLOSE,
        ))  # fmt: skip
    else:
        sections = [pairs // 2 - 2 * (pairs // 6), pairs // 6, pairs // 6] if pairs >= 6 else [pairs // 2 - 2, 1, 1]
        text["rope_parameters"] |= {"mrope_section": sections, "partial_rotary_factor": 0.5}
        model = Glm4vForConditionalGeneration(Glm4vConfig(
            text_config=text, vision_config={**vision, "image_size": 96},
            image_token_id=IMAGE, video_token_id=VIDEO, image_start_token_id=OPEN, image_end_token_id=CLOSE,
        ))  # fmt: skip
    return VLM(
        "tiny", find_family(family), model.eval().requires_grad_(False), None, None, "pil", IMAGE, (IMAGE, VIDEO),
        (PAD,), n_vocabulary, True, False,
    )  # fmt: skip


def draw_prompt(
    rng: np.random.Generator,
    item_id: str,
    *,
    grids: Sequence[tuple[int, int]] = ((3, 4),),
    n_text: int = 6,
    n_vocabulary: int = 96,
) -> Prompt:
    """Return a prompt with one image per merged grid (rows, columns), each between its two marker tokens."""
    ids = [FIRST_TEXT + 1]
    for rows, columns in grids:
        ids += [OPEN, *[IMAGE] * (rows * columns), CLOSE, *rng.integers(FIRST_TEXT, n_vocabulary, 2).tolist()]
    ids += rng.integers(FIRST_TEXT, n_vocabulary, n_text).tolist()
    grid_thw = np.array([(1, 2 * rows, 2 * columns) for rows, columns in grids], dtype=np.int64)
    pixels = rng.normal(size=(int(grid_thw.prod(axis=1).sum()), PATCH_VALUES)).astype(np.float32)
    sizes = tuple((16 * columns, 16 * rows) for rows, columns in grids)
    places = np.array(ids, dtype=np.int64)
    inputs = {
        "pixel_values": torch.from_numpy(pixels), "image_grid_thw": torch.from_numpy(grid_thw),
        "mm_token_type_ids": torch.from_numpy(places == IMAGE).int()[None],
    }  # fmt: skip
    return Prompt(item_id, places, inputs, sizes, tuple(range(len(sizes))))


def draw_response(rng: np.random.Generator, length: int, n_vocabulary: int = 96) -> list[int]:
    """Return `length` random ordinary token ids."""
    return [int(token) for token in rng.integers(FIRST_TEXT, n_vocabulary, length)]


def count_image_tokens(prompt: Prompt) -> int:
    """Return the number of merged image tokens of a prompt."""
    return int((prompt.ids == IMAGE).sum())


def repaint(prompt: Prompt, seed: int) -> Prompt:
    """Return the prompt with another picture of the same grid."""
    other = torch.from_numpy(np.random.default_rng(seed).normal(size=prompt.inputs["pixel_values"].shape))
    return replace(prompt, inputs={**prompt.inputs, "pixel_values": other.float()})


@torch.inference_mode()
def read_logs(
    vlm: VLM, prompt: Prompt, text: Sequence[int], swapped: tuple[Prompt, int] | None = None
) -> torch.Tensor:
    """Return log p [T, V] of every token that may stand at each place of a text, in one plain pass of the model.

    With `swapped`, another prompt and a row, rows from that one on are computed behind a cache in which the keys and
    values of the image tokens are the other prompt's: what an intervention must come to, without one.
    """
    begin, held = len(prompt.ids) - 1, list[Any]()
    body = vlm.model.model.language_model
    hook = body.register_forward_pre_hook(lambda _, __, kwargs: held.append(kwargs["position_ids"]), with_kwargs=True)
    caches, inputs = [DynamicCache(), DynamicCache()], vlm.collate([prompt], [text])
    logits = vlm.model(**inputs, past_key_values=caches[0], use_cache=True).logits[0]
    if swapped:
        other, first = swapped
        vlm.model(**vlm.collate([other], [text]), past_key_values=caches[1], use_cache=True)
        caches[0].crop(first - len(logits))
        image = prompt.find_image(vlm.image_token_id)[0]
        for own, foreign in zip(caches[0].layers, caches[1].layers, strict=True):
            own.keys[:, :, image], own.values[:, :, image] = foreign.keys[:, :, image], foreign.values[:, :, image]
        tail = vlm.model.get_input_embeddings()(inputs["input_ids"][:, first:])
        found = body(inputs_embeds=tail, past_key_values=caches[0], position_ids=held[0][..., first:], use_cache=True)
        logits = torch.cat([logits[:first], vlm.model.lm_head(found.last_hidden_state)[0]])
    hook.remove()
    return logits[begin : begin + len(text)].float().log_softmax(-1)
