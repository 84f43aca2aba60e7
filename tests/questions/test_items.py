"""Claims about items: what makes an item unusable, and that the content hash sees every change."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dontblink.errors import NamedError
from dontblink.extraction import run
from dontblink.questions import registry
from dontblink.questions.items import (
    Box,
    Drawing,
    GoldStep,
    Item,
    ItemError,
    open_image,
    read_bytes,
    split_question,
    validate,
)


def encode(width: int, height: int, *, orientation: int = 1) -> bytes:
    """An image whose left half is black and right half white, before any EXIF turn."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def make_item(**fields: object) -> Item:
    whole: dict[str, object] = {
        "id": "q1", "benchmark": "demo", "split": "test", "images": (encode(40, 20),), "question": "what is it ?",
        "answer": "3", "task_type": "symbolic", "boxes": (Box(0, 0, 0, 40, 20),),
    }  # fmt: skip
    return Item(**(whole | fields))  # type: ignore[arg-type]


def test_a_box_that_fills_its_image_is_valid() -> None:
    validate(make_item())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": " \n"}, "item q1: empty question"), ({"answer": ""}, "item q1: empty answer"),
        ({"task_type": "visual"}, "item q1: task type 'visual'; expected one of"),
        ({"images": ()}, "item q1: no image"),
        ({"images": (b"GIF89a nothing",)}, "item q1: embedded image: not a readable image"),
        ({"images": (encode(40, 20)[:60],)}, "item q1: embedded image: not a readable image"),
        ({"images": (Path("nowhere.png"),)}, "item q1: nowhere.png: cannot read the image"),
        ({"boxes": (Box(0, 0, 0, 1, 1), Box(0, 0, 0, 41, 20))}, "item q1: box 1 .* lies outside its 40x20"),
        ({"boxes": (Box(0, -1, 0, 4, 4),)}, "box 0 .* lies outside"),
        ({"boxes": (Box(0, 5, 3, 5, 9),)}, "box 0 .* has no area"),
        ({"boxes": (Box(0, 9, 3, 5, 9),)}, "box 0 .* has no area"),
        ({"boxes": (Box(0, 0, 0, float("nan"), 9),)}, "box 0 .* has no area"),
        ({"boxes": (Box(1, 0, 0, 4, 4),)}, "box 0 names image 1 of 1"),
        ({"boxes": (Box(-1, 0, 0, 4, 4),)}, "box 0 names image -1 of 1"),
        ({"gold_steps": (GoldStep("f5 is 3", "guess"),)}, "item q1: gold step kind 'guess'"),
    ],
)  # fmt: skip
def test_an_unusable_item_is_one_line_that_names_the_item(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ItemError, match=message) as caught:
        validate(make_item(**fields))
    assert "\n" not in str(caught.value)


def test_boxes_are_checked_against_the_image_as_exif_turns_it() -> None:
    turned = encode(40, 20, orientation=6)
    validate(make_item(images=(turned,), boxes=(Box(0, 0, 0, 20, 40),)))
    with pytest.raises(ItemError, match="outside its 20x40 px image"):
        validate(make_item(images=(turned,), boxes=(Box(0, 0, 0, 40, 20),)))


def test_files_and_bytes_hash_alike_and_any_change_changes_the_hash(tmp_path: Path) -> None:
    item = make_item()
    (tmp_path / "image.png").write_bytes(encode(40, 20))
    assert make_item(images=(tmp_path / "image.png",)).content_hash == item.content_hash
    changes: list[dict[str, object]] = [
        {"id": "q2"}, {"question": "what ?"}, {"images": (encode(40, 21),)}, {"boxes": (Box(0, 0, 0, 40, 19),)},
        {"covariates": {"noise_level": 0.5}}, {"gold_steps": (GoldStep("f5 is 3", "read", (0,)),)},
        {"split": "calibration"},
    ]  # fmt: skip
    hashes = {dataclasses.replace(item, **change).content_hash for change in changes}  # type: ignore[arg-type]
    assert len(hashes | {item.content_hash}) == len(changes) + 1


def test_a_drawing_is_drawn_once_and_its_file_shows_the_same() -> None:
    pixels, calls = np.arange(60, dtype=np.uint8).reshape(4, 5, 3), list[int]()
    item = make_item(images=(Drawing(lambda: calls.append(1) or pixels, (5, 4)),), boxes=(Box(0, 0, 0, 5, 4),))
    validate(item)
    with pytest.raises(ItemError, match="outside its 5x4 px image"):
        validate(dataclasses.replace(item, boxes=(Box(0, 0, 0, 6, 4),)))
    assert not calls
    for picture in (open_image(item.images[0]), open_image(read_bytes(item.images[0]))):
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    other = make_item(images=(Drawing(lambda: pixels + np.uint8(1), (5, 4)),), boxes=item.boxes)
    assert item.prompt_hash != other.prompt_hash and item != other and len(calls) == 1
    turned = Drawing(lambda: pixels.reshape(5, 4, 3), (4, 5))
    assert dataclasses.replace(item, images=(turned,)).prompt_hash != item.prompt_hash


