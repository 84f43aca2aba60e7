"""Claims about checkpoints: what is wrong with a folder is said in one line with a remedy, before weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dontblink.errors import NamedError
from dontblink.models import checkpoints
from dontblink.models.checkpoints import check_checkpoint, find_damage, find_folder, load_vlm
from dontblink.models.stand_in import build_stand_in


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


def cut(folder: Path) -> None:
    first_part(folder).write_bytes(first_part(folder).read_bytes()[:-1])


def pickle_only(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def forget_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


INDEX = "model.safetensors.index.json"
OWN = {"AutoModel": "modeling.X"}
SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"no checkpoint here .config.json not found.*make testbed"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config.json: not readable as JSON.*download"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a list, expected an object"),
    "family": (lambda f: change_json(f / "config.json", model_type="llava"), "family 'llava'; expected one of qwen3"),
    "own code": (lambda f: change_json(f / "config.json", auto_map=OWN), "code of its own .auto_map.*official"),
    "own tokens": (lambda f: change_json(f / "tokenizer_config.json", auto_map=OWN), "tokenizer_config.json asks for"),
    "leftover": (lambda f: (f / "model-9.incomplete").write_bytes(b""), "1 unfinished downloads, first model-9"),
    "part missing": (lambda f: first_part(f).unlink(), "1 of [3-9] weight files are missing, first model-00001-of"),
    "index missing": (lambda f: (f / INDEX).unlink(), f"weight files without {INDEX}.*hf download"),
    "empty index": (lambda f: change_json(f / INDEX, weight_map={}), f"{INDEX} names no weight file"),
    "empty": (lambda f: first_part(f).write_bytes(b""), "model-00001-of-.* is empty.*download it again"),
    "truncated": (cut, r"model-00001-of-.* is truncated .\d+ of \d+ bytes"),
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
    data = first_part(whole).read_bytes()
    (tmp_path / "part").write_bytes(data[:n_bytes])
    assert find_damage(tmp_path / "part")
    (tmp_path / "part").write_bytes(data)
    assert find_damage(tmp_path / "part") == ""
    (tmp_path / "part").write_bytes(data + b"x")
    assert "too long" in find_damage(tmp_path / "part")
    (tmp_path / "part").write_bytes(data[:8] + b"!" * (len(data) - 8))
    assert "unreadable header" in find_damage(tmp_path / "part")


def test_a_hub_id_is_downloaded_without_pickles_at_its_revision(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object, list[str]]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(whole)

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    assert load_vlm("owner/name-2B", revision="abc", weights=False).name == "name-2B"
    assert find_folder("owner/name") == whole
    assert asked[0] == ("owner/name-2B", "abc", ["*.json", "*.jinja", "*.txt"])
    assert asked[1][2][-1] == "*.safetensors"


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("no route to the hub\nsecond line")

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    with pytest.raises(NamedError, match="owner/name: cannot be downloaded .no route to the hub.*make testbed"):
        find_folder("owner/name")


def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    for missing in (tmp_path / "a", str(tmp_path / "a")):
        with pytest.raises(NamedError, match="no checkpoint here"):
            load_vlm(missing)
