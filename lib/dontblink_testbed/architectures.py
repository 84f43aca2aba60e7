"""The three testbed models: the real transformers classes at a size that a CPU can train, and their training forward.

In: a model name. Out: an initialised Qwen3VLForConditionalGeneration or Glm4vForConditionalGeneration and its PIL
image processor; for training, the logits of the response rows of a batch of equal-sized pictures. The initialisation
departs from the classes' default (under which such small models stay at chance): weights with standard deviation
fan_in^-0.5, larger position embeddings, damped residual outputs. The training forward is the official modules with the
loops taken out that cost a CPU most of its time: the vision tower of transformers attends image by image; here all
pictures share one grid, so they are attended in one batched product, and positions are computed once, because every
prompt has its picture at the same place. A test holds this forward against the official one; measurement never uses it.
"""

from __future__ import annotations

import math
import types
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from dontblink_testbed.scenes import IMAGE_PX
from dontblink_testbed.stand_in import SPECIAL_TOKENS
from dontblink_testbed.vocabulary import token_ids

PATCH_PX = 8
MERGE = 2
IMAGE_MEAN, IMAGE_STD = 0.93, 0.25
N_IMAGE_TOKENS = (IMAGE_PX // (PATCH_PX * MERGE)) ** 2
N_PATCHES = (IMAGE_PX // PATCH_PX) ** 2
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "linear_fc2.weight", "attn.proj.weight")

_SMALL = {
    "text": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 384},
    "vision": {"hidden_size": 96, "depth": 2, "num_heads": 3, "intermediate_size": 256},
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "qwen3vl-tiny-s": {"family": "qwen3_vl", **_SMALL},
    "qwen3vl-tiny-m": {
        "family": "qwen3_vl", "text": {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 3, "intermediate_size": 704},
        "vision": {"hidden_size": 128, "depth": 3, "num_heads": 4, "intermediate_size": 384},
    },
    "glm4v-tiny": {"family": "glm4v", **_SMALL},
}  # fmt: skip


def build_config(name: str) -> Qwen3VLConfig | Glm4vConfig:
    """Return the configuration of a testbed model; KeyError lists nothing, so check `MODELS` first."""
    spec = MODELS[name]
    ids = token_ids(spec["family"])
    special = SPECIAL_TOKENS[spec["family"]]
    common = {
        "vocab_size": len(ids), "max_position_embeddings": 1024, "pad_token_id": ids[special.pad],
        "bos_token_id": None, "eos_token_id": ids[special.eos], **spec["text"],
    }  # fmt: skip
    vision = {"patch_size": PATCH_PX, "spatial_merge_size": MERGE, "temporal_patch_size": 2, **spec["vision"]}
    vision["out_hidden_size"] = spec["text"]["hidden_size"]
    outer = {"image_token_id": ids[special.image], "video_token_id": ids[special.video]}
    if spec["family"] == "qwen3_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        return Qwen3VLConfig(
            text_config={**common, "head_dim": 32, "rope_parameters": rope},
            vision_config={**vision, "num_position_embeddings": N_PATCHES, "deepstack_visual_indexes": [0]},
            vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=True, **outer,
        )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}
    return Glm4vConfig(
        # transformers' class has these biases whatever this says; other engines (vLLM) believe it
        text_config={**common, "rope_parameters": rope, "attention_bias": True},
        vision_config={**vision, "image_size": IMAGE_PX},
        image_start_token_id=ids["<|begin_of_image|>"], image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"], video_end_token_id=ids["<|end_of_video|>"],
        tie_word_embeddings=False, **outer,
    )  # fmt: skip


def build_image_processor(name: str) -> Qwen2VLImageProcessorPil | Glm4vImageProcessorPil:
    """Return the family's PIL image processor, set so that a 96 px picture keeps its size and gives 36 tokens."""
    settings = {
        "patch_size": PATCH_PX, "merge_size": MERGE, "temporal_patch_size": 2,
        "image_mean": [IMAGE_MEAN] * 3, "image_std": [IMAGE_STD] * 3,
    }  # fmt: skip
    pixels = IMAGE_PX * IMAGE_PX
    if MODELS[name]["family"] == "qwen3_vl":
        return Qwen2VLImageProcessorPil(size={"shortest_edge": pixels, "longest_edge": 4 * pixels}, **settings)
    # GLM counts the two frames of the temporal patch in its pixel budget.
    return Glm4vImageProcessorPil(size={"shortest_edge": 2 * pixels, "longest_edge": 8 * pixels}, **settings)


