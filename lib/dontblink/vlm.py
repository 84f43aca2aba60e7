"""A vision-language model with everything that depends on its architecture family.

Why: prompts, image grids, positions and the markers of reasoning and answer differ between families; with `families`
this is the only module that knows how. In: a checkpoint folder and Items. Out: Prompts (ids, patches, grids), batches
for forward or generate, and the Spans of a response. Token ids come from the loaded config and tokenizer and responses
are cut on ids. Without its weights a VLM still encodes, decodes and cuts: for dry runs and for engines elsewhere.
Never here: constant token ids, skipped special tokens, re-tokenised text, remote code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from dontblink.checkpoints import REMEDY, check_checkpoint, find_eos, find_folder
from dontblink.families import (
    FAMILIES,
    Family,
    VLMError,
    find_thinking,
    first_line,
    limit_image_tokens,
    read_image_tokens,
)
from dontblink.items import Item, open_image, split_question
from dontblink.spans import Markers, Spans, segment

__all__ = ["FAMILIES", "VLM", "Family", "Prompt", "VLMError", "find_backend", "first_line", "load_vlm"]

BROKEN = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
# what the libraries raise where a file holds a value of another kind or range, or its template does
MALFORMED = (TypeError, AttributeError, IndexError, ArithmeticError, TemplateError, StrictDataclassError)


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
    """A loaded model. No response may hold `suppressed_ids`: the model would look for an image behind them.

    `model` is None where it was loaded without weights. `backend` records who made the pixels ('pil' or
    'torchvision': they differ by up to 0.03). `thinks` is False for the non-reasoning contrast;
    `template_options` are what the chat template is told besides the messages.
    """

    name: str
    family: Family
    model: Any
    tokenizer: Any
    processor: Any
    backend: str
    image_token_id: int
    suppressed_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]
    n_vocabulary: int
    thinks: bool
    prompt_opens_think: bool
    template_options: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def _joiner(self) -> str:
        """What decoding puts between two plain tokens: '' (byte-level) or ' ' (word-level)."""
        special = set(self.tokenizer.all_special_ids)
        pair = [i for i in range(len(self.tokenizer)) if i not in special][:2]
        return " " if self.decode(pair) == " ".join(self.token_texts(pair)) else ""

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids with special tokens kept."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each id alone."""
        return [self.decode([int(i)]) for i in ids]

    def encode(self, item: Item) -> Prompt:
        """Put texts and pictures, in the question's own order, through the checkpoint's chat template and processor.

        Raises
        ------
        ItemError
            If an image cannot be read, or the question names one that is not there.
        VLMError
            If there is no picture, the processor refuses the item, a picture takes more tokens than the budget
            (only pictures of extreme aspect can), or the placeholders do not match the pictures.
        """
        parts = split_question(item)
        order = tuple(part for part in parts if isinstance(part, int))
        if not order:
            raise VLMError(f"item {item.id}: no picture, expected at least one; leave it out")
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
            raise VLMError(f"item {item.id}: cannot be encoded ({first_line(error)}); correct it") from error
        sizes = tuple(opened[place].size for place in order)
        prompt = Prompt(item.id, ids[0].numpy(), pixels.float().numpy(), grids.numpy(), sizes, order)
        self._check_prompt(prompt)
        return prompt

    def _check_prompt(self, prompt: Prompt) -> None:
        """Raise VLMError unless each picture keeps to the budget and has one placeholder for each of its tokens."""
        counts = [rows * columns for rows, columns in self.image_grid(prompt)]
        _, most = read_image_tokens(self.processor.image_processor, self.family)
        for count, (width, height), place in zip(counts, prompt.image_sizes, prompt.image_order, strict=True):
            if count > most:
                raise VLMError(
                    f"item {prompt.item_id}: image {place + 1} of {width}x{height} px takes {count} image tokens, "
                    f"expected at most {most}; crop it, it is too long and thin to be scaled, or raise max_image_tokens"
                )
        n_found = int(np.isin(prompt.ids, self.suppressed_ids).sum())
        if n_found != sum(counts):
            raise VLMError(
                f"item {prompt.item_id}: {n_found} placeholders in the prompt, expected one for each of "
                f"{sum(counts)} image tokens; remove the special tokens from the question"
            )

    def image_grid(self, prompt: Prompt) -> list[tuple[int, int]]:
        """Return (rows, columns) of merged image tokens for each image, row-major in the prompt."""
        merge = self.processor.image_processor.merge_size
        return [(rows // merge, columns // merge) for _, rows, columns in prompt.grid_thw.tolist()]

    def collate(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Sequence[int]] | None = None,
        side: Literal["right", "left"] = "right",
    ) -> dict[str, Tensor | None]:
        """Batch prompts (+ responses) for the model's forward or generate, padded on one side to [B, S].

        Parameters
        ----------
        side
            'right' for a replay: position_ids int64 [3, B, S] from get_rope_index, attention_mask None
            (causality hides the padding). 'left' for generate: an attention mask and no positions.

        Returns
        -------
        dict
            input_ids, mm_token_type_ids (1 on the prompt's image tokens, 0 elsewhere), attention_mask int64
            [B, S]; pixel_values float32 [sum n_patches, dim]; image_grid_thw int64 [sum n_images, 3].

        Raises
        ------
        VLMError
            If the model was loaded without weights.
        """
        if self.model is None:
            raise VLMError(f"{self.name}: loaded without weights, needed for a batch; use load_vlm(weights=True)")
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


def find_backend() -> Literal["pil", "torchvision"]:
    """Return who makes the pixels here: torchvision where it is installed, else PIL."""
    return "torchvision" if find_spec("torchvision") else "pil"


def load_vlm(
    checkpoint: Path | str,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa",
    backend: Literal["auto", "pil", "torchvision"] = "auto",
    thinking: bool = True,
    min_image_tokens: int | None = None,
    max_image_tokens: int | None = None,
    weights: bool = True,
) -> VLM:
    """Load a checkpoint folder (or, for a `str` that is no folder, a hub id at a `revision`) of a known family.

    Sampling settings stored with the checkpoint are dropped: generation does what its parameters say.

    Parameters
    ----------
    device : 'auto' spreads a model larger than one card over all cards, with accelerate
    thinking : False asks a hybrid checkpoint not to think; see `families.find_thinking`
    min_image_tokens, max_image_tokens : merged tokens of one picture; None keeps the checkpoint's own limits
    weights : False leaves `VLM.model` None; everything but `collate` works

    Raises
    ------
    VLMError
        In one line, with the remedy: no checkpoint, unknown family, broken or incomplete files, limits that cannot
        be kept, or a checkpoint that always thinks where `thinking` is False.
    """
    folder = find_folder(checkpoint, revision, weights=weights)
    check_checkpoint(folder, weights=weights)
    name = name or Path(checkpoint).name
    with naming(checkpoint, (*BROKEN, *MALFORMED)):
        vlm = read_files(folder, name, find_backend() if backend == "auto" else backend, thinking)
        limit_image_tokens(vlm.processor.image_processor, vlm.family, min_image_tokens, max_image_tokens)
        vlm.processor.image_processor(
            Image.new("RGB", (64, 64)), return_tensors="pt"
        )  # one with bad settings fails here
    if weights:
        with naming(checkpoint, (*BROKEN, TypeError, ArithmeticError)):  # the last two: sizes that no layer can have
            vlm.model = load_model(folder, vlm.family, device, dtype, attention)
            vlm.model.generation_config = transformers.GenerationConfig(eos_token_id=list(vlm.eos_ids))
    return vlm


@contextmanager
def naming(checkpoint: Path | str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a broken checkpoint raises inside into a VLMError that names the checkpoint and the remedy."""
    try:
        yield
    except VLMError as error:
        raise VLMError(f"{checkpoint}: {error}") from error
    except errors as error:
        reason = error if isinstance(error, StrictDataclassError) else first_line(error)
        raise VLMError(f"{checkpoint}: cannot be loaded ({reason}); {REMEDY}") from error


def read_files(folder: Path, name: str, backend: str, thinking: bool) -> VLM:
    """Return the model without its weights; a broken file is whatever the library that reads it raises."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = FAMILIES[config.model_type]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
    extra, _ = family.processor_class.get_processor_dict(folder)
    template = tokenizer.chat_template or extra.get("chat_template")
    processor = family.processor_class(images, tokenizer, chat_template=template)
    found = find_thinking(processor, family, thinking)
    if found.thinks and family.think_close not in tokenizer.get_vocab():
        raise ValueError(f"no {family.think_close} token")
    n_vocabulary, image = int(config.get_text_config().vocab_size), int(config.image_token_id)
    suppressed = tuple(sorted(i for i in {image, config.video_token_id} if i < n_vocabulary))
    return VLM(
        name, family, None, tokenizer, processor, backend, image, suppressed, find_eos(folder, config, tokenizer),
        n_vocabulary, found.thinks, found.prompt_opens_think, found.template_options,
    )  # fmt: skip


def load_model(folder: Path, family: Family, device: str, dtype: str, attention: str) -> Any:
    """Return the model in eval mode, from safetensors only; raise ValueError where the files lack a weight."""
    options: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {}
    model, report = family.model_class.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True,
        output_loading_info=True, **options,
    )  # fmt: skip
    if report["missing_keys"]:
        raise ValueError(f"weights lack {sorted(report['missing_keys'])[:2]}")
    model.eval().requires_grad_(False)
    return model if device == "auto" else model.to(device)
