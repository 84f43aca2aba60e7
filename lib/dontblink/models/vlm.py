"""A vision-language model of any type, with everything that depends on its type.

Why: prompts, image tokens, positions and the markers of reasoning and answer differ between types; with `families` and
`placement` this is the only module that knows how, and it asks the model, its processor and its configuration before
any table. In: a model and its processor, as the Auto classes load them or `checkpoints` does; Items or chat messages.
Out: Prompts (ids, and whatever else the processor returned), batches for forward or generate, and the Spans of a
response. Responses are cut on ids. Without its weights a VLM of a known grid still encodes, decodes and cuts: for dry
runs and for engines elsewhere. Never here: constant token ids, skipped special tokens, re-tokenised text, remote code.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor
from transformers.utils import ModelOutput

from dontblink.boxes.evidence import Grid, token_coverage
from dontblink.errors import NamedError, first_line
from dontblink.models.families import Family, find_family, find_thinking, limit_image_tokens, read_image_tokens
from dontblink.models.placement import Placement, derive_placement
from dontblink.models.spans import Markers, Spans, segment
from dontblink.questions.items import Box, Item, ItemError, open_image, split_question


PLACEMENTS: dict[str, Placement] = {}  # by what decides them, of all models of this process
ALONE: WeakSet[Any] = WeakSet()  # models that see another prompt's picture, or fail, where prompts share a batch


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded item, its pictures in prompt order: a picture that is shown twice appears twice.

    `inputs` is all that the processor returned besides the ids, for a batch of one; sizes are (width, height) in px
    after the EXIF turn; `image_order` is the place of each shown picture in the item's pictures. `placement` says where
    its image tokens lie; None where that is a grid which the processor states, or not to be had (`unplaced` says why).
    """

    item_id: str
    ids: NDArray[np.int64]  # [P]
    inputs: Mapping[str, Any]
    image_sizes: tuple[tuple[int, int], ...]
    image_order: tuple[int, ...]
    placement: Placement | None = None
    unplaced: str = ""

    def find_image(self, image_token_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places in the prompt of the image tokens that hold pixels, int64 [M], and of those that do not.

        The latter end the rows of a grid or fill a batch; they carry nothing of a picture.
        """
        places = np.flatnonzero(self.ids == image_token_id)
        holds = np.ones(len(places), bool) if self.placement is None else self.placement.picture >= 0
        return places[holds], places[~holds]

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The shapes, without that of the batch, of the inputs that are not a value a token."""
        shapes = {name: tuple(np.shape(given)[1:]) for name, given in self.inputs.items() if not self.is_by_token(given)}
        return tuple(sorted(shapes.items()))

    def is_by_token(self, given: Any) -> bool:
        """Return whether an input holds one value a token of the prompt, [1, P]."""
        return isinstance(given, Tensor) and tuple(given.shape) == (1, len(self.ids))


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
    most_image_tokens: int | None = None  # of a picture; None is the checkpoint's own limit
    adds_special_tokens: bool = False  # as the processor does unless told; the template writes all that a study needs

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
        return replace(self, processor=processor, most_image_tokens=max_image_tokens)

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
        prompt = self.encode_messages([{"role": "user", "content": content}], item.id)
        return replace(prompt, image_order=order)

    def encode_messages(self, messages: Sequence[Mapping[str, Any]], item_id: str = "messages") -> Prompt:
        """Put chat messages, their pictures as PIL images, through the chat template and the processor.

        Errors as `encode`.
        """
        pictures = list_pictures(messages, item_id)
        for text in list_texts(messages):
            if found := {*self.tokenizer(text, add_special_tokens=False)["input_ids"]} & {*self.suppressed_ids}:
                token = self.decode([found.pop()])
                raise ItemError(f"item {item_id}: its text holds {token}, which stands for a picture; remove it")
        inputs = self._process(messages, item_id)
        ids = inputs.pop("input_ids")[0].numpy()
        inputs.pop("attention_mask", None)
        sizes = tuple(picture.size for picture in pictures)
        prompt = Prompt(item_id, ids, inputs, sizes, tuple(range(len(sizes))))
        if not self.states_grid(prompt) and self.model is not None:
            try:
                prompt = replace(prompt, placement=self._place(messages, sizes, item_id))
            except NamedError as error:
                prompt = replace(prompt, unplaced=str(error))
        self._check_prompt(prompt)
        return prompt

    def _process(self, messages: Sequence[Mapping[str, Any]], item_id: str) -> dict[str, Any]:
        try:
            batch = self.processor.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
                **({} if self.adds_special_tokens else {"processor_kwargs": {"add_special_tokens": False}}),
                **self.template_options,
            )  # fmt: skip
        except (ValueError, KeyError, TemplateError) as error:
            raise ItemError(f"item {item_id}: cannot be encoded ({first_line(error)}); correct it") from error
        return {name: given for name, given in dict(batch).items() if name != "labels"}  # a loss is not asked for

    def _place(
        self, messages: Sequence[Mapping[str, Any]], sizes: tuple[tuple[int, int], ...], item_id: str
    ) -> Placement:
        """Return where the image tokens of messages lie, found once for all prompts with pictures of these sizes."""

        def encode(pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
            return self._process(swap_pictures(messages, pictures), item_id)

        return derive_placement(self.model, encode, sizes, self.image_token_id, cache=PLACEMENTS)

    def _check_prompt(self, prompt: Prompt) -> None:
        """Raise ItemError unless there is a picture in the prompt, and each keeps to the budget of image tokens."""
        n_own = int((prompt.ids == self.image_token_id).sum())
        if not n_own:
            raise ItemError(f"item {prompt.item_id}: no image token in its prompt; the template shows no picture")
        if not self.states_grid(prompt):
            if self.most_image_tokens and n_own > (most := self.most_image_tokens * len(prompt.image_sizes)):
                found = f"its pictures take {n_own} image tokens, expected at most {most}"
                raise ItemError(f"item {prompt.item_id}: {found}; scale them down, or raise max_image_tokens")
            return
        counts = [rows * columns for rows, columns in self.image_grid(prompt)]
        _, most = read_image_tokens(self.processor.image_processor, self.family)
        for count, (width, height), place in zip(counts, prompt.image_sizes, prompt.image_order, strict=True):
            if count > most:
                raise ItemError(
                    f"item {prompt.item_id}: image {place + 1} of {width}x{height} px takes {count} image tokens, "
                    f"expected at most {most}; crop it, it is too long and thin to be scaled, or raise max_image_tokens"
                )

    def states_grid(self, prompt: Prompt) -> bool:
        """Return whether the processor states the grid of patches of each picture, whose squares become its tokens.

        Where there are other tokens besides, such as those that end a row, it does not.
        """
        merge = getattr(getattr(self.processor, "image_processor", None), "merge_size", None)
        if "image_grid_thw" not in prompt.inputs or not isinstance(merge, int):
            return False
        n_tokens = int(prompt.inputs["image_grid_thw"].prod(-1).sum()) // merge**2
        return n_tokens == int((prompt.ids == self.image_token_id).sum())

    def image_grid(self, prompt: Prompt) -> list[Grid]:
        """Return (rows, columns) of image tokens for each picture, row-major in the prompt.

        ItemError where the image tokens of a picture are not one grid over all of it.
        """
        if self.states_grid(prompt):
            merge = self.processor.image_processor.merge_size
            return [(rows // merge, columns // merge) for _, rows, columns in prompt.inputs["image_grid_thw"].tolist()]
        grids = prompt.placement.find_grids() if prompt.placement else None
        if grids is None:
            reason = prompt.unplaced or "its image tokens are tiles or crops, not one grid over each picture"
            raise ItemError(f"item {prompt.item_id}: {reason}")
        return grids

    def cover(self, prompt: Prompt, boxes: Sequence[Box]) -> NDArray[np.float32]:
        """Return the share of each image token inside the union of the boxes of its picture, float32 [M], 0 to 1.

        ItemError where the image tokens of the type cannot be placed.
        """
        if prompt.placement is not None and prompt.placement.find_grids() is None:
            holds = prompt.placement.picture >= 0
            return prompt.placement.cover(boxes, prompt.image_sizes, prompt.image_order)[holds]
        grids = self.image_grid(prompt)
        shown = zip(prompt.image_order, prompt.image_sizes, grids, strict=True)
        return np.concatenate([
            token_coverage([box for box in boxes if box.image == place], size, grid) for place, size, grid in shown
        ])  # fmt: skip

    def kind(self, prompt: Prompt) -> Hashable:
        """Return what prompts must have in common to share a batch."""
        return id(prompt) if self.model in ALONE else prompt.shapes

    def collate(
        self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]] | None = None,
        side: Literal["right", "left"] = "right",
    ) -> dict[str, Any]:  # fmt: skip
        """Batch prompts (+ responses) for the model's forward or generate, padded on one side to [B, S].

        What the processor returned goes in whole, prolonged by the response as the model's own generation does it.
        `side` is 'right' for a replay, with a mask of ones (causality hides the padding, but where token types let a
        prompt see itself both ways), 'left' for generate.
        NamedError without weights, or if prompts of different `shapes` are to share a batch.

        Returns
        -------
        dict
            input_ids, attention_mask int64 [B, S], whatever else the processor returns.
        """
        if self.model is None:
            raise NamedError(f"{self.name}: loaded without weights, needed for a batch; use load_vlm(weights=True)")
        if len({prompt.shapes for prompt in prompts}) > 1:
            raise NamedError(f"{self.name}: pictures of these prompts do not fit into one batch; take them one by one")
        rows: list[dict[str, Any]] = []
        for prompt, tail in zip(prompts, responses or [()] * len(prompts), strict=True):
            ids = torch.from_numpy(np.concatenate([prompt.ids, np.asarray(tail, dtype=np.int64)]))[None]
            by_token = {name: given for name, given in prompt.inputs.items() if prompt.is_by_token(given)}
            by_token["attention_mask"] = torch.ones(1, len(prompt.ids), dtype=torch.int64)
            for _ in tail:
                by_token = self.model._update_model_kwargs_for_generation(ModelOutput(), by_token)
            short = {name: ids.shape[1] - given.shape[1] for name, given in by_token.items()}  # kinds of tokens: of text
            by_token = {name: torch.nn.functional.pad(given, (0, short[name])) for name, given in by_token.items()}
            rows.append({"input_ids": ids, **by_token})
        batch: dict[str, Any] = {
            name: torch.nn.utils.rnn.pad_sequence([row[name][0] for row in rows], batch_first=True, padding_side=side)
            for name in rows[0]
        }
        batch["input_ids"][batch["attention_mask"] == 0] = self.eos_ids[0]
        if side == "right" and "token_type_ids" not in batch:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        for name in prompts[0].inputs.keys() - batch.keys():
            parts = [prompt.inputs[name] for prompt in prompts]
            is_tensor = isinstance(parts[0], Tensor)
            batch[name] = torch.cat(parts) if is_tensor else [one for part in parts for one in part]
        return {name: move(given, self.model) for name, given in batch.items()}

    def segment(self, response_ids: Sequence[int]) -> Spans:
        """Cut a response on its ids into reasoning, steps and answer; see `spans.segment`."""
        family, ids = self.family, self._ids
        markers = Markers(
            eos=frozenset(self.eos_ids), think_open=ids.get(family.think_open), think_close=ids.get(family.think_close),
            box_open=ids.get(family.box_open), box_close=ids.get(family.box_close),
            prompt_opens_think=self.prompt_opens_think, thinks=self.thinks,
        )  # fmt: skip
        return segment(response_ids, markers, self.token_texts, self._joiner)


def list_pictures(messages: Sequence[Mapping[str, Any]], item_id: str) -> list[Image.Image]:
    """Return the pictures of chat messages in order; ItemError if there is none, or one is not open."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    pictures = [part.get("image") for part in parts if part.get("type") == "image"]
    if not pictures:
        raise ItemError(f"item {item_id}: no picture, expected at least one; leave it out")
    if odd := [picture for picture in pictures if not isinstance(picture, Image.Image)]:
        kind = type(odd[0]).__name__
        raise ItemError(f"item {item_id}: a picture is a {kind}, expected a PIL image; open it with PIL.Image.open")
    return pictures


def list_texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the texts of chat messages."""
    for message in messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else (part["text"] for part in content if "text" in part)


def swap_pictures(messages: Sequence[Mapping[str, Any]], pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Return chat messages with other pictures, in order."""
    own = iter(pictures)
    swapped = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [{**part, "image": next(own)} if part.get("type") == "image" else part for part in content]
        swapped.append({**message, "content": content})
    return swapped


def move(given: Any, model: Any) -> Any:
    """Return an input on the device of a model, and numbers with a point in its dtype."""
    if not isinstance(given, Tensor):
        return given
    return given.to(find_device(model), model.dtype if given.is_floating_point() else given.dtype)


def find_device(model: Any) -> torch.device:
    """Return where a model takes its inputs; where its first layers are offloaded, accelerate alone knows."""
    if model.device.type != "meta":
        return torch.device(model.device)
    return torch.device(getattr(getattr(model, "_hf_hook", None), "execution_device", None) or "cpu")


def describe_model(model: Any, processor: Any, name: str = "") -> VLM:
    """Return a user's own model and processor as a VLM; NamedError where a part is missing."""
    config, tokenizer = model.config, processor.tokenizer
    if config.is_encoder_decoder:
        raise NamedError(f"{config.model_type}: an encoder-decoder; its response attends to no prompt keys, not measured")
    family = find_family(config.model_type)
    thinking = find_thinking(processor, family, True)
    n_vocabulary = int(config.get_text_config(decoder=True).vocab_size)
    image, suppressed = find_placeholders(config, processor, n_vocabulary)
    given = getattr(model.generation_config, "eos_token_id", None)
    entries = [entry for entry in (tokenizer.eos_token_id, given) if entry is not None]
    eos = tuple(sorted({int(i) for entry in entries for i in np.atleast_1d(entry)}))
    if not eos:
        raise NamedError(f"{config.model_type}: no end-of-sequence token; set model.generation_config.eos_token_id")
    return VLM(
        name or config.model_type, family, model, tokenizer, processor, "own", image, suppressed, eos, n_vocabulary,
        thinking.thinks, thinking.prompt_opens_think, thinking.template_options, adds_special_tokens=True,
    )  # fmt: skip


def find_placeholders(config: Any, processor: Any, n_vocabulary: int) -> tuple[int, tuple[int, ...]]:
    """Return the id of image tokens in a prompt, and the ids of all placeholders for pictures, video and sound.

    Configurations spell the first in two ways, some keep it among the settings of the vision tower, and some leave it
    to the processor, which may call another token so where they do not. NamedError where no one names it.
    """
    places = config, getattr(config, "vision_config", None), processor
    ids: dict[str, int] = {}
    for kind, place in product(("image", "video", "audio"), places):
        found = (getattr(place, f"{kind}_token_{what}", None) for what in ("id", "index"))
        given = [value for value in found if isinstance(value, int) and 0 <= value < n_vocabulary]
        if given and kind not in ids:
            ids[kind] = given[0]
    if "image" not in ids:
        raise NamedError(f"{config.model_type}: neither its configuration nor its processor names the image token")
    return ids["image"], tuple(sorted(set(ids.values())))
