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
from importlib.metadata import PackageNotFoundError, requires, version
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
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from dontblink import paths
from dontblink.errors import NamedError, first_line
from dontblink.models.families import find_family, find_thinking, limit_image_tokens
from dontblink.models.generate import is_out_of_memory
from dontblink.models.vlm import VLM, find_placeholders
from dontblink.questions.items import ItemError

GET = "download it (`hf download <id> --local-dir <folder>`), or correct extraction.checkpoints_folder or models"
AGAIN = "download it again (`hf download <id> --local-dir <folder>` goes on where it stopped)"
OTHER_TYPE = "expected one that AutoModelForImageTextToText loads; a newer transformers may know it"
UNQUANTISED = "take the checkpoint in bfloat16 that it was made from"
ROOM = "set extraction.dtype to bfloat16 or device to auto, which takes all cards, or take a smaller model"
# What a method needs besides accelerate: transformers asks for one package after the other. Others it names itself.
QUANTISERS = {
    "bitsandbytes": ("bitsandbytes",), "compressed-tensors": ("compressed_tensors",), "auto-round": ("auto_round",),
    "gptq": ("optimum", "gptqmodel"), "awq": ("gptqmodel",), "torchao": ("torchao",), "hqq": ("hqq",),
    "quanto": ("optimum-quanto",), "mxfp4": ("kernels",),
}  # fmt: skip
BROKEN = (OSError, ValueError, KeyError, RuntimeError, ImportError, MemoryError, SafetensorError)
# what the libraries raise where a file holds a value of another kind or range, or its template does
MALFORMED = (TypeError, AttributeError, IndexError, ArithmeticError, TemplateError, StrictDataclassError)


def check_checkpoint(folder: Path, *, weights: bool = True) -> None:
    """Raise NamedError unless a folder holds a complete checkpoint of a known family; reads headers, never weights.

    That is: no or unreadable config, unknown family, code of its own, leftovers of a download, no tokenizer, image
    processor or chat template, and (with `weights`) missing, empty, truncated or pickled weights.
    """
    if not (folder / "config.json").is_file():
        raise _refuse(folder, describe_folder(folder), GET, "no checkpoint here")
    names = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    config, tokenizer, images, processor = (read_json(folder / name) for name in names)
    if (kind := str(config.get("model_type"))) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise _refuse(folder, f"type {kind!r} is no image-text model of transformers {version('transformers')}", OTHER_TYPE)
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
        check_quantisation(folder)
        check_weights(folder)


