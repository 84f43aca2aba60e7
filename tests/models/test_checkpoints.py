"""Claims about checkpoints: what is wrong with a folder is one line with a remedy; what is right loads as it should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_items import make_item
from tiny_checkpoints import FAMILIES, cut, save_checkpoint

from dontblink.errors import NamedError
from dontblink.models.checkpoints import check_checkpoint, find_damage, load_vlm
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
    "no config": (lambda f: (f / "config.json").unlink(), r"no checkpoint here .config.json not found.*make testbed"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config.json: not readable as JSON.*download"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a list, expected an object"),
    "family": (lambda f: change_json(f / "config.json", model_type="llava"),
               "family 'llava'; expected one of qwen3_vl, glm4v"),
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
        with pytest.raises(NamedError, match=f"^{folder}: no checkpoint here .*run `make testbed` or"):
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
    assert message.startswith(f"{folder}: cannot be loaded (") and "make testbed" in message and "\n" not in message


def test_sizes_that_no_layer_can_have_are_one_line_and_an_unknown_dtype_is_not_blamed_on_the_folder(
    tmp_path: Path,
) -> None:
    folder = save_checkpoint(tmp_path / "model", "qwen3_vl")
    with pytest.raises(AttributeError, match="float17"):
        load_vlm(folder, dtype="float17")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_json(folder / "config.json", text_config=text | {"num_key_value_heads": 0})
    with pytest.raises(NamedError, match="model: cannot be loaded .*; .*make testbed"):
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
    np.testing.assert_array_equal(found.pixel_values, expected.pixel_values)
    assert light.image_grid(found) == full.image_grid(expected)
    assert light.n_vocabulary == full.n_vocabulary == full.model.get_input_embeddings().num_embeddings
    assert (light.eos_ids, light.suppressed_ids) == (full.eos_ids, full.suppressed_ids) and light.model is None
    with pytest.raises(NamedError, match="loaded without weights"):
        light.collate([found])


def test_options_that_this_machine_lacks_are_one_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_vl")
    for module, options in (("accelerate", {"device": "auto"}), ("flash_attn", {"attention": "flash_attention_2"})):
        if find_spec(module) is None:
            with pytest.raises(NamedError, match="cannot be loaded") as caught:
                load_vlm(folder, **options)  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)
