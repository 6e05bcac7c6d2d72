"""Losses and gradients on the card against those of the CPU, for each way through attention."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.model import attention
from services.model.attention import Batch, pack
from services.model.encoded import Encoded
from services.model.kernels import Way
from services.model.network import Network
from services.model.teacher_forcing import pack_behind
from shared.formats.adapter import AdapterShape
from tests.tiny import make_family

LORA = AdapterShape(rank=8, alpha=16)
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 2000,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
}
FLOAT32_LIMIT = 1e-4  # of the error's norm over the gradient's
BFLOAT16_LIMIT = 0.05
TIMES_CPU = 2.0  # how much worse than bfloat16 on the CPU it may be


@dataclass(frozen=True)
class Case:
    """A model and how its attention goes in bfloat16 on the card; `fused`: whether the kernel for
    all sequences is really called, which a soft cap keeps it from."""

    family: str = "llama"
    way: Way = Way.VARLEN
    fused: bool = True
    changes: tuple[tuple[str, Any], ...] = ()
    recompute: bool = False
    lean: bool = True


ONE_EACH = (("num_key_value_heads", 8),)
CASES = {
    "varlen": Case(),
    "varlen, a key for each head": Case(changes=ONE_EACH),
    "varlen, window": Case("mistral-window", changes=(("sliding_window", 33),)),
    "varlen, recomputed": Case(recompute=True),
    "varlen, ordinary head": Case(lean=False),
    "soft cap": Case("gemma2", fused=False, changes=(("sliding_window", 33),)),
    "a kernel for each sequence": Case(way=Way.PACKED, fused=False),
    "one conversation at a time": Case(way=Way.ALONE, fused=False),
}


def rows(count: int = 12, longest: int = 200, vocabulary: int = 2000) -> list[Encoded]:
    """Examples of 4 tokens and more, labelled in their second half."""
    chance = np.random.default_rng(5)
    found = []
    for length in [4, 5, *chance.integers(4, longest, count - 2)]:
        trained = np.zeros(length, np.bool_)
        trained[length // 2 :] = True
        found.append(Encoded(chance.integers(0, vocabulary, length).astype(np.int32), trained))
    return found


def network_of(base: Path, dtype: str, case: Case, device: str) -> Network:
    """A network with an adapter that does something, the same on each device and in each format."""
    network = Network(base, dtype, LORA, seed=1, recompute=case.recompute, device=device)
    fastest = network.device.type == "cuda" and dtype == "bfloat16"
    assert network.way is (Way.VARLEN if fastest else Way.PACKED), network.notes
    if case.way is not Way.VARLEN:
        network.take(case.way)
    network.lean = network.lean and case.lean
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.adapter.values():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * 0.05).to(parameter))
    return network


def gradients(network: Network, batch: Batch) -> tuple[float, torch.Tensor]:
    """The mean loss, and all gradients in one vector of float64 on the CPU."""
    total, _ = network.loss(batch)
    torch.autograd.backward(total / len(batch.targets))
    flat = []
    for name, parameter in network.adapter.items():
        assert parameter.grad is not None, name
        flat.append(parameter.grad.detach().cpu().double().flatten())
        parameter.grad = None
    return float(total.detach()) / len(batch.targets), torch.cat(flat)


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_cpu(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[[str], None],
) -> None:
    case = CASES[name]
    base = make_family(tmp_path / "base", case.family, **{**SHAPE, **dict(case.changes)})
    rounded(base)
    found: dict[str, tuple[float, torch.Tensor]] = {}
    kernels = counted(monkeypatch)
    for place in ("cpu", "cuda"):
        for dtype in ("float32", "bfloat16"):
            network = network_of(base, dtype, case, place)
            before = len(kernels)
            found[f"{place} {dtype}"] = gradients(network, pack(rows(), network.device))
            fused = place == "cuda" and dtype == "bfloat16" and case.fused
            assert (len(kernels) > before) is fused, f"{place} {dtype}: {network.notes}"
    loss, reference = found["cpu float32"]
    errors = {where: error(grads, reference) for where, (_, grads) in found.items()}
    losses = {where: abs(own - loss) / loss for where, (own, _) in found.items()}
    for where in ("cuda float32", "cuda bfloat16", "cpu bfloat16"):
        figures(f"{where}: gradient off by {errors[where]:.1e}, loss by {losses[where]:.1e}")
    assert errors["cuda float32"] < FLOAT32_LIMIT
    assert losses["cuda float32"] < FLOAT32_LIMIT
    assert errors["cuda bfloat16"] < max(BFLOAT16_LIMIT, TIMES_CPU * errors["cpu bfloat16"])
    assert losses["cuda bfloat16"] < max(0.01, TIMES_CPU * losses["cpu bfloat16"])


def rounded(base: Path) -> None:
    """Make the weights numbers that both formats can hold, so that only the arithmetic differs."""
    from safetensors.torch import load_file, save_file

    file = base / "model.safetensors"
    save_file({n: t.bfloat16().float() for n, t in load_file(file).items()}, file, {"format": "pt"})


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at each call of the kernel over all sequences."""
    calls: list[int] = []
    kernel = attention.varlen

    def call(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(1)
        return kernel(*arguments, **named)

    monkeypatch.setattr(attention, "varlen", call)
    return calls


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("drops", [0.0, 0.1])
def test_the_same_step_has_the_same_bits(
    dtype: str, drops: float, base: Path, figures: Callable[[str], None]
) -> None:
    lora = AdapterShape(rank=8, alpha=16, dropout=drops)
    seen = []
    for _ in range(2):
        network = Network(base, dtype, lora, seed=1, device="cuda")
        if drops:
            for module in network.base.modules():
                if hasattr(module, "attention_dropout"):
                    module.attention_dropout = drops
        batch = pack(rows(longest=150, vocabulary=256), network.device)
        runs = []
        for seed in (7, 7, 8):
            torch.manual_seed(seed)
            total, _ = network.loss(batch, 5.0 if drops else 0.0)
            torch.autograd.backward(total)
            runs.append([p.grad.clone() for p in network.adapter.values() if p.grad is not None])
            for parameter in network.adapter.values():
                parameter.grad = None
        same = [torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True)]
        assert all(same), f"{same.count(False)} of {len(same)} gradients differ"
        other = [torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True)]
        assert all(other) is (drops == 0.0)
        seen.append([t.cpu() for t in runs[0]])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    figures("equal to the last bit, twice in one network and in another one")


def test_a_shared_beginning_gives_the_losses_of_whole_rows(
    base: Path, figures: Callable[[str], None]
) -> None:
    network = network_of(base, "bfloat16", Case(), "cuda")
    chance = np.random.default_rng(3)
    prefix = chance.integers(0, 300, 40)
    rows = []
    for tail in (7, 30, 61):
        ids = np.concatenate((prefix, chance.integers(0, 300, tail))).astype(np.int32)
        rows.append(Encoded(ids, np.arange(len(ids)) >= 40))
    with network.measuring():
        whole = network.predict(pack(rows, network.device))[0]
        shared = network.predict(pack_behind(rows, 39, network.device))[0]
    off = float((shared - whole).abs().max())
    figures(f"largest difference of a loss: {off:.1e}, of {float(whole.max()):.1f}")
    assert off < 0.1
