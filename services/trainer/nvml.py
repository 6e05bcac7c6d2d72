"""The GPU that CUDA takes, as NVML sees it. Needs no torch."""

import os
from typing import Any

import pynvml

FIRST = "0"  # of those that CUDA is given; without one there is no series at all


def first() -> Any:
    """NVML's handle of the GPU that CUDA takes; NVML itself heeds no CUDA_VISIBLE_DEVICES. A part
    of a GPU (MIG) stands for the first whole one. Raises NVMLError, also where all are hidden."""
    pynvml.nvmlInit()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", FIRST).partition(",")[0].strip()
    if named.startswith("MIG"):
        named = FIRST
    if named.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(named))
    for index in range(pynvml.nvmlDeviceGetCount() if named.startswith("GPU-") else 0):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        if plain_text(pynvml.nvmlDeviceGetUUID(device)).startswith(named):
            return device
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def plain_text(text: Any) -> str:
    """Older drivers' libraries give bytes."""
    return text.decode() if isinstance(text, bytes) else str(text)


def driver() -> str:
    """The driver's version; empty where there is none."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
