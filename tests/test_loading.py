"""Loading: whatever is wrong with a checkpoint folder is one line; what is right loads with and without weights."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from test_vlm import FAMILIES, cut, make_item, save_checkpoint

from dontblink.errors import NamedError
from dontblink.models.checkpoints import load_vlm
from dontblink.models.stand_in import build_stand_in

TEXT_ONLY = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"


def test_missing_checkpoint_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NamedError, match="no checkpoint here.*make testbed") as caught:
            load_vlm(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_unknown_family_broken_weights_and_missing_parts_are_errors(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path / "whole", "qwen3_vl")

    def spoil(name: str) -> Path:
        shutil.copytree(whole, tmp_path / name)
        return tmp_path / name

    change_json(spoil("family") / "config.json", model_type="llama")
    with pytest.raises(NamedError, match="family 'llama'; expected one of qwen3_vl, glm4v"):
        load_vlm(tmp_path / "family")
    weights = spoil("cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NamedError, match="cannot be loaded"):
        load_vlm(tmp_path / "cut")
    (spoil("template") / "chat_template.jinja").unlink()
    with pytest.raises(NamedError, match="no chat template"):
        load_vlm(tmp_path / "template")
    tensors = load_file(spoil("lack") / "model.safetensors")
    tensors.pop("model.language_model.layers.0.self_attn.q_proj.weight")
    save_file(tensors, tmp_path / "lack" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NamedError, match="weights lack .*q_proj"):
        load_vlm(tmp_path / "lack")
    (spoil("processor") / "preprocessor_config.json").unlink(missing_ok=True)
    (tmp_path / "processor" / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(NamedError, match="cannot be loaded"):
        load_vlm(tmp_path / "processor")


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
        load_vlm(folder, dtype="float17", backend="pil")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_json(folder / "config.json", text_config=text | {"num_key_value_heads": 0})
    with pytest.raises(NamedError, match="model: cannot be loaded .*; .*make testbed"):
        load_vlm(folder, backend="pil")


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
