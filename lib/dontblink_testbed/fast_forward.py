"""The training forward: the official modules, with the loops that cost a CPU most of its time taken out.

In: a testbed model and a batch of equal-sized pictures. Out: the logits of the response rows. The vision tower of
transformers attends image by image; here all pictures share one grid, so they are attended in one batched product.
Positions are computed once, because every prompt has its picture at the same place. A test holds this forward
against the official one; measurement never uses it.
"""

from __future__ import annotations

import types
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from dontblink_testbed.architectures import IMAGE_MEAN, IMAGE_STD, MERGE, N_IMAGE_TOKENS, PATCH_PX
from dontblink_testbed.scenes import IMAGE_PX

N_PATCHES = (IMAGE_PX // PATCH_PX) ** 2


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
