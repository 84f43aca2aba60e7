"""Bad parameters: the shipped YAML files with lines lost, doubled, renamed and replaced, and values for SET."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from bad_input import HOSTILE, TEXTS, attack
from hypothesis import strategies as st

from dontblink import params, paths
from dontblink.errors import NamedError

SHIPPED = {name: paths.params_file(name).read_bytes() for name in ("testbed", "paper")}
_, SECTIONS = params.load(paths.params_file("testbed"))
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)
)
SCALARS = [
    "", "~", "yes", "no", "1e-3", "0x10", "1_000", "0o17", "1:30", "-1", "0", "1.5", ".nan", ".inf", "-.inf",
    "1e999", "9" * 400,
    "9" * 5000, "-" + "9" * 4400, "9" * 400 + ".0", "2001-99-99", "2001-01-01", "2001-01-01t99:99:99",
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system", "!!binary x", "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a]", "!!null x", "!x y", "&a [*a]", "&a {x: *a}", "*nowhere", "[", "{", "}", "]", "[a, [b]]", "{a: b}",
    "{[a]: b}",
    "{{a: b}: c}", "{? [a] : b}",
    "'", '"', '"\\e[31m"', '"\\x00"', '"\\ud800"', '"\\u202e"', "|", ">", "|\n    a\n    b", "@", "`", "%",
    "[../../etc]", "[/etc/passwd]", "[..]", "[a/b]", "['']", "[a, a]", "[1, 2, 3]", "[2, 1]", "[" * 2000,
    "[" * 200 + "]" * 200,
    "x" * 20_000, "[" + "x," * 2_000 + "y]", '["\\e[31m"]', '["a\\nb"]', '["$(touch canary)"]', "cuda:" + "9" * 5000,
]  # fmt: skip


@st.composite
def edited_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a shipped file with up to four lines changed, sometimes with bytes of it changed as well."""
    profile = draw(st.sampled_from(sorted(SHIPPED)))
    lines = SHIPPED[profile].decode().split("\n")
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        key, colon, _ = line.partition(":")
        deed = draw(
            st.sampled_from(["drop", "double", "rename", "value", "value", "value", "indent", "insert", "swap"])
        )
        if deed == "drop":
            lines[place] = ""
        elif deed == "double":
            lines.insert(place, line)
        elif deed == "rename" and colon:
            lines[place] = f"{key}{draw(st.sampled_from(['x', ' ', '-', '_', '.']))}{line[len(key) :]}"
        elif deed == "value" and colon:
            lines[place] = f"{key}: {draw(st.sampled_from(SCALARS) | TEXTS)}"
        elif deed == "indent":
            lines[place] = draw(st.sampled_from([" ", "\t", "        "])) + line
        elif deed == "insert":
            lines.insert(
                place, draw(st.sampled_from(["<<: {a: b}", "- x", "? x", "---", "...", "%YAML 9.9", "\t", "x"]) | TEXTS)
            )
        else:
            lines[place], lines[-place] = lines[-place], lines[place]
    encoded = "\n".join(lines).encode("utf-8", "surrogatepass")
    deed = draw(st.sampled_from(["none", "none", "none", "bom", "cut", "byte", "utf16"]))
    if deed == "bom":
        encoded = b"\xef\xbb\xbf" + encoded
    elif deed == "cut":
        encoded = encoded[: draw(st.integers(0, len(encoded)))]
    elif deed == "byte":
        place = draw(st.integers(0, len(encoded) - 1))
        encoded = encoded[:place] + bytes([draw(st.integers(0, 255))]) + encoded[place + 1 :]
    elif deed == "utf16":
        encoded = encoded.decode("utf-8", "replace").encode("utf-16")
    return profile, encoded


def with_value(section: str, key: str, scalar: str) -> tuple[str, bytes]:
    """Return the testbed's file with one value replaced."""
    head, _, rest = SHIPPED["testbed"].decode().partition(f"\n{section}:\n")
    before, _, after = rest.partition(f"  {key}:")
    return "testbed", f"{head}\n{section}:\n{before}  {key}: {scalar}\n{after.partition(chr(10))[2]}".encode()


