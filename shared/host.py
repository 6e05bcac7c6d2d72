"""The machine that this runs on."""

import platform
from contextlib import suppress
from pathlib import Path


def cpu_name() -> str:
    """Its model where Linux tells it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
