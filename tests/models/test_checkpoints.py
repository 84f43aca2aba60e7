"""Claims about checkpoints: what is wrong with a folder is one line with a remedy; what is right loads as it should."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_items import make_item
from tiny_checkpoints import FAMILIES, cut, save_checkpoint
from transformers import AutoModelForImageTextToText

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.models import checkpoints
from dontblink.models.checkpoints import check_checkpoint, check_device, find_backend, find_damage, load_vlm
from dontblink_testbed.stand_in import build_stand_in


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in three weight files with an index, as the real ones are."""
    folder = build_stand_in("Qwen3-VL-8B", tmp_path_factory.mktemp("whole"))
    model = load_vlm(folder).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="700KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def first_part(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def shorten(folder: Path) -> None:
    first_part(folder).write_bytes(first_part(folder).read_bytes()[:-1])


def pickle_only(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def forget_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


INDEX = "model.safetensors.index.json"
OWN = {"AutoModel": "modeling.X"}
TEXT_ONLY = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"no checkpoint here .config.json not found.*hf download"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config.json: not readable as JSON.*download"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a list, expected an object"),
    "family": (lambda f: change_json(f / "config.json", model_type="gpt2"),
               "type 'gpt2' is no image-text model of transformers .*; expected one that AutoModelForImageText"),
    "adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "but an adapter: merge it into"),
    "gguf": (lambda f: (f / "config.json").rename(f / "model.gguf"), "but GGUF, which is not read here"),
    "deeper": (lambda f: shutil.copytree(f, f / "snapshots" / "1f") and (f / "config.json").unlink(),
               "config.json lies in .*snapshots/1f: give that folder"),
    "own code": (lambda f: change_json(f / "config.json", auto_map=OWN), "code of its own .auto_map.*official"),
    "own tokens": (lambda f: change_json(f / "tokenizer_config.json", auto_map=OWN), "tokenizer_config.json asks for"),
    "leftover": (lambda f: (f / "model-9.incomplete").write_bytes(b""), "1 unfinished downloads, first model-9"),
    "part missing": (lambda f: first_part(f).unlink(), "1 of [3-9] weight files are missing, first model-00001-of"),
    "index missing": (lambda f: (f / INDEX).unlink(), f"weight files without {INDEX}.*hf download"),
    "empty index": (lambda f: change_json(f / INDEX, weight_map={}), f"{INDEX} names no weight file"),
    "empty": (lambda f: first_part(f).write_bytes(b""), r"model-00001-of-.* is no whole .*file .0 bytes: .*again"),
    "truncated": (shorten, r"model-00001-of-.* is no whole safetensors file .\d+ bytes: .*not fully covered"),
    "pointer": (lambda f: first_part(f).write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS pointer"),
    "pickle": (pickle_only, "pytorch_model.bin is a pickle.*expected .*safetensors"),
    "no weights": (lambda f: [path.unlink() for path in f.glob("model*")], "no weights .model.safetensors"),
    "tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer .tokenizer.json"),
    "images": (lambda f: (f / "preprocessor_config.json").unlink(), "no image processor .preprocessor_config.json"),
    "template": (forget_template, "no chat template"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_what_is_wrong_is_said_in_one_line(name: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, message = SPOILS[name]
    spoil(copy)
    monkeypatch.setattr("dontblink.models.checkpoints.load_model", lambda *_: pytest.fail("weights were read"))
    for call in (check_checkpoint, load_vlm):
        with pytest.raises(NamedError, match=message) as caught:
            call(copy)
        assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
        assert "testbed" not in str(caught.value)  # nobody who downloads a model trains ours


def test_a_whole_checkpoint_passes_and_loads(whole: Path) -> None:
    check_checkpoint(whole)
    assert load_vlm(whole, dtype="bfloat16").model.dtype.itemsize == 2


def test_without_weights_only_the_small_files_must_be_there(copy: Path) -> None:
    pickle_only(copy)
    check_checkpoint(copy, weights=False)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(NamedError, match="no tokenizer"):
        check_checkpoint(copy, weights=False)


def test_a_chat_template_may_stand_in_any_of_its_official_places(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    forget_template(copy)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = copy / name
        kept = path.read_text() if path.exists() else "{}"
        path.write_text(json.dumps(json.loads(kept) | {"chat_template": template}))
        check_checkpoint(copy)
        assert load_vlm(copy, weights=False).thinks
        path.write_text(kept) if kept != "{}" else path.unlink()


@pytest.mark.parametrize("n_bytes", [1, 7, 8, 9, 100])
def test_a_file_cut_anywhere_is_damaged(n_bytes: int, whole: Path, tmp_path: Path) -> None:
    data, part = first_part(whole).read_bytes(), tmp_path / "part"
    for content in (data[:n_bytes], data + b"x", data[:8] + b"!" * (len(data) - 8)):
        part.write_bytes(content)
        assert find_damage(part).startswith(f"is no whole safetensors file ({len(content)} bytes: ")
    part.write_bytes(data)
    assert find_damage(part) == ""


def test_a_folder_that_is_not_there_or_empty_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", str(tmp_path / "nowhere"), tmp_path, "owner/name"):
        with pytest.raises(NamedError, match=f"^{folder}: no checkpoint here .*; download it .`hf download"):
            load_vlm(folder)


def test_a_weight_that_the_files_lack_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.language_model.layers.0.self_attn.q_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NamedError, match="weights lack .*q_proj"):
        load_vlm(folder)


@pytest.mark.parametrize(
    ("file", "fields", "found"),
    [
        ("tokenizer_config.json", {"chat_template": TEXT_ONLY}, "can only concatenate str"),
        ("preprocessor_config.json", {"size": [4, 400]}, "cannot be loaded"),
        ("preprocessor_config.json", {"patch_size": 0}, "division"),
        ("preprocessor_config.json", {"patch_size": [8, 8]}, "unsupported operand"),
        ("preprocessor_config.json", {"rescale_factor": "1/255"}, "cannot be loaded"),
        ("preprocessor_config.json", {"image_processor_type": 7}, "cannot be loaded"),
        ("config.json", {"image_token_id": "<|image|>"}, "'image_token_id': TypeError: .* expected int, got str"),
        ("config.json", {"text_config": {}}, "cannot be loaded"),
        ("generation_config.json", {"eos_token_id": {}}, "int"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["Qwen3-VL-2B", "GLM-4.6V-Flash"])
def test_a_file_with_a_value_of_the_wrong_kind_is_one_line_with_folder_and_remedy(
    model: str, file: str, fields: dict[str, object], found: str, tmp_path: Path
) -> None:
    folder = build_stand_in(model, tmp_path / "model", weights="none")  # type: ignore[arg-type]
    load_vlm(folder, weights=False)
    if "chat_template" in fields:
        (folder / "chat_template.jinja").unlink()
    (folder / file).touch()
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text() or "{}") | fields))
    with pytest.raises(NamedError, match=found) as caught:
        load_vlm(folder, weights=False)
    message = str(caught.value)
    assert message.startswith(f"{folder}: cannot be loaded (") and "download it again" in message and "\n" not in message


def test_sizes_that_no_layer_can_have_are_one_line_and_an_unknown_dtype_is_not_blamed_on_the_folder(
    tmp_path: Path,
) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen3_vl")
    with pytest.raises(AttributeError, match="float17"):
        load_vlm(folder, dtype="float17")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_json(folder / "config.json", text_config=text | {"num_key_value_heads": 0})
    with pytest.raises(NamedError, match="model: cannot be loaded .*; download it again"):
        load_vlm(folder)


def test_sampling_settings_of_the_checkpoint_are_dropped_but_every_eos_counts(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [7, 0]}))
    vlm = load_vlm(folder)
    assert vlm.eos_ids == (0, 7)
    kept = vlm.model.generation_config
    assert not kept.do_sample and kept.repetition_penalty in (None, 1.0) and kept.temperature in (None, 1.0)


