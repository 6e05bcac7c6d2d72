"""Prints, as JSON, whether this torch can use the GPU that it sees.

Run `python -m services.trainer.worker.gpu_check`.
"""

import json
from typing import Any

from services.trainer.nvml import driver


def verdict() -> dict[str, Any]:
    """Return whether torch can compute on the GPU (`usable`), and if not, `why`."""
    import torch

    arches = torch.cuda.get_arch_list()
    found: dict[str, Any] = {"torch": torch.__version__, "driver": driver(), "usable": False}
    if not torch.cuda.is_available():
        why = f"torch for CUDA {torch.version.cuda} sees no GPU; is the driver new enough for it?"
        return {**found, "why": why}
    major, minor = torch.cuda.get_device_capability(0)
    found |= {"name": torch.cuda.get_device_name(0), "arch": f"sm_{major}{minor}"}
    try:
        float((torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum())
    except RuntimeError as error:
        why = f"{found['arch']} is not among {', '.join(arches)}: {str(error).splitlines()[0]}"
        return {**found, "why": why}
    return {**found, "usable": True}


if __name__ == "__main__":
    print(json.dumps(verdict()))
