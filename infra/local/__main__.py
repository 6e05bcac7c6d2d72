"""`python -m infra.local up|down|status --home DIR`: the embedded run."""

import argparse
import json
import sys
from pathlib import Path

from infra.local.home import Home
from infra.local.lifecycle import NotStarted, down, status, up
from infra.local.ports import Ports, PortTaken
from infra.local.servers import ServerMissing
from shared.service_names import SERVICES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--home", type=Path, default=Path("data/local"))
    parser.add_argument("--servers-only", action="store_true", help="no services")
    arguments = parser.parse_args()
    home = Home(arguments.home.absolute())
    try:
        if arguments.action == "up":
            show_addresses(up(home.root, services=not arguments.servers_only))
        elif arguments.action == "down":
            down(home.root)
        else:
            print(json.dumps(status(home), indent=1))
    except (NotStarted, PortTaken, ServerMissing) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: stopping what was started", file=sys.stderr)
        down(home.root)
        return 130
    return 0


def show_addresses(home: Home) -> None:
    ports = Ports()
    print(f"running: {home.root}")
    print(f"  inbox   {home.inbox}")
    print(f"  store   {ports.url('store')}   backup {ports.url('backup')}")
    for service in SERVICES:
        print(f"  {service:<9} {ports.url(service)}")
    print(f"  logs    {home.logs}")


if __name__ == "__main__":
    sys.exit(main())