def describe_folder(folder: Path) -> str:
    """Return what lies in a folder in place of a checkpoint: where a near one is, or a kind that is not read."""
    if not folder.is_dir():
        return "no such folder"
    if inside := sorted([*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")]):
        return f"config.json lies in {inside[0].parent}: give that folder"
    kinds = {"adapter_config.json": "an adapter: merge it into its model", "*.gguf": "GGUF, which is not read here"}
    found = [kind for pattern, kind in kinds.items() if any(folder.glob(pattern))]
    return f"config.json not found{f', but {found[0]}' if found else ''}"


def find_quantisation(folder: Path) -> str:
    """Return by which method the weights of a checkpoint are quantised, '' if they are not."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    for found in (place.get(key) for place in places for key in ("quantization_config", "quantization")):
        if isinstance(found, dict):
            is_old = found.get("load_in_4bit") or found.get("load_in_8bit")  # bitsandbytes before it named itself
            return str(found.get("quant_method") or ("bitsandbytes" if is_old else "an unnamed method"))
    return ""


def check_quantisation(folder: Path) -> None:
    """Raise NamedError where weights are quantised by a method that transformers lacks, or lacks packages for.

    Of an unknown method transformers only warns, and takes the numbers as they are stored for weights.
    """
    if not (method := find_quantisation(folder)):
        return
    if method not in {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}:
        raise _refuse(folder, f"quantised by {method}, which transformers cannot read", UNQUANTISED)
    if lacking := [name for name in (*QUANTISERS.get(method, ()), "accelerate") if not is_installed(name)]:
        names = " ".join(name.replace("_", "-") for name in lacking)
        what = f"quantised by {method}, which needs {names.replace(' ', ' and ')}"
        raise _refuse(folder, what, f"`pip install {names}` (and look that torch stays), or {UNQUANTISED}")


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; of a part, such as optimum-quanto, its own name is optimum.quanto."""
    try:
        return find_spec(package.replace("-", ".")) is not None
    except ModuleNotFoundError:
        return False


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


def is_shipped(folder: Path) -> bool:
    """Return whether a folder belongs to the testbed of a checkout; there may be none."""
    try:
        return folder.resolve().is_relative_to(paths.ROOT / "models" / "testbed")
    except NamedError:
        return False


def _refuse(folder: Path, what: str, remedy: str, said: str = "cannot be loaded") -> NamedError:
    if remedy in (GET, AGAIN) and is_shipped(folder):
        remedy = "restore it (`git checkout models/testbed`), or train it anew (`make testbed`)"
    return NamedError(f"{folder}: {said} ({what}); {remedy}")


def find_backend() -> Literal["pil", "torchvision"]:
    """Return who makes the pixels here: torchvision where it is installed, else PIL.

    NamedError if it is there and does not fit this torch: it would end the run later, in whatever uses it first.
    """
    if not find_spec("torchvision"):
        return "pil"
    here, problem = version("torch").partition("+")[0], ""
    try:
        import torchvision  # noqa: F401  # a broken one says so only here
        wanted = next((line for line in requires("torchvision") or () if line.startswith("torch==")), "")
        if wanted and wanted.removeprefix("torch==").partition("+")[0] != here:
            problem = f"it asks for {wanted}"
    except PackageNotFoundError:
        problem = "only a part of it is installed"
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        problem = first_line(error)
    if problem:
        _, minor, patch = (int(part) for part in here.split(".")[:3])
        fitting = f"`pip install torchvision==0.{minor + 15}.{patch}` from the index that torch came from"
        raise NamedError(f"torchvision does not fit torch {here}: {problem}; {fitting}, or uninstall it: PIL then reads")
    return "torchvision"


def check_device(device: str) -> None:
    """Raise NamedError unless this machine, this torch and accelerate, for 'auto', have a device."""
    if device == "auto":
        if not is_installed("accelerate"):
            raise NamedError("device auto: accelerate, which spreads a model, is not installed; `pip install accelerate`")
        return
    remedy = "set extraction.device to one that is here"
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise NamedError(f"device {device!r}: unknown; expected cpu, cuda, cuda:N, mps or auto; {remedy}") from error
    if asked.type == "cpu":
        return
    own = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    n_own = torch.accelerator.device_count() if own else 0
    if own is None or own.type != asked.type:
        built = {"cuda": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_built()}
        if built.get(asked.type):
            why, remedy = "finds none", f"look at its driver and CUDA_VISIBLE_DEVICES, or {remedy}"
        else:
            why, remedy = "is built without it", f"install a torch that has it (REAL_MODELS.md, 1), or {remedy}"
        raise NamedError(f"device {device}: torch {torch.__version__} {why}; {remedy}")
    if (asked.index or 0) >= n_own:
        raise NamedError(f"device {device}: {n_own} here, {own.type}:0 to {own.type}:{n_own - 1}; {remedy}")


def load_vlm(
    checkpoint: Path | str, *, name: str | None = None, device: str = "cpu", dtype: str = "float32",
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa", thinking: bool = True,
    max_image_tokens: int | None = None, weights: bool = True,
) -> VLM:  # fmt: skip
    """Load a checkpoint folder of any image-text type, without its sampling settings: generation obeys its parameters.

    Parameters
    ----------
    device : 'auto' spreads a model larger than one card over all cards, with accelerate
    thinking : False asks a hybrid checkpoint not to think; see `families.find_thinking`
    max_image_tokens : merged tokens of one picture at most; None keeps the checkpoint's own limit
    weights : False leaves `VLM.model` None; everything but `collate` works

    Raises
    ------
    NamedError
        As `check_checkpoint` and `check_device`, and for broken files, limits that cannot be kept, or a checkpoint
        that always thinks where `thinking` is False.
    """
    folder = Path(checkpoint)
    check_checkpoint(folder, weights=weights)
    if weights:
        check_device(device)
    with naming(folder, (*BROKEN, *MALFORMED)):
        vlm = read_files(folder, name or folder.name, thinking)
        images = vlm.processor.image_processor
        vlm.own_image_size = images.size
        limit_image_tokens(images, vlm.family, max_image_tokens)
        vlm.most_image_tokens = max_image_tokens
        content = [{"type": "image", "image": Image.new("RGB", (64, 64))}, {"type": "text", "text": "?"}]
        probe = [{"role": "user", "content": content}]
        try:
            vlm.encode_messages(probe, "probe")  # bad settings fail here
        except AttributeError:  # its processor asks the video half even for a picture
            vlm.processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            vlm.encode_messages(probe, "probe")
        except ItemError as error:
            raise ValueError(str(error)) from error
    if weights:
        with naming(folder, (*BROKEN, TypeError, ArithmeticError)):  # the last two: sizes that no layer can have
            vlm.model = load_model(folder, device, dtype, attention)
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
        raise _refuse(folder, str(reason), find_remedy(folder, error)) from error


def find_remedy(folder: Path, error: Exception) -> str:
    """Return what to do where a library could not load a folder."""
    method = find_quantisation(folder)
    if is_out_of_memory(error):
        return ROOM
    if "flash" in str(error).lower():
        return "install flash-attn, or set extraction.attention to sdpa"
    if method or isinstance(error, ImportError):
        return f"install what it asks for{f', or {UNQUANTISED}' if method else ''}"
    return AGAIN


def read_files(folder: Path, name: str, thinking: bool) -> VLM:
    """Return the model without its weights; a broken file is whatever the library that reads it raises."""
    backend = find_backend()
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family, processor = find_family(config.model_type), load_processor(folder, backend)
    tokenizer = processor.tokenizer
    found = find_thinking(processor, family, thinking)
    if found.thinks and family.think_close not in tokenizer.get_vocab():
        raise ValueError(f"no {family.think_close} token")
    n_vocabulary = int(config.get_text_config(decoder=True).vocab_size)
    image, suppressed = find_placeholders(config, processor, n_vocabulary)
    return VLM(
        name, family, None, tokenizer, processor, backend, image, suppressed, find_eos(folder, config, tokenizer),
        n_vocabulary, found.thinks, found.prompt_opens_think, found.template_options,
    )  # fmt: skip


def load_processor(folder: Path, backend: str = "pil") -> Any:
    """Return the processor of a checkpoint folder for text and pictures: other parts would ask for torchvision, or more."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[config.model_type])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
    settings, _ = kind.get_processor_dict(folder)
    settings["chat_template"] = tokenizer.chat_template or settings.get("chat_template")
    parts = {"tokenizer": tokenizer, "image_processor": images}

    def check(processor: Any, name: str, part: Any) -> Any:
        return None if part is None else kind.check_argument_for_proper_class(processor, name, part)

    partly: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    processor = partly.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], settings)
    if hasattr(processor, "video_token"):
        processor.video_token = processor.video_token_id = None
    return processor


def load_model(folder: Path, device: str, dtype: str, attention: str) -> Any:
    """Return the model in eval mode, from safetensors only; raise ValueError where the files lack a weight."""
    options: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {}
    if not options and find_quantisation(folder):
        options = {"device_map": {"": device}}  # most quantised layers cannot be moved once they are made
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # of a log it would make one long line
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True,
        output_loading_info=True, **options,
    )  # fmt: skip
    if report["missing_keys"]:
        raise ValueError(f"weights lack {sorted(report['missing_keys'])[:2]}")
    if odd := sorted(key for key in report["unexpected_keys"] if is_beside_weight(model, key)):
        raise ValueError(f"weights hold {odd[0]}, which its layer would pass over")
    model.eval().requires_grad_(False)
    return model if options else model.to(device)


def is_beside_weight(model: Any, key: str) -> bool:
    """Return whether a stored tensor belongs to a layer of the model that has weights of its own.

    A scale, a bias or an adapter that is passed over makes another model; parts that the class does not have, such as a
    head for drafting tokens, do not.
    """
    try:
        layer = model.get_submodule(key.rpartition(".")[0])
    except AttributeError:
        return False
    return next(layer.parameters(recurse=False), None) is not None
