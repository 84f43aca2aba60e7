"""What a checkpoint folder holds, as hashes: so that two machines can tell that they use the same model.

Why: a server shows no hash of its weights, tokenizer, chat template or image processor, and a replay of its tokens
through anything else measures nothing. In: a checkpoint folder, or what `python -m dontblink.models.fingerprint FOLDER`
printed about one. Out: file name -> SHA-256, and an error that names the first file that differs. Nothing but the
standard library is imported, so that the command runs on a serving machine as it is. Never: trust in names, revisions
or modification times (they only spare a file that has not changed a second reading).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from dontblink.errors import NamedError

# What decides prompts, pixels, weights and when to stop; model cards and training curves do not count.
PATTERNS = (
    "config.json", "generation_config.json", "*preprocessor_config.json", "processor_config.json", "tokenizer*",
    "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template*", "*.safetensors",
    "*.safetensors.index.json",
)  # fmt: skip
HOW_TO_STATE = "save what `python -m dontblink.models.fingerprint FOLDER` prints on the serving machine"


def list_checkpoint(folder: Path) -> list[Path]:
    """Return the files of a checkpoint folder that loading and prompting read, in order of their names."""
    return sorted({file for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()})


def fingerprint_checkpoint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (64 hex digits) of every file that loading and prompting read, by name.

    NamedError if there is no configuration or no weight file, or a file cannot be read.
    """
    files = list_checkpoint(folder)
    for pattern in ("config.json", "*.safetensors"):
        if not any(file.match(pattern) for file in files):
            raise NamedError(f"{folder}: no {pattern} here; give the folder that the model is loaded from")
    try:
        return {file.name: _hash_file(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    except OSError as error:
        raise NamedError(f"{folder}: cannot be read ({error}); restore the checkpoint") from error


@functools.cache
def _hash_file(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_fingerprint(source: Path) -> dict[str, str]:
    """Return the fingerprint of a checkpoint folder, or the one that a file states.

    NamedError if the folder is no checkpoint, or the file is not what `python -m dontblink.models.fingerprint` prints.
    """
    if source.is_dir():
        return fingerprint_checkpoint(source)
    try:
        stated = json.loads(source.read_text())
    except (OSError, ValueError) as error:
        raise NamedError(f"{source}: not a fingerprint ({error}); {HOW_TO_STATE}") from error
    if not isinstance(stated, dict) or not stated:
        raise NamedError(f"{source}: not a fingerprint (no file names); {HOW_TO_STATE}")
    for name, value in stated.items():
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise NamedError(f"{source}: {name}: found {value!r}, expected 64 hex digits; {HOW_TO_STATE}")
    return stated


def compare_fingerprints(here: Mapping[str, str], there: Mapping[str, str], source: Path) -> None:
    """Raise NamedError, naming the first file that is not the same here and on the server."""
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            ours, theirs = ((side[name][:12] if name in side else "missing") for side in (here, there))
            raise NamedError(
                f"{source}: {name} differs: {ours} here, {theirs} on the server; "
                "serve the same revision as the one that is replayed, then state its fingerprint anew"
            )


def main() -> None:
    """Print the fingerprint of a checkpoint folder as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that the server loads the model from")
    try:
        print(json.dumps(fingerprint_checkpoint(parser.parse_args().folder), indent=1))
    except NamedError as error:
        raise SystemExit(f"fingerprint: {error}") from error


if __name__ == "__main__":
    main()
