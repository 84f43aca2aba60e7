"""Random-weight models of both families, small enough for exact parity tests, and a stand-in for `vlm.VLM`.

In: a family name and, where a benchmark needs them, larger sizes. Out: a `TinyVLM` (no tokenizer: ids only)
and `TinyPrompt`s with random ids and pixels. Weights are drawn wide (std 0.12) so that attention is peaked
and position matters: near-uniform attention would hide most mistakes, and at 0.2 float32 round-off alone
moves eager's own masses by 5e-6. Never measure accuracy with these models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration

FAMILY_NAMES = ("qwen3_vl", "glm4v")
IMAGE, VIDEO, OPEN, CLOSE, EOS = 3, 4, 5, 6, 7  # special ids; ordinary text starts at 8
FIRST_TEXT = 8
MASS_BAR, ENTROPY_BAR, MAP_BAR = 2e-6, 1e-5, 1e-6  # fp32 parity with eager attention
PATCH_VALUES = 3 * 2 * 8 * 8  # channels x temporal patch x patch x patch


@dataclass(frozen=True)
class TinyPrompt:
    """ids int64 [P], pixel_values float32 [patches, 384], grid_thw int64 [images, 3] in patches."""

    item_id: str
    ids: NDArray[np.int64]
    pixel_values: NDArray[np.float32]
    grid_thw: NDArray[np.int64]
    image_sizes: tuple[tuple[int, int], ...]


@dataclass
class TinyVLM:
    """The part of `vlm.VLM` that replay uses: name, model, n_vocabulary, placeholder ids and collate."""

    model: Any
    n_vocabulary: int
    name: str = "tiny"
    image_token_id: int = IMAGE
    suppressed_ids: tuple[int, ...] = (IMAGE, VIDEO)

    def collate(
        self,
        prompts: Sequence[TinyPrompt],
        responses: Sequence[Sequence[int]] | None = None,
        side: str = "right",
    ) -> dict[str, Any]:
        """Pad with id 0. right: 3-D positions and no mask; left: a 2-D mask and no positions."""
        tails = responses or [[]] * len(prompts)
        rows = [torch.tensor([*p.ids.tolist(), *tail]) for p, tail in zip(prompts, tails, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        kinds = (ids == IMAGE).int()
        grids = torch.from_numpy(np.concatenate([p.grid_thw for p in prompts]))
        batch = {
            "input_ids": ids,
            "mm_token_type_ids": kinds,
            "attention_mask": (ids != 0).long() if side == "left" else None,
            "pixel_values": torch.from_numpy(np.concatenate([p.pixel_values for p in prompts])),
            "image_grid_thw": grids,
        }
        if side == "right":
            batch["position_ids"] = self.model.model.get_rope_index(ids, kinds, image_grid_thw=grids)[0]
        return batch


def build_vlm(
    family: str,
    *,
    seed: int = 0,
    width: int = 64,
    n_layers: int = 3,
    n_vocabulary: int = 96,
    std: float = 0.12,
) -> TinyVLM:
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
    return TinyVLM(model.eval().requires_grad_(False), n_vocabulary)


def draw_prompt(
    rng: np.random.Generator,
    item_id: str,
    *,
    grids: Sequence[tuple[int, int]] = ((3, 4),),
    n_text: int = 6,
    n_vocabulary: int = 96,
) -> TinyPrompt:
    """Return a prompt with one image per merged grid (rows, columns), each between its two marker tokens."""
    ids = [FIRST_TEXT + 1]
    for rows, columns in grids:
        ids += [OPEN, *[IMAGE] * (rows * columns), CLOSE, *rng.integers(FIRST_TEXT, n_vocabulary, 2).tolist()]
    ids += rng.integers(FIRST_TEXT, n_vocabulary, n_text).tolist()
    grid_thw = np.array([(1, 2 * rows, 2 * columns) for rows, columns in grids], dtype=np.int64)
    pixels = rng.normal(size=(int(grid_thw.prod(axis=1).sum()), PATCH_VALUES)).astype(np.float32)
    sizes = tuple((16 * columns, 16 * rows) for rows, columns in grids)
    return TinyPrompt(item_id, np.array(ids, dtype=np.int64), pixels, grid_thw, sizes)


def draw_response(rng: np.random.Generator, length: int, n_vocabulary: int = 96) -> list[int]:
    """Return `length` random ordinary token ids."""
    return [int(token) for token in rng.integers(FIRST_TEXT, n_vocabulary, length)]


def count_image_tokens(prompt: TinyPrompt) -> int:
    """Return the number of merged image tokens of a prompt."""
    return int((prompt.ids == IMAGE).sum())
