"""Parameters: read params/<profile>.yaml strictly and split it into one JSON a section.

Why it exists: YAML forgives too much. A misspelt key would be ignored, `1e-3` is text in YAML 1.1 and `no` is
a truth value; each would change a result in silence. In: a YAML file. Out: one JSON a section under
results/<profile>/params, written only if its content changed, so that make reruns what depends on an edited
key and nothing else. What a key may hold stands in `params_schema`; a value or a default must never stand here.

Values given on the command line (`make all SET=...`) pass the same checks.

What each parameter may hold: its kind, its bounds, how many entries.

Why it exists: a reviewer may change any number in params/, and a wrong one must stop before anything runs. In: nothing.
Out: SCHEMA, a section for each notebook and command. Never: a value or a default, which stand in the YAML files alone.

To add a key: one line here and one in each YAML file.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import reprlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dontblink import paths
from dontblink.errors import NamedError

SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 80
SHORT.maxlist = SHORT.maxdict = 20
# what PyYAML lets through for a value that its tag or its form promises and its text does not keep, or nested too deep
NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
TEXT_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class ParamsError(NamedError, ValueError):
    """A parameter that cannot be used; the message names file, line, key, what was found and the remedy."""


class Mapping(dict[Any, Any]):
    """A YAML mapping that remembers the line of each key."""

    lines: dict[Any, int]


class Loader(yaml.SafeLoader):
    """SafeLoader that keeps lines and takes a duplicate key for the mistake that it is."""


def build_mapping(loader: Loader, node: yaml.MappingNode) -> Mapping:
    """Return the mapping of a YAML node; raise ParamsError at the second occurrence of a key."""
    mapping = Mapping()
    mapping.lines = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, str | int | float):
            raise ParamsError(f"{line}: a key is {describe(key)}; expected text; correct or remove it")
        if key in mapping:
            raise ParamsError(f"{line}: {key}: stands here and in line {mapping.lines[key]}; remove one")
        mapping[key], mapping.lines[key] = loader.construct_object(value_node, deep=True), line
    return mapping


Loader.add_constructor("tag:yaml.org,2002:map", build_mapping)


def describe(value: object) -> str:
    """Return a value and its YAML type in words, for messages."""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", Mapping: "mapping"}
    # a whole repr of ten short lines of aliases may be larger than the memory
    return "nothing" if value is None else f"{SHORT.repr(value)} ({names.get(type(value), type(value).__name__)})"


def check_value(value: Any, rule: Rule) -> Any:
    """Return the value as its rule's type; raise ParamsError with found, expected and remedy."""
    found = f"found {describe(value)}, expected {rule.describe()}"
    if rule.form != "one":
        if not isinstance(value, list) or not value:
            raise ParamsError(f"{found}; correct it")
        entries = [check_value(entry, replace(rule, form="one")) for entry in value]
        if rule.form == "range" and (len(entries) != 2 or entries[0] > entries[1]):
            raise ParamsError(f"{found}; give two entries, the smaller first")
        if rule.form == "list" and len(set(entries)) < len(entries):
            raise ParamsError(f"{found}; remove the repetition")
        return entries
    if rule.kind == "text":
        if isinstance(value, bool | int | float):
            raise ParamsError(f"{found}; quote it")
        if not isinstance(value, str) or not re.fullmatch(rule.pattern, value):
            raise ParamsError(f"{found}; correct it")
        return value
    if isinstance(value, str) and TEXT_NUMBER.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)  # YAML 1.1 wants a point and a sign
        raise ParamsError(f"{found}; write {mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}")
    wanted = int if rule.kind == "whole number" else int | float
    # a whole number of more than 64 bits fits no seed and no count, and one of 400 digits no float either
    if isinstance(value, bool) or not isinstance(value, wanted) or not -(2**63) <= value < 2**63:
        raise ParamsError(f"{found}; correct it")
    if not rule.admits(value):
        raise ParamsError(f"{found}; correct it")
    return float(value) if rule.kind == "number" else value


