"""The device that is trained on, told without torch, and whether what was measured still holds."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml

from services.trainer.nvml import first, plain_text
from shared.host import cpu_name


def here(wanted: str) -> dict[str, str]:
    """What a measurement holds for, told without torch: the supervisor asks at each start."""
    name = gpu_name() if wanted != "cpu" else ""
    return {
        "device": "cuda" if name else "cpu",
        "name": name or cpu_name(),
        "torch": version("torch"),
    }


def file_in(state_dir: Path) -> Path:
    """Return where the last measurement is kept."""
    return state_dir / "dtype.json"


def holds(kept: Path, wanted: str) -> bool:
    """Whether an earlier measurement was made on what is here now."""
    if not kept.exists():
        return False
    found: dict[str, Any] = json.loads(kept.read_bytes())
    return found.get("here") == here(wanted)


def gpu_name() -> str:
    """Of the GPU that CUDA takes; empty without one."""
    try:
        return plain_text(pynvml.nvmlDeviceGetName(first()))
    except pynvml.NVMLError:
        return ""
