"""duramen recover: make a bus that was lost or set back whole again from any one place."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import START, DuramenError

TREE = Path(__file__).resolve().parents[4]


class NoInstallation(DuramenError):
    """There is no installation in that folder, so nothing is recovered into it."""

    exit_code = 6
    next_step = f"{START}; on a new host: duramen recover --from archive:/mnt/archive"


class NotHere(DuramenError):
    """The programs that replace a bus are not a part of this container."""

    exit_code = 2
    next_step = "make restore ARGS=bus, on the host; docs/recovery.md says more"


def recover(
    home: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the embedded run.")
    ] = Path("data/local"),
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="Read only store, backup, archive or archive:/a/folder. May be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Make the bus whole again from what was exported of it, and list what cannot come back.

    Queue, ledgers, settings of lineages, versions, rollbacks and commands come back under the
    numbers that they had. Stop the services first: make local-stop. Nothing else is touched; the
    vault copies versions, bases and data to places that lack them once it runs.
    """
    if not (TREE / "infra" / "recover.py").exists():
        raise NotHere
    if not (home / "secrets").exists() and not source:
        raise NoInstallation
    words = ["--home", str(home.absolute()), *(f"--place={each}" for each in source or [])]
    words += ["--yes"] * yes + ["--dry-run"] * dry_run
    done = subprocess.run([sys.executable, "-m", "infra.recover", *words], cwd=TREE)
    raise typer.Exit(done.returncode)
