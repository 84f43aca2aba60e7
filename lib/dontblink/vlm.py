"""A vision-language model with everything that depends on its architecture family.

Why: prompts, image grids, positions and the markers of reasoning and answer differ between families; this is
the only module that knows how. In: a checkpoint folder and Items. Out: Prompts (ids, patches, grids), batches
for forward or generate, and the Spans of a response. Token ids come from the loaded config and tokenizer and
responses are cut on ids. Never here: constant token ids, skipped special tokens, re-tokenised text, remote
code. To add a family: one row in FAMILIES, with its own answer markers where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from torch import Tensor

from dontblink.items import Item, open_image
from dontblink.spans import Markers, Spans, segment

REMEDY = "run `make testbed` or point the parameters at a downloaded checkpoint"


class VLMError(ValueError):
    """A model or a prompt that cannot be used; one line that names what was found and what to do."""


def drop_video(processor_class: Any) -> Any:
    """Return the real processor without its video half, which needs torchvision even when no video comes."""

    class ImageTextProcessor(processor_class):
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)
            self.video_token = self.video_token_id = None

    return ImageTextProcessor


@dataclass(frozen=True)
class Family:
    """Facts of one architecture; `name` is the checkpoint's config.model_type."""

    name: str
    model_class: Any
    processor_class: Any
    prompt_opens_think: bool
    think_open: str = "<think>"
    think_close: str = "</think>"
    box_open: str = "<|begin_of_box|>"
    box_close: str = "<|end_of_box|>"


_QWEN = transformers.Qwen3VLForConditionalGeneration, drop_video(transformers.Qwen3VLProcessor)
_GLM = transformers.Glm4vForConditionalGeneration, drop_video(transformers.Glm46VProcessor)
FAMILIES = {
    "qwen3_vl": Family("qwen3_vl", *_QWEN, prompt_opens_think=True),
    "glm4v": Family("glm4v", *_GLM, prompt_opens_think=False),
}


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded item; grids in patches before merging, sizes (width, height) in px after the EXIF turn."""

    item_id: str
    ids: NDArray[np.int64]  # [P]
    pixel_values: NDArray[np.float32]  # [n_patches, dim]
    grid_thw: NDArray[np.int64]  # [n_images, 3]
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(eq=False)
class VLM:
    """A loaded model. No response may hold `suppressed_ids`: the model would look for an image behind them.

    `backend` records who made the pixels ('pil' or 'torchvision': they differ by up to 0.03).
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
        """Put the images, then the question, through the checkpoint's own chat template and processor.

        Raises
        ------
        ItemError
            If an image cannot be read.
        VLMError
            If the processor refuses the item, or the prompt's placeholders do not match its images.
        """
        images = [open_image(source) for source in item.images]
        content = [{"type": "image", "image": image} for image in images]
        content.append({"type": "text", "text": item.question})
        options = {"add_special_tokens": False, "return_mm_token_type_ids": False, "return_tensors": "pt"}
        try:
            batch = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True,
                return_dict=True, processor_kwargs=options,
            )  # fmt: skip
            ids, grids, pixels = batch["input_ids"], batch["image_grid_thw"], batch["pixel_values"]
        except (ValueError, KeyError) as error:
            raise VLMError(f"item {item.id}: cannot be encoded ({first_line(error)}); correct it") from error
        sizes = tuple(image.size for image in images)
        prompt = Prompt(item.id, ids[0].numpy(), pixels.float().numpy(), grids.numpy(), sizes)
        n_found = int(np.isin(prompt.ids, self.suppressed_ids).sum())
        if n_found != (n_tokens := sum(rows * columns for rows, columns in self.image_grid(prompt))):
            raise VLMError(
                f"item {item.id}: {n_found} placeholders in the prompt, expected one for each of "
                f"{n_tokens} image tokens; remove the special tokens from the question"
            )
        return prompt

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
        """
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
            eos=frozenset(self.eos_ids), think_open=ids.get(family.think_open), think_close=ids[family.think_close],
            box_open=ids.get(family.box_open), box_close=ids.get(family.box_close),
            prompt_opens_think=family.prompt_opens_think,
        )  # fmt: skip
        return segment(response_ids, markers, self.token_texts, self._joiner)


def find_backend() -> Literal["pil", "torchvision"]:
    """Return who makes the pixels here: torchvision where it is installed, else PIL."""
    return "torchvision" if find_spec("torchvision") else "pil"


def load_vlm(
    checkpoint: Path | str,
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    backend: Literal["auto", "pil", "torchvision"] = "auto",
) -> VLM:
    """Load a checkpoint folder (or, for a `str` that is no folder, a hub id) of a known family.

    Sampling settings stored with the checkpoint are dropped: generation does what its parameters say.

    Raises
    ------
    VLMError
        In one line, with the remedy: no checkpoint, unknown family, broken or incomplete files.
    """
    path = Path(checkpoint)
    if (isinstance(checkpoint, Path) or path.is_dir()) and not (path / "config.json").is_file():
        raise VLMError(f"{checkpoint}: no checkpoint here (config.json not found); {REMEDY}")
    if backend == "auto":
        backend = find_backend()
    options = {"dtype": getattr(torch, dtype), "attn_implementation": attention, "output_loading_info": True}
    options |= {"device_map": "auto"} if device == "auto" else {}
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        if (family := FAMILIES.get(config.model_type)) is None:
            raise ValueError(f"family {config.model_type!r}; expected one of {', '.join(FAMILIES)}")
        model, report = family.model_class.from_pretrained(checkpoint, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        images = transformers.AutoImageProcessor.from_pretrained(checkpoint, backend=backend, trust_remote_code=False)
        extra, _ = family.processor_class.get_processor_dict(checkpoint)
        template = tokenizer.chat_template or extra.get("chat_template")
        entries = [tokenizer.eos_token_id, model.generation_config.eos_token_id]
        eos = sorted({int(i) for entry in entries if entry is not None for i in np.atleast_1d(entry)})
        for problem, what in (
            (report["missing_keys"], f"weights lack {sorted(report['missing_keys'])[:2]}"),
            (not template, "no chat template"),
            (not eos, "no end-of-sequence token"),
            (family.think_close not in tokenizer.get_vocab(), f"no {family.think_close} token"),
        ):
            if problem:
                raise ValueError(what)
    except (OSError, ValueError, SafetensorError) as error:
        raise VLMError(f"{checkpoint}: cannot be loaded ({first_line(error)}); {REMEDY}") from error
    model.generation_config = transformers.GenerationConfig(eos_token_id=eos)
    model.eval().requires_grad_(False)
    if device != "auto":
        model.to(device)
    processor = family.processor_class(images, tokenizer, chat_template=template)
    n_tokens, image = model.get_input_embeddings().num_embeddings, int(config.image_token_id)
    suppressed = tuple(sorted(i for i in {image, config.video_token_id} if i < n_tokens))
    return VLM(
        name or path.name, family, model, tokenizer, processor, backend, image, suppressed, tuple(eos)
    )  # fmt: skip


def first_line(error: BaseException) -> str:
    """Return an error's first line, for one-line messages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
