"""The command of the simulation: `python -m dontblink_simulation`."""

import sys

from dontblink import arithmetic
from dontblink.errors import as_command


@as_command
def start() -> int:
    """Settle the arithmetic before numpy is loaded, so that the numbers are the same on every machine, and simulate."""
    if not {"-h", "--help"} & {*sys.argv}:
        arithmetic.put(arithmetic.find_settings(portable=True))
    from dontblink_simulation.simulate import main

    return int(main())


if __name__ == "__main__":
    sys.exit(start())
