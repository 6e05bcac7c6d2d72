"""Exec a program that dies with its parent: `python -m infra.local.child PARENT_PID COMMAND…`.

It runs as a program of its own, so that the request to the kernel comes from a main thread (from
another thread it would take effect when that thread ends), and no code runs between fork and exec
in the parent.
"""

import os
import sys

from shared.child import die_with_parent


def main() -> None:
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    os.execvp(command[0], command)  # noqa: S606 - the wish outlives exec


if __name__ == "__main__":
    main()