def build_model(name: str, seed: int) -> Qwen3VLForConditionalGeneration | Glm4vForConditionalGeneration:
    """Build a freshly initialised float32 model; the same seed gives the same weights."""
    config = build_config(name)
    is_qwen = MODELS[name]["family"] == "qwen3_vl"
    torch.manual_seed(seed)
    model = (Qwen3VLForConditionalGeneration if is_qwen else Glm4vForConditionalGeneration)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            _initialise(parameter_name, parameter, generator, tied=is_qwen)
    return model


def _initialise(name: str, parameter: nn.Parameter, generator: torch.Generator, tied: bool) -> None:
    """Fill one parameter in place by its role, which its name tells."""
    if "pos_embed" in name or "position_embedding" in name:
        parameter.normal_(std=0.5, generator=generator)
    elif "embed_tokens" in name:
        parameter.normal_(std=parameter.shape[1] ** -0.5 if tied else 1.0, generator=generator)
    elif "post_self_attn_layernorm" in name or "post_mlp_layernorm" in name:
        parameter.fill_(0.3)
    elif parameter.ndim >= 2:
        fan_in = math.prod(parameter.shape[1:])
        damping = 0.5 if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
        parameter.normal_(std=damping * fan_in**-0.5, generator=generator)


def patchify(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Cut pictures into the processors' patches: uint8 [n, 96, 96, 3] -> float32 [n * 144, 384].

    The order is that of the real image processors: merge block by merge block, then channel, frame, row, column; a
    still picture is doubled in time.
    """
    side = IMAGE_PX // (PATCH_PX * MERGE)
    x = torch.from_numpy(pixels).float().div_(255).sub_(IMAGE_MEAN).div_(IMAGE_STD)
    x = x.view(-1, side, MERGE, PATCH_PX, side, MERGE, PATCH_PX, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(pixels.shape[0] * N_PATCHES, -1)


def _attend_images(
    self: nn.Module,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **_: Any,
) -> torch.Tensor:
    """Vision attention of all pictures at once; replaces the per-picture loop in training."""
    assert position_embeddings is not None
    n = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).reshape(n, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    shape = (-1, N_PATCHES, self.num_heads, query.shape[-1])
    query, key, value = (x.reshape(shape).transpose(1, 2) for x in (query, key, value))
    weights = torch.softmax(query @ key.transpose(2, 3) * self.scaling, dim=-1)
    mixed = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(n, -1)
    return self.proj(mixed)


def prepare(model: nn.Module) -> None:
    """Switch a model to the training forward, in place (matmul attention in text, batched attention in vision)."""
    model.set_attn_implementation("eager")
    for block in model.model.visual.blocks:
        block.attn.forward = types.MethodType(_attend_images, block.attn)


class Positions:
    """The 3-D positions of prompts that hold one picture at a fixed place (or none)."""

    def __init__(self, model: nn.Module, image_start: int, max_tokens: int = 512) -> None:
        token_types = torch.zeros(1, max_tokens, dtype=torch.int)
        token_types[0, image_start : image_start + N_IMAGE_TOKENS] = 1
        grid = torch.tensor([[1, IMAGE_PX // PATCH_PX, IMAGE_PX // PATCH_PX]])
        ids = torch.where(token_types == 1, model.config.image_token_id, 0)
        self._with_image, _ = model.model.get_rope_index(ids, mm_token_type_ids=token_types, image_grid_thw=grid)
        self._text_only = torch.arange(max_tokens).view(1, 1, -1).expand(3, 1, -1)

    def __call__(self, batch: int, length: int, has_image: bool) -> torch.Tensor:
        """Return int64 [3, batch, length]."""
        return (self._with_image if has_image else self._text_only)[:, :, :length].expand(3, batch, length)


@lru_cache(maxsize=8)
def _grids(batch: int) -> torch.Tensor:
    return torch.tensor([[1, IMAGE_PX // PATCH_PX, IMAGE_PX // PATCH_PX]]).expand(batch, 3)


def response_logits(
    model: nn.Module, ids: torch.Tensor, rows: torch.Tensor, patches: torch.Tensor | None, positions: Positions
) -> torch.Tensor:
    """Return the logits [n_rows, vocabulary] at the flat row indices `rows` of ids [batch, length]."""
    batch, length = ids.shape
    has_image = patches is not None
    hidden = model.model(
        input_ids=ids,
        position_ids=positions(batch, length, has_image),
        pixel_values=patches,
        image_grid_thw=_grids(batch) if has_image else None,
        use_cache=False,
    )[0]
    return model.lm_head(hidden.flatten(0, 1)[rows])
