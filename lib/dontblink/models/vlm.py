"""A vision-language model with everything that depends on its architecture family.

Why: prompts, image grids, positions and the markers of reasoning and answer differ between families; with `families`
this is the only module that knows how. In: what `checkpoints` loaded, and Items. Out: Prompts (ids, patches, grids),
batches for forward or generate, and the Spans of a response. Token ids come from the loaded config and tokenizer and
responses are cut on ids. Without its weights a VLM still encodes, decodes and cuts: for dry runs and for engines
elsewhere. Never here: constant token ids, skipped special tokens, re-tokenised text, remote code.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dontblink.errors import NamedError
from dontblink.models.families import Family, limit_image_tokens, read_image_tokens
from dontblink.models.spans import Markers, Spans, segment
from dontblink.questions.items import Item, ItemError, open_image, split_question


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, for messages of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded item, its pictures in prompt order: a picture that is shown twice appears twice.

    Grids count patches before merging; sizes are (width, height) in px after the EXIF turn; `image_order` is the place
    of each shown picture in `item.images`.
    """

    item_id: str
    ids: NDArray[np.int64]  # [P]
    pixel_values: NDArray[np.float32]  # [n_patches, dim]
    grid_thw: NDArray[np.int64]  # [n_images, 3]
    image_sizes: tuple[tuple[int, int], ...]
    image_order: tuple[int, ...]


