"""A step on a device that is not there: `python -m tests.fake_step` ends with 0 if it never waits.

Tensors without numbers stand in for those of an accelerator (FakeTensorMode), so whatever asks one
for its value, or for a size that depends on values, raises: `.item()`, a mask as an index,
`nonzero`, `repeat_interleave` without the size of its output. torch without CUDA cannot go back
through CUDA tensors, not even fake ones; there they lie on a device registered for this process.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import backend_registration

from services.model.encoded import Encoded
from services.model.kernels import Way
from services.model.lora import adapter_parameters
from services.model.network import Network
from services.trainer.worker.loop import gradient
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from tests.tiny import make_tiny


class Accelerator(backend_registration._DummyBackendModule):
    """What torch asks the module of a device for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def device() -> torch.device:
    """Return a device of which torch knows how to go back through its tensors."""
    if torch.version.cuda is not None:
        return torch.device("cuda:0")
    backend_registration._setup_privateuseone_for_python_backend(
        "card", backend_module=Accelerator()
    )
    return torch.device("card:0")


def fake(tensor: torch.Tensor, mode: FakeTensorMode, there: torch.device) -> torch.Tensor:
    """Return a tensor like this one, without its numbers, on a device."""
    plain = tensor.detach()
    with mode:
        moved = mode.from_tensor(plain).to(there)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(moved, requires_grad=tensor.requires_grad)
        return moved


def move(network: Network, mode: FakeTensorMode, there: torch.device) -> None:
    """Put fakes of all tensors of a network onto a device; tied ones stay tied."""
    fakes: dict[int, Any] = {}
    for module in network.model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None and id(tensor) not in fakes:
                    fakes[id(tensor)] = fake(tensor, mode, there)
                kind[name] = fakes.get(id(tensor))
    network.device = there
    network.adapter = adapter_parameters(network.model)


def rows() -> list[list[Encoded]]:
    """Two micro-batches, of two conversations and of one."""
    found = [Encoded(np.arange(n, dtype=np.int32), np.arange(n) > n // 2) for n in (12, 30, 7)]
    return [found[:2], found[2:]]


@contextmanager
def waits() -> Iterator[None]:
    """Fail unless something inside asks the device for a number."""
    try:
        yield
    except DataDependentOutputException:
        return
    raise AssertionError("nothing was noticed, so nothing is proved")


def main() -> None:
    there, settings = device(), TrainingSettings(neftune_alpha=5.0)
    with tempfile.TemporaryDirectory() as folder:
        base = make_tiny(Path(folder))
        for way in Way:
            for lean in (True, False):
                network = Network(base, "bfloat16", AdapterShape(rank=4, dropout=0.1), seed=1)
                network.take(way)
                network.lean = lean
                mode = FakeTensorMode()
                move(network, mode, there)
                with mode:
                    numbers = gradient(network, settings, rows(), 3)
                    assert numbers.device == there
                    assert numbers.shape == (1 + 2 + 3,)
                    assert all(p.grad is not None for p in network.adapter.values())
                    with waits():
                        numbers.tolist()
                print(f"{way.value}, {'lean' if lean else 'ordinary'} head: the host never waits")


if __name__ == "__main__":
    main()