def test_images_stand_where_their_tags_do_and_the_others_come_first() -> None:
    pictures = (encode(40, 20), encode(20, 20), encode(20, 40))
    parts = split_question(make_item(images=pictures, question="see <image 3> and <image 2>, then <image 3> again"))
    assert parts == [0, "see ", 2, " and ", 1, ", then ", 2, " again"]
    assert split_question(make_item(images=pictures, question="what ?")) == [0, 1, 2, "what ?"]
    assert split_question(make_item(question="<image 1>")) == [0]


@pytest.mark.parametrize("tag", ["<image 0>", "<image 2>", "<image  17>"])
def test_a_tag_without_its_image_is_named(tag: str) -> None:
    with pytest.raises(ItemError, match=r"item q1: <image \d+> in the question, 1 images; add the image"):
        validate(make_item(question=f"see {tag}"))


def test_annotating_evidence_changes_the_hash_of_boxes_and_not_what_the_model_is_shown() -> None:
    bare, boxed = make_item(boxes=()), make_item()
    assert bare.boxes_hash != boxed.boxes_hash == make_item(answer="another", question="what else ?").boxes_hash
    assert bare.prompt_hash == boxed.prompt_hash and bare.content_hash != boxed.content_hash
    assert make_item(question="what else ?").prompt_hash != bare.prompt_hash
    assert make_item(images=(encode(40, 22),)).prompt_hash != bare.prompt_hash


