"""A checkpoint folder to a loaded model, with or without its weights.

Why it exists: a broken download, a template for text alone or a switch that a checkpoint does not have must end in one
line before anything is computed, whatever the library that meets it first would say. In: a folder or a hub id, and the
options of a run. Out: a `VLM`. Never: remote code, pickled weights, sampling settings that came with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError

from dontblink.checkpoints import REMEDY, check_checkpoint, find_eos, find_folder
from dontblink.families import FAMILIES, Family, VLMError, find_thinking, first_line, limit_image_tokens
from dontblink.vlm import VLM

BROKEN = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
# what the libraries raise where a file holds a value of another kind or range, or its template does
MALFORMED = (TypeError, AttributeError, IndexError, ArithmeticError, TemplateError, StrictDataclassError)


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
