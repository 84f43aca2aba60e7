"""Commands for evidence boxes: `python -m dontblink.boxes pictures|report|import|export|agree`.

Why: annotation happens at a desk between tools, not in a notebook. In: files, and a folder of pictures that `pictures`
wrote. Out: a text, and files of annotations. Never here: anything but arguments and printing, or an import at the top
that a help text does not need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dontblink import paths
from dontblink.errors import NamedError, make_line
from dontblink.files import whole_file

if TYPE_CHECKING:
    from dontblink.boxes.annotations import Rejected

FORMATS = ("coco", "label-studio")


def check_format(name: str) -> str:
    """Return the name of a format; CVAT's own is not read, because CVAT writes COCO."""
    if name == "cvat":
        raise argparse.ArgumentTypeError("CVAT reads and writes COCO: choose `COCO 1.0` there and --format coco here")
    if name not in FORMATS:
        raise argparse.ArgumentTypeError(f"found {name!r}, expected {' or '.join(FORMATS)}")
    return name


OPTIONS: dict[str, dict[str, Any]] = {
    "benchmark": {"help": "mathvista, mmmu_pro or hallusionbench"},
    "file": {"type": Path, "help": "annotations, data/evidence/<benchmark>.jsonl"},
    "--images": {"type": Path, "required": True, "help": "folder of the benchmark's pictures"},
    "--profile": {"default": "paper", "help": "which params/<profile>.yaml, after `make params`"},
    "--format": {"type": check_format, "metavar": "|".join(FORMATS), "required": True},
    "--from": {"type": Path, "required": True, "dest": "other", "help": "the tool's file"},
    "--to": {"type": Path, "required": True, "dest": "other", "help": "the file to write"},
    "--annotator": {"default": "", "help": "who drew what the file names nobody for"},
    "--shown": {
        "choices": ("turned", "stored", "unknown"), "default": "unknown",
        "help": "did the tool turn pictures as EXIF says? unknown: decide by size",
    },
    "--between": {"nargs": 2, "metavar": ("A", "B"), "help": "two annotators; default: every pair"},
    "--token-px": {"type": int, "default": 32, "help": "side of an image token in px"},
    "--seed": {"type": int, "default": 0, "help": "of the bootstrap over items"},
}  # fmt: skip
COMMANDS = {
    "pictures": "benchmark --images --profile",
    "report": "file --images",
    "import": "file --images --format --from --annotator --shown",
    "export": "file --images --format --to",
    "agree": "file --between --token-px --seed",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the commands; the sentence of the function that runs one is its help."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.boxes", description="Evidence boxes of real benchmarks.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, options in COMMANDS.items():
        run = globals()[f"run_{name}"]
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        for option in options.split():
            command.add_argument(option, **OPTIONS[option])
    return parser


def print_rejected(rejected: Iterable[Rejected]) -> None:
    """Print every row that was left out."""
    for row in rejected:
        print(f"left out: {row.reason}")


def run_pictures(given: argparse.Namespace) -> int:
    """Write the pictures of the items that a study asks, upright, with a list of what they are."""
    from dontblink import params
    from dontblink.boxes.annotations import save_images
    from dontblink.questions import registry

    testbed, settings = (params.read_section(given.profile, name) for name in ("testbed", "questions"))
    questions = registry.load_questions(given.benchmark, testbed, settings)
    items = [item for split in registry.SPLITS for item in questions.items[split] if not item.boxes]  # else shipped
    written = save_images(items, given.images)
    print(f"{len(written)} pictures of {len(items)} items written to {given.images}")
    return 0


def run_report(given: argparse.Namespace) -> int:
    """Print which items have accepted boxes, and which lack them; exit code 1 unless all have."""
    from dontblink.boxes.annotations import judge_items, read_annotations, read_images, summarize_coverage

    annotations, rejected = read_annotations(given.file)
    images = read_images(given.images)
    verdicts = judge_items(images, annotations)
    print_rejected(rejected)
    if elsewhere := sorted({found.item_id for found in annotations} - set(verdicts)):
        print(f"{len(elsewhere)} annotated items are not in {given.images}: {make_line(', '.join(elsewhere[:5]))}, ...")
    print(summarize_coverage(", ".join({facts.benchmark: None for facts in images.values()}), verdicts))
    return int(bool(rejected) or any(verdict.status != "annotated" for verdict in verdicts.values()))


def run_import(given: argparse.Namespace) -> int:
    """Read another tool's file into an annotation file; print what was changed and left out."""
    from dontblink.boxes.annotations import read_images, read_strictly, write_annotations
    from dontblink.boxes.exchange import import_boxes

    images = read_images(given.images)
    found = import_boxes(given.other, given.format, images, annotator=given.annotator, shown=given.shown)
    print_rejected(found.rejected)
    for note in found.notes:
        print(f"note: {make_line(note)}")
    refused = write_annotations(given.file, found.annotations)
    print_rejected(refused.values())
    written = [len(row.corners) for row in found.annotations if row not in refused]
    n_lines = f"{paths.show(given.file)} has {len(read_strictly(given.file))} lines now"
    print(f"{len(written)} images with {sum(written)} boxes; {n_lines}")
    return int(bool(found.rejected or refused or not found.annotations))  # a file that gave nothing is not all well


def run_export(given: argparse.Namespace) -> int:
    """Write every picture's boxes for another tool; exit code 1 where an annotation fits no picture."""
    from dontblink.boxes.annotations import read_images, read_strictly
    from dontblink.boxes.exchange import export_boxes

    annotations = read_strictly(given.file)
    document, left_out = export_boxes(annotations, read_images(given.images), given.format)
    with whole_file(given.other) as temporary:
        temporary.write_bytes(document)
    print_rejected(left_out)
    print(f"{len(annotations) - len(left_out)} annotations written to {given.other}")
    return int(bool(left_out))


def run_agree(given: argparse.Namespace) -> int:
    """Print how well annotators agree, pair by pair."""
    from dontblink.boxes.annotations import read_strictly
    from dontblink.boxes.annotators import compare_annotators, summarize_agreement

    annotations = read_strictly(given.file)
    names = sorted({found.annotator for found in annotations})
    pairs = [tuple(given.between)] if given.between else list(combinations(names, 2))
    for first, second in pairs:
        report = compare_annotators(annotations, first, second, token_px=given.token_px)
        print(summarize_agreement(report, first, second, seed=given.seed))
    if not pairs:
        print("one annotator or none: nothing to compare")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 all well, 1 something was left out or cannot be read."""
    given = build_parser().parse_args(arguments)
    if given.command in ("report", "export", "agree") and not given.file.is_file():
        print(f"{given.file}: no annotations yet", file=sys.stderr)
        if given.command != "report":
            return 1
    try:
        return int(given.run(given))
    except (NamedError, ValueError) as error:
        print(make_line(str(error)), file=sys.stderr)
    except OSError as error:
        place = error.filename2 or error.filename
        print(make_line(f"{place}: {error.strerror}; name a file that can be written"), file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