def check_keys(where: str, mapping: Any, expected: list[str]) -> None:
    """Raise ParamsError unless the mapping holds exactly the expected keys."""
    if not isinstance(mapping, Mapping):
        raise ParamsError(f" {where}: found {describe(mapping)}, expected the keys {', '.join(expected)}")
    for key in mapping:
        if key not in expected:
            known = f"expected one of {', '.join(expected)}; correct or remove it"
            raise ParamsError(f"{mapping.lines[key]}: {where}{key}: unknown key; {known}")
    for key in expected:
        if key not in mapping:
            raise ParamsError(f" {where}{key}: missing; add it (params/testbed.yaml shows how)")


def load(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Read a parameters file and return its profile and its checked sections.

    Raises
    ------
    ParamsError
        One line with file, line, key, what was found, what was expected and what to do.
    """
    name = paths.show(path.absolute())
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ParamsError(f"{name}: cannot be read ({error.strerror}); give a file of params/") from error
    except ParamsError as error:
        raise ParamsError(f"{name}:{error}") from error
    except NOT_YAML as error:
        raise ParamsError(f"{name}: not YAML: {error}; correct it") from error
    sections: dict[str, dict[str, Any]] = {}
    try:
        check_keys("", document, ["profile", *SCHEMA])
        if document["profile"] != path.stem:
            line, found = document.lines["profile"], describe(document["profile"])
            raise ParamsError(f"{line}: profile: found {found}, expected the file's name; write {path.stem}")
        for section, rules in SCHEMA.items():
            check_keys(f"{section}.", document[section], list(rules))
            sections[section] = {}
            for key, rule in rules.items():
                try:
                    sections[section][key] = check_value(document[section][key], rule)
                except ParamsError as error:
                    line = document[section].lines[key]
                    raise ParamsError(f"{line}: {section}.{key}: {error}") from error
    except ParamsError as error:
        raise ParamsError(f"{name}:{error}") from error
    return document["profile"], sections


def override(sections: dict[str, dict[str, Any]], overrides: str) -> None:
    """Put the values of `section.key=value`, several of them separated by spaces, in place of those of the file.

    A value is read as YAML and checked like one of the file; a list is written without spaces, `[a,b]`.

    Raises
    ------
    ParamsError
        One line with the key, what was found, what was expected and what to do; nothing is put in place then.
    """
    new: dict[tuple[str, str], Any] = {}
    for word in overrides.split():
        name, equals, value = word.partition("=")
        section, _, key = name.partition(".")
        if not equals or not key:
            raise ParamsError(f"SET: found {word!r}, expected section.key=value, lists as [a,b]; correct it")
        known = {"": SCHEMA.keys(), section: SCHEMA.get(section, {}).keys()}
        for where, part in (("", section), (section, key)):
            if part not in known[where]:
                dotted = f"{where}.{part}".lstrip(".")
                raise ParamsError(
                    f"SET: {dotted}: unknown key; expected one of {', '.join(known[where])}; correct or remove it"
                )
        if (section, key) in new:
            raise ParamsError(f"SET: {name}: given twice; remove one")
        try:
            new[section, key] = check_value(yaml.load(value, Loader), SCHEMA[section][key])
        except ParamsError as error:
            raise ParamsError(f"SET: {name}: {error}") from error
        except NOT_YAML as error:
            raise ParamsError(f"SET: {name}: {value!r} is not YAML; lists are written as [a,b]; correct it") from error
    for (section, key), value in new.items():
        sections[section][key] = value


def write_sections(sections: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Write <section>.json each; return the names of those that changed (the others keep their age)."""
    changed = []
    for section, values in sections.items():
        file = folder / f"{section}.json"
        content = json.dumps(values, indent=2, sort_keys=True) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            with paths.whole_file(file) as temporary:
                temporary.write_text(content, encoding="utf-8")
            changed.append(section)
    return changed


def read_values(file: Path) -> dict[str, Any]:
    """Return the values of a section's JSON as `write_sections` left it."""
    if not file.exists():
        raise ParamsError(f"{paths.show(file.resolve())}: not there; run `make params`")
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ParamsError(f"{paths.show(file)}: cannot be read ({error}); delete it and run `make params`") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{paths.show(file)}: holds {describe(values)}; delete it and run `make params`")
    return values


def read_section(profile: str, section: str) -> dict[str, Any]:
    """Return one section's values, for commands that run outside a notebook."""
    return read_values(paths.section_file(profile, section))


def main(arguments: list[str] | None = None) -> int:
    """Split a parameters file: `python -m dontblink.params params/testbed.yaml --out FOLDER`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.params", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the <section>.json files")
    parser.add_argument("--set", default="", metavar="SECTION.KEY=VALUE ...", help="values in place of the file's")
    given = parser.parse_args(arguments)
    try:
        _, sections = load(given.file)
        override(sections, given.set)
    except ParamsError as error:
        print(error, file=sys.stderr)
        return 1
    changed = write_sections(sections, given.out)
    print(f"parameters: {', '.join(changed) if changed else 'nothing'} changed")
    return 0





@dataclass(frozen=True)
class Rule:
    """What one key may hold: a kind of entry, bounds or a pattern for it, and how many entries."""

    kind: str  # 'whole number' | 'number' | 'text'
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    pattern: str = r"\S+"
    form: str = "one"  # 'one' | 'list' (different entries) | 'range' (two entries, ascending)

    def describe(self) -> str:
        """Return the rule in words, for messages."""
        words = {"one": "a ", "list": "a list, each entry a ", "range": "[low, high], each a "}[self.form] + self.kind
        open_ends = {(True, True): " (ends excluded)", (True, False): f" ({self.low:g} excluded)"}
        bounds = f" from {self.low:g} to {self.high:g}" + open_ends.get((self.open_low, self.open_high), "")
        pattern = "" if self.pattern == r"\S+" else f" matching {self.pattern}"
        return words + (pattern if self.kind == "text" else bounds)

    def admits(self, number: float) -> bool:
        """Return whether a number lies within the bounds."""
        return (self.low < number if self.open_low else self.low <= number) and (
            number < self.high if self.open_high else number <= self.high
        )


def whole(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Return the rule of a whole number within closed bounds."""
    return Rule("whole number", low, high)


def real(low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_ends: bool = False) -> Rule:
    """Return the rule of a number; a whole number is accepted and becomes a float."""
    return Rule("number", low, high, open_low or open_ends, open_ends)


def text(pattern: str = r"\S+") -> Rule:
    """Return the rule of a text that matches the pattern as a whole."""
    return Rule("text", pattern=pattern)


def several(entry: Rule) -> Rule:
    """Return the rule of a list, not empty, without repetition."""
    return replace(entry, form="list")


def span(entry: Rule) -> Rule:
    """Return the rule of an inclusive range [low, high]."""
    return replace(entry, form="range")


NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a model: a folder's and a file's, and never a way out of one
SCHEMA: dict[str, dict[str, Rule]] = {
    "testbed": {
        "item_seed": whole(0),
        "n_test_items": whole(1),
        "n_calibration_items": whole(1),
        "n_example_items": whole(1),
        "symbolic_chain_length": span(whole(1, 12)),
        "symbolic_noise_level": span(real(0, 1)),
        "symbolic_operators_per_step": span(whole(1, 4)),
        "visual_reference_chain_length": span(whole(1, 12)),
        "visual_reference_noise_level": span(real(0, 1)),
        "hallucination_chain_length": span(whole(1, 12)),
        "hallucination_noise_level": span(real(0, 1)),
        "hallucination_typical_share": real(0, 1),
    },
    "extraction": {
        "models": several(text(NAME)),
        "checkpoints_folder": text(),
        "benchmarks": several(text(r"[a-z0-9_]+")),
        "engine": text("local|server"),
        "attention": text("sdpa|flash_attention_2"),
        "thinking": text("enabled|disabled"),
        "max_image_tokens": whole(1),
        "expected_response_tokens": whole(1),
        "retokenised": text("refuse|leave_out|keep"),
        "max_new_tokens": whole(1),
        "batch_size": whole(1),
        "temperature": real(0),
        "top_p": real(0, 1, open_low=True),
        "top_k": whole(0),
        "generation_seed": whole(0),
        "device": text(r"cpu|cuda(:\d+)?|mps|auto"),
        "dtype": text(r"float32|bfloat16|float16"),
        "replay_implementation": text(r"fused|chunk"),
        "replay_batch_tokens": whole(1),
        "shard_items": whole(1),
        "control_seed": whole(0),
        "grounding_layers": whole(1),
        "grounding_heads": whole(1),
        "sink_rule": text(r"first|border"),
        "n_cross_checked_items": whole(1),
    },
    "questions": {
        "generator": text(r"[a-z_]+(\.[a-z_]+)*"),
        **{
            f"{name}_{part}": text(r".*" if part == "config" else r".+")
            for name in ("mathvista", "mmmu_pro", "hallusionbench")
            for part in ("source", "revision", "config")
        },
        "n_test_items": whole(1),
        "n_calibration_items": whole(1),
        "subset_seed": whole(0),
        "task_types": several(text(r"[a-z_]+\..+:[a-z_]+")),
        "evidence_folder": text(),
    },
    "server": {
        "url": text(r"https?://\S+"),
        "fingerprints_folder": text(),
        "verification": text("required|skip"),
        "concurrent_requests": whole(1),
        "requests_per_minute": whole(1),
        "timeout_s": real(1),
        "retries": whole(0),
    },
    "collapse": {
        "bins": whole(2),
        "bootstrap_replicates": whole(1),
        "band_replicates": whole(1),
        "interval": text(r"bca|t|percentile"),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "shuffled_deals": whole(1),
        "picture_model": text(NAME),
        "picture_benchmark": text(),
        "picture_quantiles": span(real(0, 1)),
    },
    "entropy": {
        "bootstrap_replicates": whole(1),
        "transfer_replicates": whole(1),
        "refit_replicates": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "min_items": whole(10),
        "min_class_items": whole(2),
        "covariates": several(text(r"[a-z0-9_]+")),
        "reliability_bins": whole(2),
        "shuffled_deals": whole(2),
        "vision_deals": whole(2),
    },
    "interaction": {
        "bootstrap_replicates": whole(1),
        "robustness_replicates": whole(1),
        "interval": text(r"bca|t|percentile"),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "min_items": whole(10),
        "covariates": several(text(r"[a-z0-9_]+")),
        "effect_at": real(0, 4, open_ends=True),
        "quadrant_share": real(0.01, 0.5),
        "extreme_share": real(0.01, 0.5),
        "surface_reach": real(0, 4, open_ends=True),
        "surface_min_rows": whole(1),
        "shuffled_deals": whole(20),
    },
    "veto": {
        "coverage": real(0.01, 1),
        "curve_coverages": several(real(0.01, 1)),
        "targets": several(text(r"[a-z0-9_]+")),
        "splits": whole(1),
        "fit_share": real(0, 1, open_ends=True),
        "veto_shares": whole(1),
        "jackknife_blocks": whole(2),
        "permutations": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_replicates": whole(1),
        "split_seed": whole(0),
        "planted_share": real(0, 1, open_ends=True),
        "min_items": whole(10),
        "covariates": several(text(r"[a-z0-9_]+")),
        "max_risk": real(0, 1, open_ends=True),
        "delta": real(0, 1, open_ends=True),
    },
    "claims": {
        "reported_points": real(0, 100),
        "reported_decimals": whole(0, 6),
        "coverage": real(0.01, 1),
        "item_counts": span(whole(1)),
        "reported_falls": span(real(0, 1, open_ends=True)),
        "reasoning_parts": whole(2),
        "small_counts": several(whole(1)),
        "reported_cells": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
    },
    "pages": {
        "item_quantiles": several(real(0, 1)),
    },
}


if __name__ == "__main__":
    sys.exit(main())
