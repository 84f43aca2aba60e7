"""Bad pictures: cut short, empty, thin, of every mode and turn, huge in a small file, and no pictures at all."""

from __future__ import annotations

import functools
import io
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import attack
from hypothesis import strategies as st
from PIL import Image

from dontblink import paths
from dontblink.boxes.annotations import describe_image, save_images
from dontblink.boxes.evidence import item_coverage
from dontblink.errors import NamedError
from dontblink.models.checkpoints import load_vlm
from dontblink.models.vlm import VLM
from dontblink.questions.items import Box, Item, ItemError, open_image, validate

QUESTION = "what is a1 + b2 ?"
SIZE = (96, 64)
DEEP = np.linspace(0, 65535, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[::-1])


@functools.cache
def load_processor() -> VLM:
    """Return a shipped checkpoint without its weights: it encodes and cuts."""
    return load_vlm(paths.ROOT / "models" / "testbed" / "qwen3vl-tiny-s", weights=False)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an encoded picture."""
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """Return a picture that EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(gradient(), kind, exif=exif)


def gradient() -> Image.Image:
    """Return a picture that does not compress to nothing."""
    return Image.radial_gradient("L").resize(SIZE).convert("RGB")


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Return a chunk of a PNG."""
    return (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)
    )


def png(width: int, height: int, data: bytes | None = None, *, depth: int = 8, crc: int | None = None) -> bytes:
    """Return a PNG that claims a size, with any data behind the claim."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0), crc)
    rows = zlib.compress(b"\0" * 1000) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """Return a whole black PNG of one bit a pixel: a small file, a huge picture."""
    packer, rows = zlib.compressobj(9), b"\0" * (1 + -(-width // 8))
    data = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    return png(width, height, data, depth=1)


def list_formats() -> dict[str, bytes]:
    """Return whole pictures that must come through from end to end."""
    image = gradient()
    palette = image.convert("P")
    palette.info["transparency"] = 3
    frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return {
        "png": encode(image, "PNG"), "jpeg": encode(image, "JPEG"), "progressive": encode(image, "JPEG",
        progressive=True),
        "cmyk": encode(image.convert("CMYK"), "JPEG"), "grey": encode(image.convert("L"), "JPEG"),
        "bit": encode(image.convert("1"), "PNG"),
        "palette": encode(palette, "PNG", transparency=3), "palette bytes": encode(palette, "PNG",
        transparency=b"\0\x80"),
        "grey alpha": encode(image.convert("LA"), "PNG"), "rgba": encode(image.convert("RGBA"), "PNG"),
        "16 bit": encode(Image.fromarray(DEEP), "PNG"), "16 bit tiff": encode(Image.fromarray(DEEP), "TIFF"),
        "lab tiff": encode(image.convert("LAB"), "TIFF"), "mpo": encode(frames[0], "MPO", save_all=True,
        append_images=frames[1:]),
        "gif": encode(palette, "GIF"), "animated": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": encode(image, "WEBP"), "animated webp": encode(frames[0], "WEBP", save_all=True,
        append_images=frames[1:]),
        "bmp": encode(image, "BMP"), "apng": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        **{f"{kind} turned {k}": turned(kind, k) for kind in ("JPEG", "PNG", "WEBP") for k in range(0, 10)},
    }  # fmt: skip


FORMATS = list_formats()
ODD: dict[str, bytes] = {
    "empty": b"", "one byte": b"\x89", "zeros": b"\0" * 1000, "text": b"no picture\n",
    "html": b"<html><script>x</script>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(touch canary) run\n%%EOF\n",
    "pdf": b"%PDF-1.4\n", "float": encode(gradient().convert("F"), "TIFF"), "zip": b"PK\x03\x04" + b"\0" * 60,
    "pickle": b"\x80\x04\x95\x10cos\nsystem\n", "elf": b"\x7fELF" + b"\0" * 60,
    "1x1": encode(Image.new("RGB", (1, 1)), "PNG"), "1x2": encode(Image.new("RGB", (1, 2)), "PNG"),
    "1x20000": encode(Image.new("RGB", (1, 20000)), "PNG"), "20000x1": encode(Image.new("RGB", (20000, 1)), "PNG"),
    "0x0": png(0, 0), "0x5": png(0, 5), "claims 30000x30000": png(30000, 30000), "claims 2^31": png(2**31 - 1,
    2**31 - 1),
    "claims 9000x9000": png(9000, 9000), "bomb 12000x12000": bomb(12000, 12000), "bomb 20000x200": bomb(20000, 200),
    "bad crc": png(10, 10, crc=1), "bad zlib": png(10, 10, b"\xff" * 50), "short zlib": png(100, 100,
    zlib.compress(b"\0" * 50)),
    "gif of 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 800 + b";", "jpeg of 65535": FORMATS["jpeg"].replace(
        struct.pack(">HH", SIZE[1], SIZE[0]), b"\xff\xff\xff\xff", 1),
    "text chunk bomb": FORMATS["png"][:33] + chunk(b"zTXt",
    b"k\0\0" + zlib.compress(b"a" * 100_000_000)) + FORMATS["png"][33:],
    "icc bomb": FORMATS["png"][:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 50_000_000)) + FORMATS["png"][33:],
    "bad exif": FORMATS["JPEG turned 6"].replace(b"Exif\0\0", b"Exif\0\0\xff\xff", 1),
    "trailing": FORMATS["png"] + b"<script>" * 99,
}  # fmt: skip