@dataclass(eq=False)
class VLM:
    """A loaded model; `thinks` is False for the non-reasoning contrast."""

    name: str
    family: Family
    model: Any  # None where it was loaded without weights
    tokenizer: Any
    processor: Any
    backend: str  # who made the pixels, 'pil' or 'torchvision': they differ by up to 0.03
    image_token_id: int
    suppressed_ids: tuple[int, ...]  # in no response: the model would look for an image behind them
    eos_ids: tuple[int, ...]
    n_vocabulary: int
    thinks: bool
    prompt_opens_think: bool
    template_options: dict[str, bool] = field(default_factory=dict)  # told to the chat template besides the messages
    own_image_size: Any = None  # the processor's `size` as the checkpoint has it, which every budget starts from

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def _joiner(self) -> str:
        """What decoding puts between two plain tokens: '' (byte-level) or ' ' (word-level)."""
        special = set(self.tokenizer.all_special_ids)
        pair = [i for i in range(len(self.tokenizer)) if i not in special][:2]
        return " " if self.decode(pair) == " ".join(self.token_texts(pair)) else ""

    def limit(self, max_image_tokens: int) -> VLM:
        """Return this model, weights shared, with another image budget; see `families.limit_image_tokens`."""
        processor = copy(self.processor)
        processor.image_processor = images = copy(self.processor.image_processor)
        images.size = self.own_image_size
        limit_image_tokens(images, self.family, max_image_tokens)
        return replace(self, processor=processor)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids with special tokens kept."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each id alone."""
        return [self.decode([int(i)]) for i in ids]

    def encode(self, item: Item) -> Prompt:
        """Put texts and pictures, in the question's own order, through the checkpoint's chat template and processor.

        ItemError if an image cannot be read, the question names one that is not there or none, the processor refuses
        the item, a picture takes more tokens than the budget (only pictures of extreme aspect can), or the placeholders
        do not match the pictures.
        """
        parts = split_question(item)
        order = tuple(part for part in parts if isinstance(part, int))
        if not order:
            raise ItemError(f"item {item.id}: no picture, expected at least one; leave it out")
        opened = {place: open_image(item.images[place]) for place in sorted(set(order))}
        content = [
            {"type": "image", "image": opened[part]} if isinstance(part, int) else {"type": "text", "text": part}
            for part in parts
        ]
        options = {"add_special_tokens": False, "return_mm_token_type_ids": False, "return_tensors": "pt"}
        try:
            batch = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True,
                return_dict=True, processor_kwargs=options, **self.template_options,
            )  # fmt: skip
            ids, grids, pixels = batch["input_ids"], batch["image_grid_thw"], batch["pixel_values"]
        except (ValueError, KeyError, TemplateError) as error:
            raise ItemError(f"item {item.id}: cannot be encoded ({first_line(error)}); correct it") from error
        sizes = tuple(opened[place].size for place in order)
        prompt = Prompt(item.id, ids[0].numpy(), pixels.float().numpy(), grids.numpy(), sizes, order)
        self._check_prompt(prompt)
        return prompt

    def _check_prompt(self, prompt: Prompt) -> None:
        """Raise ItemError unless each picture keeps to the budget and has one placeholder for each of its tokens."""
        counts = [rows * columns for rows, columns in self.image_grid(prompt)]
        _, most = read_image_tokens(self.processor.image_processor, self.family)
        for count, (width, height), place in zip(counts, prompt.image_sizes, prompt.image_order, strict=True):
            if count > most:
                raise ItemError(
                    f"item {prompt.item_id}: image {place + 1} of {width}x{height} px takes {count} image tokens, "
                    f"expected at most {most}; crop it, it is too long and thin to be scaled, or raise max_image_tokens"
                )
        n_found = int(np.isin(prompt.ids, self.suppressed_ids).sum())
        if n_found != sum(counts):
            remedy = f"expected one for each of {sum(counts)} image tokens; remove the question's special tokens"
            raise ItemError(f"item {prompt.item_id}: {n_found} placeholders in the prompt, {remedy}")

    def image_grid(self, prompt: Prompt) -> list[tuple[int, int]]:
        """Return (rows, columns) of merged image tokens for each image, row-major in the prompt."""
        merge = self.processor.image_processor.merge_size
        return [(rows // merge, columns // merge) for _, rows, columns in prompt.grid_thw.tolist()]

    def collate(
        self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]] | None = None,
        side: Literal["right", "left"] = "right",
    ) -> dict[str, Tensor | None]:  # fmt: skip
        """Batch prompts (+ responses) for the model's forward or generate, padded on one side to [B, S].

        `side` is 'right' for a replay: position_ids int64 [3, B, S] from get_rope_index, attention_mask None (causality
        hides the padding); 'left' for generate: an attention mask and no positions. NamedError without weights.

        Returns
        -------
        dict
            input_ids, mm_token_type_ids (1 on the prompt's image tokens, 0 elsewhere), attention_mask int64
            [B, S]; pixel_values float32 [sum n_patches, dim]; image_grid_thw int64 [sum n_images, 3].
        """
        if self.model is None:
            raise NamedError(f"{self.name}: loaded without weights, needed for a batch; use load_vlm(weights=True)")
        columns: dict[str, list[Tensor]] = {"input_ids": [], "mm_token_type_ids": [], "attention_mask": []}
        for prompt, tail in zip(prompts, responses or [()] * len(prompts), strict=True):
            ids = torch.from_numpy(np.concatenate([prompt.ids, np.asarray(tail, dtype=np.int64)]))
            is_image = (ids == self.image_token_id) & (torch.arange(len(ids)) < len(prompt.ids))
            for rows, row in zip(columns.values(), (ids, is_image.long(), torch.ones_like(ids)), strict=True):
                rows.append(row)
        batch: dict[str, Any] = {
            key: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
            for key, rows in columns.items()
        }
        batch["input_ids"][batch["attention_mask"] == 0] = self.eos_ids[0]
        batch["pixel_values"] = torch.from_numpy(np.concatenate([p.pixel_values for p in prompts]))
        batch["image_grid_thw"] = torch.from_numpy(np.concatenate([p.grid_thw for p in prompts]))
        if side == "right":
            batch["attention_mask"] = None
            batch["position_ids"], _ = self.model.model.get_rope_index(
                batch["input_ids"], batch["mm_token_type_ids"], image_grid_thw=batch["image_grid_thw"]
            )
        return {key: None if v is None else v.to(self.model.device) for key, v in batch.items()}

    def segment(self, response_ids: Sequence[int]) -> Spans:
        """Cut a response on its ids into reasoning, steps and answer; see `spans.segment`."""
        family, ids = self.family, self._ids
        markers = Markers(
            eos=frozenset(self.eos_ids), think_open=ids.get(family.think_open), think_close=ids.get(family.think_close),
            box_open=ids.get(family.box_open), box_close=ids.get(family.box_close),
            prompt_opens_think=self.prompt_opens_think, thinks=self.thinks,
        )  # fmt: skip
        return segment(response_ids, markers, self.token_texts, self._joiner)
