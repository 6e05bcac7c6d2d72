"""`python3 -m infra.compose COMMAND`: what `make up`, `make down` and so on call.

Uses only the standard library; what needs more runs in a container.
"""

import argparse
import sys
from collections.abc import Callable

from infra.compose import lifecycle, smoke
from infra.compose.host import Host, HostRefused
from infra.compose.images import lock_images

COMMANDS: dict[str, Callable[[Host, list[str]], int]] = {
    "doctor": lifecycle.doctor,
    "up": lifecycle.up,
    "smoke": smoke.run,
    "backup": lifecycle.back_up_bus,
    "restore": lifecycle.restore,
    "upgrade": lifecycle.upgrade,
    "down": lifecycle.down,
    "destroy": lifecycle.destroy,
    "logs": lifecycle.logs,
    "ps": lifecycle.ps,
    "config": lifecycle.config,
    "ctl": lifecycle.ctl,
    "images-lock": lock_images,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m infra.compose", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        return COMMANDS[arguments.command](Host.load(), arguments.words)
    except HostRefused as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
