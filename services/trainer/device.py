"""Names the training device without torch, and checks whether a measurement still holds."""

from importlib.metadata import version
from pathlib import Path

import pynvml

from services.trainer.nvml import first, plain_text
from shared.foreign.state_file import kept_object
from shared.host import cpu_name

FORMATS = ("float32", "bfloat16")


def here(wanted: str) -> dict[str, str]:
    """Return the device and torch version for which a measurement holds, without importing torch.

    The supervisor, which never imports torch, asks at each start.
    """
    name = gpu_name() if wanted != "cpu" else ""
    return {
        "device": "cuda" if name else "cpu",
        "name": name or cpu_name(),
        "torch": version("torch"),
    }


def file_in(state_dir: Path) -> Path:
    """Return the path of the file that keeps the last measurement."""
    return state_dir / "dtype.json"


def holds(kept: Path, wanted: str) -> bool:
    """Return whether an earlier measurement was made on this device with this torch."""
    found = measurement(kept)
    return found.get("dtype") in FORMATS and found.get("here") == here(wanted)


def measurement(kept: Path) -> dict[str, object]:
    """Return the last measurement; empty if there is none, or it cannot be read."""
    return kept_object(kept)


def gpu_name() -> str:
    """Return the name of the GPU that CUDA takes; empty without one."""
    try:
        return plain_text(pynvml.nvmlDeviceGetName(first()))
    except pynvml.NVMLError:
        return ""