def use_file(value: tuple[str, bytes], folder: Path) -> None:
    """Read a parameters file and write its sections; what it names must stay in the results folder."""
    profile, encoded = value
    for name, content in (SHIPPED | {profile: encoded}).items():
        (folder / f"{name}.yaml").write_bytes(content)
    file = folder / f"{profile}.yaml"
    check(params.load(file)[1], folder)


def use_override(value: str, folder: Path) -> None:
    """Put values of a command line in place of the file's."""
    sections = copy.deepcopy(SECTIONS)
    params.override(sections, value)
    check(sections, folder)


def check(sections: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write accepted sections, read them back, and look where the names in them lead."""
    params.write_sections(sections, folder / "params")
    for section in sections:
        assert params.read_values(folder / "params" / f"{section}.json") == sections[section], section
    for name in (
        *sections["extraction"]["models"],
        *sections["extraction"]["benchmarks"],
        sections["collapse"]["picture_model"],
    ):
        target = paths.responses("testbed") / name / f"{name}.parquet"
        assert target.resolve().parent.parent == paths.responses("testbed").resolve(), f"{name!r} leaves its folder"


KEYS = [f"{section}.{key}" for section in SECTIONS for key in SECTIONS[section]]
TRIED = (
    "testbed.item_seed",
    "testbed.symbolic_noise_level",
    "extraction.models",
    "extraction.engine",
    "pages.item_quantiles",
)
MODELS = [*(f'"{name}"' for name in ("..", ".", "a/b", "/x", "a\\\\b", "-x", "~", "$HOME")), "a\n  b"]
BASES = ["", "paper", "none", "..", "/etc/passwd", "[testbed]", "testbed/../paper", "1", "'\\0'"]
WHOLE = [
    b"", b"\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"profile", b"- a", b"[" * 5000, b"{" * 5000, LAUGHS.encode(),
    b"profile: [" + b"x, " * 3_000, b"? [a, b]\n: c\n", b"? {a: b}\n: c\n", b"<<: 1\n", b"a: b\na: c\n",
    SHIPPED["testbed"] + LAUGHS.encode(), SHIPPED["testbed"] + b"\n" + b"x" * 1_000_000, SHIPPED["testbed"] * 2,
    SHIPPED["testbed"].replace(b"  ", b"\t"), b"&a {profile: *a}", b"profile: testbed\n", b"%YAML 9.9\n---\na: b\n",
]  # fmt: skip


def use_section(value: bytes, folder: Path) -> None:
    """Read back what make hands from one stage to the next."""
    file = folder / "extraction.json"
    file.write_bytes(value)
    params.read_values(file)


test_a_params_file = attack(
    "params file",
    use_file,
    edited_files(),
    [
        *(("testbed", text) for text in WHOLE),
        *(with_value("extraction", key, f"[{name}]") for key in ("models", "benchmarks") for name in MODELS),
        *(with_value(*TRIED[number % len(TRIED)].split("."), scalar) for number, scalar in enumerate(SCALARS)),
        *(("paper", SHIPPED["paper"].replace(b"based_on: testbed", f"based_on: {text}".encode())) for text in BASES),
    ],
)
test_overrides = attack(
    "SET",
    use_override,
    st.lists(
        st.builds("{}={}".format, st.sampled_from(KEYS) | TEXTS, st.sampled_from(SCALARS) | TEXTS),
        min_size=1,
        max_size=3,
    ).map(" ".join),
    [
        *HOSTILE,
        *(f"extraction.models=[{text}]" for text in HOSTILE),
        *(f"veto.coverage={text}" for text in SCALARS),
    ],
)
test_the_parameters_of_a_stage = attack(
    "parameters of a stage",
    use_section,
    st.binary(max_size=30) | TEXTS.map(lambda text: json.dumps({"a": text})[:-1].encode()),
    [b"", b"{", b"\xff", b"[]", b"1", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)


def test_tags_run_no_code(tmp_path: Path) -> None:
    file = tmp_path / "testbed.yaml"
    file.write_text(f"profile: !!python/object/apply:os.system ['touch {tmp_path}/canary']\n")
    with pytest.raises(NamedError, match=":1: found the tag .*os.system.*; remove it"):
        params.load(file)
    assert not (tmp_path / "canary").exists()
