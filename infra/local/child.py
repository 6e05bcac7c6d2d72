"""Exec a program that dies with its parent: `python -m infra.local.child PARENT_PID COMMAND…`.

Run as a program of its own, so that the kernel's wish is set from a main thread (set from another
thread it would fire when that thread ends), and no code runs between fork and exec in the parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when `parent` ends; leave at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    os.execvp(command[0], command)  # noqa: S606 - the wish outlives exec


if __name__ == "__main__":
    main()
