"""Names the hardware and libraries in use: with others, the same steps may give other bits."""

import platform
from typing import Any

import numpy as np
import peft
import torch
import transformers

from shared.host import cpu_name


def library_versions(device: torch.device) -> dict[str, Any]:
    """Return the versions of libraries, the device, the CPU and its number of threads, by name."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
    }