def cut(name: str, places: int) -> Iterator[bytes]:
    """Yield a picture cut at many offsets."""
    whole = FORMATS[name]
    yield from (whole[: len(whole) * k // places] for k in range(places))


def use(content: bytes | str, folder: Path) -> None:
    """Take a picture from its file to the tokens of a prompt."""
    file = folder / "x.png"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file = lay_out(folder, content)
    item = Item("q1", "demo", "test", (file,), QUESTION, "3", "other", boxes=(Box(0, 0, 0, 1, 1),))
    validate(item)
    facts = describe_image(item, 0)
    image = open_image(file)
    assert image.mode == "RGB" and image.size == facts.size, (image.mode, image.size, facts.size)
    vlm = load_processor()
    prompt = vlm.encode(item)
    coverage = item_coverage(item, vlm.image_grid(prompt), prompt.image_sizes, prompt.image_order)
    assert coverage.shape == (sum(rows * columns for rows, columns in vlm.image_grid(prompt)),) and coverage.max() > 0
    save_images([item], folder / "upright")


def lay_out(folder: Path, name: str) -> Path:
    """Return something that is no file: a loop of links, a folder, nothing, a device."""
    loop, inner = folder / "loop.png", folder / "folder.png"
    if not loop.is_symlink():
        loop.symlink_to(loop)
        inner.mkdir()
    return {
        "loop": loop,
        "folder": inner,
        "nothing": folder / "no.png",
        "nul": folder / "a\0.png",
        "long": folder / ("x" * 300),
    }[name]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a picture that is cut, or has bytes replaced, put in or taken out."""
    content = bytearray(FORMATS[draw(st.sampled_from(sorted(FORMATS)))])
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    for _ in range(draw(st.integers(0, 6))):
        # most of what a decoder trusts stands in the first bytes
        place = draw(st.integers(0, min(len(content), 200)) | st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(content)


CUT = ("png", "jpeg", "gif", "webp", "16 bit tiff", "JPEG turned 6", "palette")
test_pictures = attack(
    "images",
    use,
    damaged() | st.binary(max_size=100),
    [*FORMATS.values(), *ODD.values(), "loop", "folder", "nothing", "nul", "long"]
    + [part for name in CUT for part in cut(name, 12)],
)


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_picture_of_any_mode_turn_and_format_comes_through_from_end_to_end(name: str, tmp_path: Path) -> None:
    use(FORMATS[name], tmp_path)


@pytest.mark.parametrize("name", sorted(set(ODD) - {"1x1", "1x2", "bomb 20000x200", "bad exif", "trailing"}))
def test_what_is_no_picture_is_named_with_its_item(name: str, tmp_path: Path) -> None:
    with pytest.raises(NamedError, match="^item q1: .*;"):
        use(ODD[name], tmp_path)


def test_a_decompression_bomb_costs_neither_memory_nor_time() -> None:
    content = bomb(40_000, 40_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(content) < 1_000_000
    with pytest.raises(ItemError, match=r"not a readable image|scale it down"):
        open_image(content)
    with pytest.raises(ItemError, match=r"12000x12000 px are 144000000, expected at most 64000000; scale it down"):
        open_image(ODD["bomb 12000x12000"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_sixteen_bits_keep_their_range() -> None:
    assert open_image(FORMATS["16 bit"]).getextrema() == ((0, 255),) * 3


def test_a_format_that_runs_a_program_is_not_opened() -> None:
    with pytest.raises(ItemError, match="none of PNG, JPEG"):
        open_image(ODD["eps"])
