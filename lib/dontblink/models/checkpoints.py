"""A checkpoint folder to a loaded model, with or without its weights; or one line that says what is wrong with it.

Why: a download that stopped half-way, a pickle, the checkpoint of another model, or a template for text alone otherwise
ends in a traceback after minutes of loading, or worse, in random weights. In: a folder as `hf download` leaves it, and
the options of a run. Out: a `VLM`. The folder is checked first, without a weight in memory (a safetensors file says in
its header how long it must be); what the libraries then still find is told in one line, too. Never here: pickles, code
of a checkpoint's own (a config with `auto_map` is refused: the official checkpoints of the known families have none,
and what its class does cannot be known without running it), sampling settings that came with the checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError, safe_open

from dontblink.errors import NamedError
from dontblink.models.families import FAMILIES, Family, find_thinking, limit_image_tokens
from dontblink.models.vlm import VLM, first_line

REMEDY = "run `make testbed` or point the parameters at a downloaded checkpoint"
AGAIN = "download it again (`hf download <id> --local-dir <folder>` goes on where it stopped)"
BROKEN = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
# what the libraries raise where a file holds a value of another kind or range, or its template does
MALFORMED = (TypeError, AttributeError, IndexError, ArithmeticError, TemplateError, StrictDataclassError)


def check_checkpoint(folder: Path, *, weights: bool = True) -> None:
    """Raise NamedError unless a folder holds a complete checkpoint of a known family; reads headers, never weights.

    That is: no or unreadable config, unknown family, code of its own, leftovers of a download, no tokenizer, image
    processor or chat template, and (with `weights`) missing, empty, truncated or pickled weights.
    """
    if not (folder / "config.json").is_file():
        raise NamedError(f"{folder}: no checkpoint here (config.json not found); {REMEDY}")
    names = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    config, tokenizer, images, processor = (read_json(folder / name) for name in names)
    if (family := str(config.get("model_type"))) not in FAMILIES:
        raise _refuse(folder, f"family {family!r}; expected one of {', '.join(FAMILIES)}", REMEDY)
    for name, content in zip(names, (config, tokenizer, images, processor), strict=True):
        if "auto_map" in content:
            raise _refuse(folder, f"{name} asks for code of its own (auto_map)", "use the official checkpoint")
    if leftovers := sorted(folder.rglob("*.incomplete")):
        what = f"{len(leftovers)} unfinished downloads, first {leftovers[0].name}"
        raise _refuse(folder, what, f"{AGAIN}, or delete them if all files are whole")
    there = {file.name for file in folder.iterdir() if file.is_file()}
    stores = (tokenizer, processor, read_json(folder / "chat_template.json"))
    has_template = "chat_template.jinja" in there or any(content.get("chat_template") for content in stores)
    for what, is_there in {
        "tokenizer (tokenizer.json)": "tokenizer.json" in there or {"vocab.json", "merges.txt"} <= there,
        "image processor (preprocessor_config.json)": names[2] in there or "image_processor" in processor,
        "chat template (chat_template.jinja)": has_template,
    }.items():
        if not is_there:
            raise _refuse(folder, f"no {what}", AGAIN)
    if weights:
        check_weights(folder)


def check_weights(folder: Path) -> None:
    """Raise NamedError unless every weight file is there, in safetensors, and as long as its header says."""
    index = folder / "model.safetensors.index.json"
    names = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
    if index.is_file() and not names:
        raise _refuse(folder, f"{index.name} names no weight file", AGAIN)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise _refuse(folder, f"{len(absent)} of {len(names)} weight files are missing, first {absent[0]}", AGAIN)
    if not names and not (folder / "model.safetensors").is_file():
        if parts := sorted(folder.glob("model-*.safetensors")):
            raise _refuse(folder, f"{len(parts)} weight files without {index.name}", AGAIN)
        if pickles := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
            what = f"{pickles[0].name} is a pickle, which can run code; expected *.safetensors"
            raise _refuse(folder, what, "download the safetensors files of the same checkpoint")
        raise _refuse(folder, "no weights (model.safetensors)", AGAIN)
    for name in names or ["model.safetensors"]:
        if problem := find_damage(folder / name):
            raise _refuse(folder, f"{name} {problem}", AGAIN)


def find_damage(path: Path) -> str:
    """Return what is wrong with a safetensors file, '' if its length is what its header says; reads no tensor."""
    try:
        with safe_open(path, "numpy"):
            return ""
    except SafetensorError as error:
        with path.open("rb") as file:
            is_pointer = file.read(8) == b"version "
        what = "a Git LFS pointer, not weights" if is_pointer else "no whole safetensors file"
        return f"is {what} ({path.stat().st_size} bytes: {first_line(error)})"


def find_eos(folder: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return all end-of-sequence ids that the tokenizer and the generation settings name; ValueError without any."""
    stored = read_json(folder / "generation_config.json").get("eos_token_id", config.get_text_config().eos_token_id)
    entries = [entry for entry in (tokenizer.eos_token_id, stored) if entry is not None]
    if not (found := sorted({int(i) for entry in entries for i in np.atleast_1d(entry)})):
        raise ValueError("no end-of-sequence token")
    return tuple(found)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is no such file; raise NamedError where it cannot be read."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NamedError(f"{path}: not readable as JSON ({first_line(error)}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise NamedError(f"{path}: holds a {type(found).__name__}, expected an object; {AGAIN}")
    return found


def _refuse(folder: Path, what: str, remedy: str) -> NamedError:
    return NamedError(f"{folder}: cannot be loaded ({what}); {remedy}")


def find_backend() -> Literal["pil", "torchvision"]:
    """Return who makes the pixels here: torchvision where it is installed, else PIL."""
    return "torchvision" if find_spec("torchvision") else "pil"


def load_vlm(
    checkpoint: Path | str,
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa",
    thinking: bool = True,
    max_image_tokens: int | None = None,
    weights: bool = True,
) -> VLM:
    """Load a checkpoint folder of a known family, without its sampling settings: generation obeys its parameters.

    Parameters
    ----------
    device : 'auto' spreads a model larger than one card over all cards, with accelerate
    thinking : False asks a hybrid checkpoint not to think; see `families.find_thinking`
    max_image_tokens : merged tokens of one picture at most; None keeps the checkpoint's own limit
    weights : False leaves `VLM.model` None; everything but `collate` works

    Raises
    ------
    NamedError
        As `check_checkpoint`, and for broken files, limits that cannot be kept, or a checkpoint that always thinks
        where `thinking` is False.
    """
    folder = Path(checkpoint)
    check_checkpoint(folder, weights=weights)
    with naming(folder, (*BROKEN, *MALFORMED)):
        vlm = read_files(folder, name or folder.name, thinking)
        images = vlm.processor.image_processor
        vlm.own_image_size = images.size
        limit_image_tokens(images, vlm.family, max_image_tokens)
        images(Image.new("RGB", (64, 64)), return_tensors="pt")  # one with bad settings fails here
    if weights:
        with naming(folder, (*BROKEN, TypeError, ArithmeticError)):  # the last two: sizes that no layer can have
            vlm.model = load_model(folder, vlm.family, device, dtype, attention)
            vlm.model.generation_config = transformers.GenerationConfig(eos_token_id=list(vlm.eos_ids))
    return vlm


@contextmanager
def naming(folder: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a broken checkpoint raises inside into a NamedError that names the folder and the remedy."""
    try:
        yield
    except NamedError as error:
        raise NamedError(f"{folder}: {error}") from error
    except errors as error:
        reason = error if isinstance(error, StrictDataclassError) else first_line(error)
        raise _refuse(folder, str(reason), REMEDY) from error


def read_files(folder: Path, name: str, thinking: bool) -> VLM:
    """Return the model without its weights; a broken file is whatever the library that reads it raises."""
    backend = find_backend()
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
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # of a log it would make one long line
    model, report = family.model_class.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True,
        output_loading_info=True, **options,
    )  # fmt: skip
    if report["missing_keys"]:
        raise ValueError(f"weights lack {sorted(report['missing_keys'])[:2]}")
    model.eval().requires_grad_(False)
    return model if device == "auto" else model.to(device)