@contextmanager
def no_file_left_to_open() -> Iterator[None]:
    """Let the process open no further file (EMFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_process_that_may_open_no_further_file_blames_the_machine_and_reads_the_picture_later(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(encode(40, 20))
    open_image(file)
    with no_file_left_to_open(), pytest.raises(NamedError, match="Too many open files") as caught:
        validate(make_item(images=(file,)))
    assert str(caught.value).startswith(f"item q1: {file}: cannot read the image now") and "\n" not in str(caught.value)
    assert "run again, what is finished stays" in str(caught.value) and not isinstance(caught.value, ItemError)
    validate(make_item(images=(file,)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR])
def test_a_passing_fault_of_the_machine_is_never_an_items(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(NamedError, match="the machine's fault"):
        open_image(Path("image.png"))


@pytest.mark.parametrize("fault", [MemoryError(), OSError("out of memory when reading image file")])
def test_memory_that_runs_out_while_a_picture_is_decoded_ends_the_run(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(
        NamedError, match="^item q1: embedded image: cannot read the image now .memory ran out.; "
    ) as caught:
        validate(make_item())
    assert "\n" not in str(caught.value)


def test_a_missing_forbidden_or_impossible_file_belongs_to_the_item(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("none", "file/inside", ".", "x" * 300, "loop", "null\0"):
        with pytest.raises(ItemError, match="cannot read the image .*; restore or remove it"):
            read_bytes(tmp_path / name)
    (tmp_path / "locked").touch(mode=0o000)
    if os.geteuid():
        with pytest.raises(ItemError, match="Permission denied"):
            read_bytes(tmp_path / "locked")


def test_the_questions_lose_no_item_to_a_machine_out_of_memory_and_extraction_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = make_item(id="q2", images=(b"no image",))
    assert registry.find_fault(make_item()) == "" and "q2" in registry.find_fault(bad)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(NamedError, match="^item q1: "):
        registry.find_fault(make_item())
    monkeypatch.setattr(run, "Extraction", lambda _: registry.find_fault(make_item()))
    monkeypatch.setattr("sys.argv", ["extract"])
    with pytest.raises(SystemExit, match="^extract: item q1: .*run again, what is finished stays$"):
        run.main()


INK, CLEAR = (8, 4), (1, 1)  # (x, y) of a pixel of ink, and of one that shows the ground


def draw_ink(mode: str, ground: object, ink: object) -> Image.Image:
    """A picture of one ground with a rectangle of ink."""
    picture = Image.new(mode, (16, 8), ground)  # type: ignore[arg-type]
    picture.paste(ink, (6, 2, 12, 6))  # type: ignore[arg-type]
    return picture


def save(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    picture.save(buffer := io.BytesIO(), kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_png(depth: int, colour: int, rows: list[list[int]], key: bytes) -> bytes:
    """A PNG of samples of any depth with a clear colour, which Pillow does not write."""
    packed = b"".join(
        b"\0" + int("".join(f"{value:0{depth}b}" for value in row), 2).to_bytes(len(row) * depth // 8) for row in rows
    )
    width = len(rows[0]) // (3 if colour == 2 else 1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)), (b"tRNS", key),
        (b"IDAT", zlib.compress(packed)), (b"IEND", b""),
    ]  # fmt: skip
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette() -> Image.Image:
    """Black on black: index 0 is the ground, index 1 the ink."""
    picture = draw_ink("P", 0, 1)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    return picture


def list_clear() -> dict[str, bytes]:
    """Black ink on a clear black ground, in every way that a file says so."""
    rgba, key = draw_ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), (5, 5, 5)
    deep = Image.fromarray(np.where(np.asarray(draw_ink("L", 0, 9)) > 0, 9, 300).astype(np.uint16))
    frames = [rgba, draw_ink("RGBA", (0, 0, 0, 0), (255, 0, 0, 255))]
    ramp = [[0] * 16] * 2 + [[0] * 6 + [1] * 6 + [0] * 4] * 4 + [[0] * 16] * 2
    colour = [[value for sample in row for value in ([0, 0, 0] if sample else [65535, 0, 9])] for row in ramp]
    narrow = {
        f"grey of {d} bits": write_png(d, 0, [[0 if v else 2**d - 1 for v in row] for row in ramp],
                                       struct.pack(">H", 2**d - 1)) for d in (1, 2, 4, 8, 16)
    }  # fmt: skip
    return {
        "RGBA": save(rgba), "LA": save(draw_ink("LA", (0, 0), (0, 255))), "webp": save(rgba, "WEBP", lossless=True),
        "webp lossy": save(rgba, "WEBP", quality=100), "tiff": save(rgba, "TIFF"),
        "palette index": save(palette(), transparency=0), "palette list": save(palette(), transparency=b"\0\xff"),
        "gif": save(palette(), "GIF", transparency=0), "grey key": save(draw_ink("L", 7, 0), transparency=7),
        "colour key": save(draw_ink("RGB", key, (0, 0, 0)), transparency=key),
        "16 bits": save(deep, transparency=300), **narrow,
        "colours of 16 bits": write_png(16, 2, colour, struct.pack(">HHH", 65535, 0, 9)),
        **{f"moving {kind}": save(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
           for kind in ("PNG", "WEBP", "GIF")},
        "turned": save(rgba, exif=turn(3)),
    }  # fmt: skip


def turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("name", list_clear())
def test_ink_on_a_clear_ground_is_ink_on_white(name: str) -> None:
    seen = open_image(list_clear()[name])
    assert seen.mode == "RGB" and seen.size == (16, 8)
    assert seen.getpixel(CLEAR) == (255, 255, 255), name
    assert max(seen.getpixel(INK)) <= (8 if name == "webp lossy" else 0), name  # type: ignore[type-var,arg-type]


def test_what_is_half_clear_is_half_white_and_what_is_not_clear_keeps_its_colour() -> None:
    half = open_image(save(draw_ink("RGBA", (200, 0, 0, 255), (0, 0, 0, 128))))
    assert half.getpixel(CLEAR) == (200, 0, 0) and half.getpixel(INK) == (127, 127, 127)
    for mode, ground in (("RGB", (3, 4, 5)), ("L", 3), ("CMYK", (0, 0, 0, 255)), ("1", 0)):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        seen = open_image(save(draw_ink(mode, ground, ground), kind))
        assert max(seen.getpixel(CLEAR)) <= 5, mode  # type: ignore[type-var,arg-type]  # black stays black
    # a colour beside the clear one is not clear, nor is an entry of a palette that only looks like it
    assert open_image(save(draw_ink("RGB", (5, 5, 5), (5, 5, 6)), transparency=(5, 5, 5))).getpixel(INK) == (5, 5, 6)
    seen = open_image(write_png(4, 0, [[0] * 6 + [1] * 6 + [0] * 4] * 8, struct.pack(">H", 1)))
    assert seen.getpixel(INK) == (255, 255, 255) and seen.getpixel(CLEAR) == (0, 0, 0)


def test_what_a_smaller_first_frame_leaves_out_is_white() -> None:
    whole = bytearray(save(palette(), "GIF"))
    whole[6:10] = struct.pack("<HH", 20, 12)  # the screen grows, the frame stays
    seen = open_image(bytes(whole))
    assert seen.size == (20, 12) and seen.getpixel((18, 10)) == (255, 255, 255) and seen.getpixel(CLEAR) == (0, 0, 0)
