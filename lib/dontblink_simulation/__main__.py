"""The commands of the simulation: `python -m dontblink_simulation`, and `... rules` on the tables of the testbed."""

import sys

from dontblink import arithmetic
from dontblink.errors import as_command


@as_command
def start() -> int:
    """Settle the arithmetic before numpy is loaded, so that the numbers are the same on every machine, and simulate."""
    if not {"-h", "--help"} & {*sys.argv}:
        arithmetic.put(arithmetic.find_settings(portable=True))
    if sys.argv[1:2] == ["rules"]:
        from dontblink_simulation import rules

        return int(rules.main(sys.argv[2:]))
    from dontblink_simulation.simulate import main

    return int(main())


if __name__ == "__main__":
    sys.exit(start())
