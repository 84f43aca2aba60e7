"""Where the image tokens of any model lie on its pictures: derived by changing the picture, coded for no family.

Why it exists: evidence boxes are drawn in pixels, attention is measured on tokens, and between the two every family
resizes, crops, pads, tiles and merges in its own way. Nobody has to know how: the processor and the model are asked.
A strip of a picture is changed, and the tokens that change with it lie there.

In: a model, a function that runs the user's processor on a prompt with other pictures of the same sizes, and those
sizes. Out: a `Placement`. What is asked is a twin of the model with one vision layer and random weights, in which every
patch sees only itself: the question is where a token comes from, not what attention has carried into it. The text
model never runs.

Never do here: name a family, use the checkpoint's weights, disturb torch's random numbers, or hand out a map that was
not proven. A model that mixes the whole picture into every token (a resampler), or a tower that mixes patches without
the attention interface, is refused by name; of such a model only the visual mass can be measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor
from transformers import AttentionInterface

from dontblink.boxes.evidence import Grid, token_coverage
from dontblink.errors import NamedError, first_line
from dontblink.questions.items import Box

Encode = Callable[[Sequence[Image.Image]], Mapping[str, Any]]
Floats = NDArray[np.float64]
ITSELF = "dontblink_itself"  # the name of an attention in which each patch sees only itself
COARSE = 32  # strips of an axis that are changed alone, to find which of them a token sees
COMBS = 32  # passes of an axis in which many narrow strips change at once, so far apart that a token sees one of them
SEEN = 1e-6  # of its strongest response (squared distances): less is round-off, not a pixel
FULL = 0.5  # of a token's median response: from here on a strip is wholly in it; random weights spread that far
EDGE = 0.1  # of that: less is what resampling carried over from a neighbour


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the image tokens of a prompt lie on its pictures: M tokens in prompt order, n strips an axis.

    A token that holds no pixel (a line break, padding) is on picture -1, and its rows are 0. A token that is partly
    padding is placed by its part of the picture. Tokens may overlap: a picture is in its tiles and in its thumbnail.
    """

    picture: NDArray[np.int64]  # [M] place of the shown picture in the prompt
    x: NDArray[np.float32]  # [M, n] share of a token's pixels in each vertical strip of its picture, left to right
    y: NDArray[np.float32]  # [M, n] the same for horizontal strips, top to bottom

    def cover(
        self,
        boxes: Sequence[Box],
        image_sizes: Sequence[tuple[int, int]],
        image_order: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the share of each token inside the union of the boxes, float32 [M], 0 to 1; 0 where it has no pixel.

        Sizes (width, height in px) and order have one entry for each shown picture, as in `evidence.item_coverage`: the
        order is its place in the item's images, which `Box.image` names. Raises ValueError if they are not as many.
        """
        order = range(len(image_sizes)) if image_order is None else image_order
        if not len(order) == len(image_sizes) > self.picture.max(initial=-1):
            found = f"{len(image_sizes)} sizes, image order {list(order)}, pictures to {self.picture.max(initial=-1)}"
            raise ValueError(f"placement: {found}; pass the prompt's own, one of each per picture")
        n_strips = self.x.shape[1]
        grid = n_strips, n_strips
        inside = [[box for box in boxes if box.image == place] for place in order]
        cells = [token_coverage(own, size, grid) for own, size in zip(inside, image_sizes, strict=True)]
        return self.gather(np.stack(cells).reshape(-1, *grid))

    def gather(self, maps: ArrayLike) -> NDArray[np.float32]:
        """Return the mean of a map over each token's pixels, float32 [M], of maps [pictures, m, m], 0 to 1; m divides n."""
        given = np.asarray(maps, dtype=np.float64)
        found = np.zeros(len(self.picture), dtype=np.float32)
        for shown, cells in enumerate(given):
            x, y = self._narrow(shown, len(cells))
            found[self.picture == shown] = np.einsum("kj,kj->k", y @ cells, x)
        return found.clip(0, 1)

    def paint(self, values: ArrayLike, side: int | None = None) -> NDArray[np.float64]:
        """Return values of the tokens [M], spread over their pictures, as maps [pictures, m, m], rows from the top.

        What overlapping tokens hold adds up: all maps together sum to the values of the tokens that hold pixels. `side`
        is m, which divides n; by default it is n.
        """
        given = np.asarray(values, dtype=np.float64)
        maps = []
        for shown in range(int(self.picture.max(initial=-1)) + 1):
            x, y = self._narrow(shown, side or self.x.shape[1])
            maps.append(y.T @ (x * given[self.picture == shown, None]))
        return np.stack(maps)

    def _narrow(self, shown: int, side: int) -> tuple[Floats, Floats]:
        """Return the rows of x and y of one picture's tokens over fewer strips, float64 [M of it, side]."""
        here = self.picture == shown
        x, y = (axis[here].reshape(here.sum(), side, -1).sum(-1, dtype=np.float64) for axis in (self.x, self.y))
        return x, y

    def find_grids(self) -> list[Grid] | None:
        """Return (rows, columns) of each picture's tokens where they are one even grid over all of it, else None.

        That is: row-major in the prompt, and each token within a quarter of its side of where an even grid has it.
        """
        grids = []
        for shown in range(int(self.picture.max(initial=-1)) + 1):
            here = self.picture == shown
            middle = (np.arange(self.x.shape[1]) + 0.5) / self.x.shape[1]
            across, down = self.x[here] @ middle, self.y[here] @ middle
            columns = int(np.argmax(np.diff(across, append=-1) < 0)) + 1
            rows = len(across) // columns
            if rows * columns != len(across):
                return None
            grid_across, grid_down = np.tile(np.arange(columns), rows), np.repeat(np.arange(rows), columns)
            off = np.abs([(across * columns - grid_across - 0.5), (down * rows - grid_down - 0.5)])
            if off.max() > 0.25:
                return None
            grids.append((rows, columns))
        return grids


def derive_placement(
    model: Any, encode: Encode, image_sizes: Sequence[tuple[int, int]], image_token_id: int, n_strips: int = 256,
    cache: MutableMapping[str, Placement] | None = None,
) -> Placement:  # fmt: skip
    """Return where the image tokens of a prompt lie on its pictures.

    `encode(pictures)` gives what the processor returns for the prompt, a batch of one, with these pictures (RGB, of
    `image_sizes`: width, height in px, one for each shown picture). Each picture costs at most 129 calls and as many
    passes of one vision layer. A placement found before is taken from `cache`, whose keys are hashes of the
    config, the sizes and what the processor makes of known pictures.

    Proven, picture by picture, or NamedError: a token changes with one picture only, and there with one run of strips
    in x and one in y; beyond the pixels that resampling blurs, strips outside the run change nothing at all; tokens are
    at least two strips wide; the runs leave no gap; and together the tokens hold each pixel once or twice
    (tiles and thumbnail), within 15 %.
    """
    probe = _Probe(model, encode, image_sizes, image_token_id)
    key = probe.hash(n_strips)
    if cache is not None and key in cache:
        return cache[key]
    probe.start()
    parts = [probe.place(shown, n_strips) for shown in range(len(image_sizes))]
    holds = np.array([x.any(axis=1) for x, _ in parts])
    if (holds.sum(axis=0) > 1).any():
        raise probe.refuse("a token changes with two pictures")
    picture = np.where(holds.any(axis=0), holds.argmax(axis=0), -1)
    x, y = (np.stack([part[axis] for part in parts]).sum(axis=0) for axis in (0, 1))
    placement = Placement(picture, x, y)
    if cache is not None:
        cache[key] = placement
    return placement


class _Entered(Exception):
    """What enters the text model, on its way out: the text model itself must not run."""


class _Probe:
    """A twin of a model, a prompt with pictures of noise, and how its image tokens respond to a change of them."""

    def __init__(self, model: Any, encode: Encode, sizes: Sequence[tuple[int, int]], image_token_id: int) -> None:
        self.model, self.encode, self.sizes, self.image_token_id = model, encode, sizes, image_token_id
        devices = [weight.device for weight in model.parameters() if weight.device.type != "meta"]  # offloaded ones are
        self.device = devices[0] if devices else torch.device("cpu")
        noise = np.random.default_rng(0)
        self.pictures = [noise.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
        self.inputs = encode([Image.fromarray(pixels) for pixels in self.pictures])

    def refuse(self, reason: str) -> NamedError:
        name = type(self.model).__name__
        return NamedError(f"{name} has no map from picture to tokens: {reason}; measure its visual mass only, no boxes")

    def hash(self, n_strips: int) -> str:
        """Return a hash of what a placement depends on; the words of a prompt are not among it."""
        ids = self.inputs["input_ids"]
        kind = type(self.model).__name__, self.model.config.to_json_string(), n_strips, list(self.sizes)
        found = hashlib.sha256(repr((kind, int((ids == self.image_token_id).sum()))).encode())
        for name, value in sorted(self.inputs.items()):
            if isinstance(value, Tensor) and value.shape[:2] != ids.shape:
                found.update(repr((name, value.shape)).encode() + value.cpu().float().numpy().tobytes())
        return found.hexdigest()

    def start(self) -> None:
        """Build the twin: of one vision layer or, where the model reads more of them, of all."""
        for depth in (1, None):
            try:
                self.twin = _build_twin(self.model, depth, self.device)
                self.base = self.enter(self.inputs)
                return
            except Exception as error:  # whatever a modeling file raises where a layer that it reads is not there
                reason, cause = f"its twin does not run: {first_line(error)}", error
                if ITSELF in str(error):
                    reason = "the attention of its vision tower cannot be replaced"
        raise self.refuse(reason) from cause

    def enter(self, inputs: Mapping[str, Any]) -> Floats:
        """Return what enters the text model at the image tokens, float64 [M, width]."""

        def stop(module: Any, arguments: Any, options: Mapping[str, Any]) -> None:
            raise _Entered(options.get("inputs_embeds"))

        given = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in inputs.items() if name != "labels"  # they would be a loss, which is not asked for
        }  # fmt: skip
        handle = self.twin.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                self.twin(**given, use_cache=False)
            raise ValueError("nothing enters its text model")
        except _Entered as entered:
            found, ids = entered.args[0], inputs["input_ids"]
            if found is None or len(ids) != 1 or found.shape[:2] != ids.shape:
                raise ValueError("what enters its text model is not one embedding a token") from None
            return found.cpu()[ids == self.image_token_id].double().numpy()
        finally:
            handle.remove()

    def change(self, shown: int, axis: int, inside: NDArray[np.bool_]) -> Floats:
        """Return how far each token moves, squared, when a picture is inverted in some columns (axis 0) or rows (1)."""
        if not inside.any():
            return np.zeros(len(self.base))
        pixels = self.pictures[shown]
        where = inside[None, :, None] if axis == 0 else inside[:, None, None]
        changed = [Image.fromarray(given) for given in self.pictures]
        changed[shown] = Image.fromarray(np.where(where, 255 - pixels, pixels))
        moved: Floats = ((self.enter(self.encode(changed)) - self.base) ** 2).sum(axis=1)
        return moved

    def locate(self, shown: int, axis: int) -> tuple[Floats, NDArray[np.int64]]:
        """Return which part of each narrow strip of an axis lies in each token, [M, strips], and the strips' pixels."""
        pixel = np.arange(self.sizes[shown][axis])
        coarse = pixel * COARSE // len(pixel)
        response = np.stack([self.change(shown, axis, coarse == strip) for strip in range(COARSE)], axis=1)
        strongest = response.max(axis=1, keepdims=True)
        seen = (response > SEEN * strongest) & (strongest > SEEN * strongest.max(initial=0))
        if not seen.any():
            raise self.refuse(f"no token changes with picture {shown + 1}")
        self.check_run(seen, coarse)
        first, last = seen.argmax(axis=1), COARSE - seen[:, ::-1].argmax(axis=1)
        period = int(np.where(seen.any(axis=1), last - first, 0).max())
        parts = max(1, COMBS // period)  # of a coarse strip
        strip = pixel * (COARSE * parts) // len(pixel)
        comb = [self.change(shown, axis, strip % (period * parts) == tooth) for tooth in range(period * parts)]
        index = first[:, None] * parts + np.arange(period * parts)  # the strips of a token, of which each comb has one
        fine = np.zeros((len(seen), (COARSE + period) * parts))
        teeth = np.take_along_axis(np.stack(comb, axis=1), index % (period * parts), axis=1)
        np.put_along_axis(fine, index, np.where(seen.any(axis=1, keepdims=True), teeth, 0), axis=1)
        n_pixels = np.bincount(strip, minlength=COARSE * parts)
        density = fine[:, : COARSE * parts] / np.maximum(n_pixels, 1)
        large = np.where(density > EDGE * density.max(axis=1, keepdims=True), density, np.nan)
        level = np.nanmedian(large, axis=1, keepdims=True)  # of a strip that lies wholly in the token
        share = np.divide(density, FULL * level, out=np.zeros_like(density), where=level > 0)
        share = np.where(share > EDGE, share.clip(0, 1), 0)
        self.check_run(share > 0, strip)
        wide = (share > 0).sum(axis=1)[seen.any(axis=1)]
        tails = seen.sum(axis=1) - 2 - 2.2 * COARSE * (share @ n_pixels) / len(pixel)
        if (tails > 0).any():
            raise self.refuse("a token changes with far more of the picture than lies in it")
        if np.median(wide) < 2:
            raise self.refuse(f"its tokens are narrower than 2 of {COARSE * parts} strips of {len(pixel)} px")
        return share, n_pixels

    def check_run(self, seen: NDArray[np.bool_], strip: NDArray[np.int64]) -> None:
        """Raise NamedError unless each token sees one run of the strips that have pixels, and all leave no gap."""
        filled = seen[:, np.unique(strip)]
        for some in (*filled, filled.any(axis=0)):
            if np.diff(np.flatnonzero(some)).max(initial=1) > 2:  # one strip may lie where a resampling kernel is zero
                raise self.refuse("a token changes with two parts of a picture, or a part with none")

    def place(self, shown: int, n_strips: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the rows of `Placement.x` and `y` for one picture, 0 for the tokens of others."""
        (x, columns), (y, rows) = self.locate(shown, 0), self.locate(shown, 1)
        if (x.any(axis=1) != y.any(axis=1)).any():
            raise self.refuse("a token changes with columns of the picture, and with no row")
        width, height = x @ columns, y @ rows
        held = columns[x.any(axis=0)].sum() * rows[y.any(axis=0)].sum()
        times = float((width * height).sum() / held)
        if not min(abs(times - 1), abs(times / 2 - 1)) < 0.15:
            raise self.refuse(f"its tokens hold each pixel {times:.2f} times, expected once, or twice with a thumbnail")
        return _spread(x * columns, columns, n_strips), _spread(y * rows, rows, n_strips)


def _spread(pixels: Floats, n_pixels: NDArray[np.int64], n_strips: int) -> NDArray[np.float32]:
    """Return pixels by strip [M, strips of so many pixels] as shares in n even strips, float32 [M, n]."""
    stop, even = np.cumsum(n_pixels)[:, None], np.linspace(0, n_pixels.sum(), n_strips + 1)
    start = stop - n_pixels[:, None]
    overlap = np.minimum(stop, even[1:]) - np.maximum(start, even[:-1])
    found = pixels @ (overlap.clip(0) / np.maximum(n_pixels, 1)[:, None])
    total = found.sum(axis=1, keepdims=True)
    return np.divide(found, total, out=np.zeros_like(found), where=total > 0).astype(np.float32)


def _build_twin(model: Any, depth: int | None, device: torch.device) -> Any:
    """Return a model of the same class and config, of `depth` vision layers, in float32 on a device.

    Buffers are the model's own. Weights are random signs, scaled so that what passes keeps its size: no projection is
    zero, and every pixel weighs the same. Those of the text model are one zero, expanded: they take no memory.
    """
    config = deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    for name in config.sub_configs:
        part = getattr(config, name)
        if "vision" not in name or part is None:
            continue
        part._attn_implementation = ITSELF
        for field in ("num_hidden_layers", "depth"):
            if depth is not None and isinstance(n_layers := getattr(part, field, None), int):
                for key, value in vars(part).items():
                    if key == "layer_types" and len(value) == n_layers:
                        setattr(part, key, value[:depth])
                setattr(part, field, depth)
    with torch.device("meta"):
        twin = type(model)(config).eval()
    unread = {*twin.get_decoder().modules(), twin.get_output_embeddings()}
    buffers, draw = dict(model.named_buffers()), torch.Generator().manual_seed(0)
    for path, module in twin.named_modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if module in unread:
                values = torch.zeros((), device=device).expand(weight.shape)
            else:
                signs = torch.randint(0, 2, weight.shape, generator=draw) * 2.0 - 1
                is_convolution = isinstance(module, torch.nn.modules.conv._ConvNd)
                n_inputs = weight[0].numel() if is_convolution else weight.shape[-1]
                values = signs * n_inputs**-0.5 if weight.dim() > 1 else 1 + 0.1 * signs
            module._parameters[name] = torch.nn.Parameter(values.to(device), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                own = buffers[f"{path}.{name}" if path else name].to(device)
                module._buffers[name] = own.float() if own.is_floating_point() else own
    return twin


def _attend_itself(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Return attention [B, S, H, D] in which each of S patches sees only itself: its own value."""
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"{type(module).__name__} asks {key.shape[2]} patches from {query.shape[2]} places")
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ITSELF, _attend_itself)
