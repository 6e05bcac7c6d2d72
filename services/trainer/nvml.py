"""Finds the GPU that CUDA takes, through NVML and without torch."""

import os
from typing import Any

import pynvml

FIRST = "0"  # of those that CUDA is given; without one there is no series at all


def first() -> Any:
    """Return NVML's handle of the GPU that CUDA takes; NVML itself ignores CUDA_VISIBLE_DEVICES.

    For a part of a GPU (MIG), return the first whole GPU. Raises NVMLError, also if all are hidden.
    """
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
    """Return NVML's text as a string; the libraries of older drivers give bytes."""
    return text.decode() if isinstance(text, bytes) else str(text)


def driver() -> str:
    """Return the driver's version; empty where there is none."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
