"""The commands of the extraction: `python -m dontblink.extraction`, and `... evidence` and `... causal` after it."""

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
    if sys.argv[1:2] == ["evidence"]:
        from dontblink.extraction import readings

        del sys.argv[1]
        readings.main()
    elif sys.argv[1:2] == ["causal"]:
        from dontblink.extraction import effects

        del sys.argv[1]
        effects.main()
    else:
        from dontblink.extraction import run

        run.main()
    return 0


if __name__ == "__main__":
    sys.exit(start())