def test_a_checkpoint_without_a_think_token_loads_only_if_it_does_not_think(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    tokenizer = json.loads((folder / "tokenizer.json").read_text().replace("</think>", "</thonk>"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text().replace("</think>", "</thonk>"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(NamedError, match="no </think> token"):
        load_vlm(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<think>", ""))
    vlm = load_vlm(folder)
    assert not vlm.thinks
    assert cut(vlm, vlm.tokenizer("f5 is 3 . answer is 3")["input_ids"]) == ("f5 is 3 .", "3", ["f5 is 3 ."], True)


def test_a_thinking_checkpoint_cannot_be_silenced(tmp_path: Path) -> None:
    build_stand_in("Qwen3-VL-8B", tmp_path, weights="none")
    with pytest.raises(NamedError, match=f"{tmp_path}: .*always thinks.*-Instruct checkpoint$"):
        load_vlm(tmp_path, weights=False, thinking=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_weights_all_but_a_batch_works(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, family)
    full, light = load_vlm(folder), load_vlm(folder, weights=False)
    item = make_item("w", (96, 48), (32, 64))
    expected, found = full.encode(item), light.encode(item)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.inputs["pixel_values"].numpy(), expected.inputs["pixel_values"].numpy())
    assert light.image_grid(found) == full.image_grid(expected)
    assert light.n_vocabulary == full.n_vocabulary == full.model.get_input_embeddings().num_embeddings
    assert (light.eos_ids, light.suppressed_ids) == (full.eos_ids, full.suppressed_ids) and light.model is None
    with pytest.raises(NamedError, match="loaded without weights"):
        light.collate([found])


def test_the_testbeds_own_models_are_restored_and_not_downloaded() -> None:
    with pytest.raises(NamedError, match="no such folder.; restore it .`git checkout models/testbed`., or train it"):
        check_checkpoint(paths.ROOT / "models" / "testbed" / "nowhere")


# what real quantised checkpoints write, and what their refusal must name where nothing for them is installed
QUANTISED = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install bitsandbytes accelerate"),
    "an old one": ({"load_in_8bit": True}, "pip install bitsandbytes accelerate"),
    "compressed": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "pip install compressed-tensors"),
    "round": ({"quant_method": "auto-round", "bits": 4}, "pip install auto-round"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "pip install optimum gptqmodel"),
    "awq": ({"quant_method": "awq", "bits": 4}, "pip install gptqmodel"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "pip install accelerate"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "pip install accelerate"),
    "torchao": ({"quant_method": "torchao"}, "pip install torchao"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt, which transformers cannot read"),
    "unnamed": ({"bits": 4}, "an unnamed method, which transformers cannot read"),
}


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("place", ["quantization_config", "quantization", "text_config"])
def test_a_quantised_checkpoint_names_its_method_and_what_is_missing(
    name: str, place: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, expected = QUANTISED[name]
    text = json.loads((copy / "config.json").read_text())["text_config"]
    fields = {"text_config": text | {"quantization_config": settings}} if place == "text_config" else {place: settings}
    change_json(copy / "config.json", **fields)
    monkeypatch.setattr(checkpoints, "is_installed", lambda package: False)
    with pytest.raises(NamedError, match=f"quantised by .*{expected}.*take the checkpoint in bfloat16") as caught:
        load_vlm(copy)
    assert "testbed" not in str(caught.value)
    load_vlm(copy, weights=False)  # prompts need none of it


@pytest.mark.parametrize(("quantised", "device", "map"), [
    (True, "cuda:1", {"": "cuda:1"}), (True, "auto", "auto"), (False, "auto", "auto"), (False, "cpu", None),
])  # fmt: skip
def test_quantised_layers_are_made_where_they_stay(
    quantised: bool, device: str, map: object, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def make(folder: Path, **options: object) -> tuple[torch.nn.Module, dict[str, list[str]]]:
        asked.append(options.get("device_map"))
        return torch.nn.Linear(1, 1), {"missing_keys": [], "unexpected_keys": []}

    if quantised:
        change_json(copy / "config.json", quantization_config={"quant_method": "fp8"})
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", make)
    checkpoints.load_model(copy, device, "float32", "sdpa")  # a second move would fail: no such device here
    assert asked == [map]


def test_packages_of_quantised_weights_are_looked_for() -> None:
    assert checkpoints.is_installed("torch") and checkpoints.is_installed("huggingface_hub")
    assert not checkpoints.is_installed("no_such-package") and not checkpoints.is_installed("torch.no_such")


@pytest.mark.parametrize(("error", "remedy"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "device to auto, which takes all cards, or take a smaller model"),
    (MemoryError("std::bad_alloc"), "or take a smaller model"),
    (ImportError("requires the sentencepiece library"), "install what it asks for$"),
    (ImportError("the package for FlashAttention2 is not there"), "install flash-attn, or set extraction.attention"),
    (RuntimeError("size mismatch for model.embed"), "download it again"),
])  # fmt: skip
def test_the_remedy_follows_what_went_wrong(
    error: Exception, remedy: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*inputs: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "load_model", fail)
    with pytest.raises(NamedError, match=f"cannot be loaded .*; .*{remedy}"):
        load_vlm(whole)


@pytest.mark.parametrize("name", ["q_proj.weight_scale", "q_proj.bias", "q_norm.weight_scale_inv"])
def test_a_tensor_that_its_layer_would_pass_over_is_refused_and_a_whole_part_more_is_not(
    name: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    tensors = load_file(folder / "model.safetensors")
    layers = "model.language_model.layers"
    more = {f"{layers}.99.self_attn.q_proj.weight": torch.ones(2), "draft.head.weight": torch.ones(2)}
    save_file(tensors | more, folder / "model.safetensors", metadata={"format": "pt"})
    load_vlm(folder)
    odd = {f"{layers}.0.self_attn.{name}": torch.ones(2)}
    save_file(tensors | odd, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NamedError, match=f"weights hold .*{name}, which its layer would pass over"):
        load_vlm(folder)


def test_flash_attention_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    if find_spec("flash_attn") is None:
        with pytest.raises(NamedError, match="cannot be loaded .*; install flash-attn, or set extraction.attention"):
            load_vlm(folder, attention="flash_attention_2")


@pytest.mark.parametrize(("device", "here", "built", "found"), [
    ("cuda", None, None, "built without it; install a torch that has it .*extraction.device"),
    ("cuda", None, "13.0", "finds none; look at its driver and CUDA_VISIBLE_DEVICES, or set extraction.device"),
    ("cuda:7", None, None, "cuda:7: .*without it"),
    ("cuda:7", ("cuda", 2), "13.0", "2 here, cuda:0 to cuda:1; set extraction.device"),
    ("cuda", ("mps", 1), None, "without it"),
    ("mps", ("cuda", 1), "13.0", "without it"),
    ("meta", None, None, "without it"),
    ("gpu", None, None, "'gpu': unknown; expected cpu, cuda, cuda:N, mps or auto"),
    ("CUDA", None, None, "unknown"), ("cuda:-1", None, None, "unknown"), ("", None, None, "unknown"),
    ("auto", ("cuda", 2), "13.0", "accelerate, which spreads a model, is not installed; `pip install accelerate`"),
])  # fmt: skip
def test_a_device_that_is_not_here_is_one_line_before_any_weight_is_read(
    device: str, here: tuple[str, int] | None, built: str | None, found: str, whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: here is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(here[0]) if here else None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: here[1] if here else 0)
    monkeypatch.setattr(checkpoints, "is_installed", lambda package: False)
    monkeypatch.setattr(checkpoints, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(NamedError, match=found) as caught:
        load_vlm(whole, device=device)
    assert str(caught.value).startswith("device ") and "\n" not in str(caught.value)


def test_a_device_that_is_here_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(checkpoints, "is_installed", lambda package: True)
    for device in ("cuda", "cuda:0", "cuda:1", "auto", "cpu"):
        check_device(device)


@pytest.mark.parametrize(("module", "asks", "found"), [
    ("raise RuntimeError('operator torchvision::nms does not exist')", "torch==2.13.0", "torchvision::nms"),
    ("raise ImportError('undefined symbol: _ZN5torch')", "torch==2.13.0", "undefined symbol"),
    ("raise AttributeError('partially initialized module')", "torch==2.13.0", "partially"),
    ("", "torch==2.14.1", "it asks for torch==2.14.1"),
    ("", "", "only a part of it is installed"),
])  # fmt: skip
def test_a_torchvision_that_does_not_fit_torch_is_named_with_the_one_that_does(
    module: str, asks: str, found: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torchvision(tmp_path, module, asks, monkeypatch)
    with pytest.raises(NamedError, match=f"does not fit torch 2.13.0: .*{found}.*; `pip install torchvision==0.28.0`"):
        load_vlm(whole, weights=False)


def test_a_torchvision_that_fits_makes_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torchvision(tmp_path, "", "torch==2.13.0", monkeypatch)
    assert find_backend() == "torchvision"
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    assert find_backend() == "pil"


def install_torchvision(folder: Path, module: str, asks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a torchvision of one line where it is found first, and take torch for the one of the lock."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(module)
    if asks:
        (folder / "torchvision-0.9.dist-info").mkdir()
        about = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.9\nRequires-Dist: numpy\n"
        about += f"Requires-Dist: {asks}\n"
        (folder / "torchvision-0.9.dist-info" / "METADATA").write_text(about)
    monkeypatch.setattr(checkpoints, "version", lambda name: "2.13.0+cpu")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # so that what is imported meanwhile is undone
    monkeypatch.delitem(sys.modules, "torchvision")
