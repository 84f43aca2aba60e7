"""The command of the extraction: `python -m dontblink.extraction`."""

import argparse
import sys

from dontblink import arithmetic
from dontblink.errors import as_command


@as_command
def start() -> int:
    """Settle the arithmetic of the profile, which must be done before torch is loaded, and extract."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--profile", default="testbed")
    if not {"-h", "--help"} & {*sys.argv}:
        arithmetic.settle(parser.parse_known_args()[0].profile)
    from dontblink.extraction.run import main

    main()
    return 0


if __name__ == "__main__":
    sys.exit(start())
