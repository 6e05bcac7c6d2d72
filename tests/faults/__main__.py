"""Break an embedded run in each known way, and write down what its user is told.

    python -m tests.faults [--only TEXT] [--root DIR] [--to FILE]

Needs root, for the file systems that it fills, and Debian's packages prometheus and faketime. It
takes about two minutes a fault.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.faults import FAULTS, Fault
from tests.faults.run import Run, Said
from tests.faults.watched import alerts, watched

SEEN_SECONDS = 100
ALERT_SECONDS = 60  # until the rule of one holds; it fires when it has held for a while
OVER_SECONDS = 300
ALWAYS = {"OneDisk"}  # all file systems are those of one machine
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="the faults whose name has this in it")
    parser.add_argument("--root", type=Path, default=Path("data/faults"))
    parser.add_argument("--to", type=Path, default=HERE / "RESULTS.md")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("file systems are made and filled: this needs root", file=sys.stderr)
        return 1
    chosen = [fault for fault in FAULTS if arguments.only in fault.name]
    run = Run(arguments.root, random.randrange(20000, 30000, 40))
    found: list[str] = []
    failed = 0
    try:
        run.make()
        with watched(run) as prometheus:
            for fault in chosen:
                text, over = tried(run, fault, prometheus)
                print(text, flush=True)
                found.append(text)
                failed += not over
                write(arguments.to, found)
    finally:
        run.end()
    return 1 if failed else 0


def tried(run: Run, fault: Fault, prometheus: str) -> tuple[str, bool]:
    """Break it, ask as a user would, end the fault; return what was said, and if all is well."""
    before = run.versions()
    run.drop()
    begun = time.monotonic()
    with fault.broken(run):
        while not (told := run.troubles()) and time.monotonic() - begun < SEEN_SECONDS:
            time.sleep(2)
        seen = time.monotonic() - begun
        said = {
            name: run.duramen(name, before=fault.before) for name in ("status", "doctor", "check")
        }
        raised = alerts(prometheus)
        while not set(raised) - ALWAYS and time.monotonic() - begun < ALERT_SECONDS:
            time.sleep(2)
            raised = alerts(prometheus)
    try:
        over = run.until(lambda: is_well(run, before), OVER_SECONDS, "all is well again")
        after = f"all well {over:.0f} s after it ended, and the file dropped meanwhile is a version"
    except TimeoutError:
        over = None
        after = "**did not recover**: " + "; ".join(
            run.troubles() or ["the file did not become a version"]
        )
    first = f"after {seen:.0f} s" if told else "nothing"
    told_by = {name: state for name, state in raised.items() if name not in ALWAYS}
    names = ", ".join(f"{name} ({state})" for name, state in sorted(told_by.items())) or "none"
    parts = [f"## {fault.name}\n", f"`status` tells of it: {first}. Alerts: {names}. {after}.\n"]
    for name, words in said.items():
        parts.append(
            f"`duramen {name}`, {ending(words)}:\n\n```\n{chosen_lines(name, words)}\n```\n"
        )
    return "\n".join(parts), over is not None


def is_well(run: Run, before: int) -> bool:
    return not run.troubles() and run.versions() > before and run.duramen("check").status == 0


def ending(said: Said) -> str:
    return "still running after 150 s" if said.status is None else f"exit status {said.status}"


def chosen_lines(name: str, said: Said) -> str:
    """Return the lines that tell of a fault, at most 16, not those that say that all is well."""
    lines: Sequence[str] = said.lines
    if name in ("doctor", "check"):
        lines = [line for line in lines[name == "check" :] if " ok " not in f"{line} "]
    return "\n".join(line[:220] for line in lines[:16]) or "(all ok)"


HEAD = """# Faults, and what is said of them

Written by `python -m tests.faults`: an embedded run with SeaweedFS, a tiny model, and a file system
of its own for each folder, broken on purpose. With each fault a file is dropped into the inbox.
"""


def write(path: Path, found: Sequence[str]) -> None:
    path.write_text("\n".join([HEAD, *found]))


if __name__ == "__main__":
    sys.exit(main())
