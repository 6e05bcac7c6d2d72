"""Attention that computes something else than the model's own does not train, and that is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from services.model import attention, kernels
from services.model.attention import pack
from services.model.environment import library_versions
from services.model.kernels import Proofs, Way
from services.model.network import Network
from tests.tiny import make_tiny
from tests.unit.test_loop import LORA, examples

BASE = ("ab" * 32, "bfloat16", "none")
Kernel = Any


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel for all sequences is offered here, too, as on a GPU."""
    monkeypatch.setattr(kernels, "candidate_ways", lambda _: [Way.VARLEN, Way.PACKED])


def right(query: Any, key: Any, value: Any, ends: Any, *rest: Any) -> torch.Tensor:
    """What the kernel of a GPU computes, as a CPU can."""
    lengths = ends.diff().tolist()
    module, scaling = torch.nn.Module(), rest[1]
    out, _ = attention.packed_attention(
        module, query, key, value, scaling=scaling, lengths=lengths, sliding_window=rest[2]
    )
    return out


class Doubled(torch.autograd.Function):
    """Right on the way there, and wrong on the way back."""

    @staticmethod
    def forward(_: Any, keys: torch.Tensor) -> torch.Tensor:
        return keys.clone()

    @staticmethod
    def backward(_: Any, *slope: torch.Tensor) -> torch.Tensor:
        return slope[0] * 2


def wrong_gradients(query: Any, key: Any, *rest: Any) -> torch.Tensor:
    return right(query, Doubled.apply(key), *rest)  # type: ignore[no-untyped-call]


def wrong_results(*given: Any) -> torch.Tensor:
    return right(*given) * 1.5


def unknown_here(*_: Any) -> torch.Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


def network(base: Path, path: Path | None = None) -> Network:
    return Network(base, "bfloat16", LORA, seed=1, proofs=Proofs(path, BASE))


def test_a_kernel_that_is_right_is_taken(
    base: Path, offered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*given: Any) -> torch.Tensor:
        calls.append(given[4])
        return right(*given)

    monkeypatch.setattr(attention, "varlen", counted)
    found = network(base)
    assert (found.way, found.notes) == (Way.VARLEN, [])
    calls.clear()
    found.loss(pack(examples(), found.device))
    assert calls == [max(len(e) for e in examples())] * 2  # one a layer


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (wrong_gradients, "its gradients differ from those of each conversation alone ("),
        (wrong_results, "its results differ from those of each conversation alone by"),
        (unknown_here, "FlashAttention only supports Ampere GPUs or newer."),
    ],
)
def test_a_kernel_that_is_wrong_is_not_taken_and_the_log_says_why(
    kernel: Kernel, why: str, base: Path, offered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "varlen", kernel)
    found = network(base)
    assert found.way is Way.PACKED
    (note,) = found.notes
    assert note.startswith("one attention kernel for all conversations is not used, slower: ")
    assert why in note
    monkeypatch.setattr(attention, "varlen", None)  # and is not called again
    found.loss(pack(examples(), found.device))


def test_attention_that_is_wrong_for_each_sequence_leaves_the_models_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = attention.packed_attention

    def wrong(module: Any, query: Any, key: Any, *rest: Any, **named: Any) -> Any:
        return packed(module, query, Doubled.apply(key), *rest, **named)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(attention, "packed_attention", wrong)
    found = network(base)
    monkeypatch.undo()
    attention.register()
    assert found.way is Way.ALONE
    assert "one by one, slower: its gradients differ" in found.notes[0]


def test_what_was_found_is_kept_for_this_base_device_and_versions(
    base: Path, offered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attention.json"
    monkeypatch.setattr(attention, "varlen", wrong_gradients)
    first = network(base, path)
    kept = json.loads(path.read_text())
    (refused, taken) = sorted(kept.items(), key=lambda item: item[1] is None)
    assert "gradients differ" in refused[1]
    assert taken[1] is None
    assert refused[0].startswith(
        f"varlen, {BASE[0]}, bfloat16, none, cpu, torch {torch.__version__}"
    )

    def never(*_: Any) -> None:
        raise KeyboardInterrupt("compared again")

    monkeypatch.setattr(kernels, "compare_way", never)
    again = network(base, path)
    assert (again.way, again.notes) == (first.way, first.notes)
    newer = {**library_versions(first.device), "torch": "9.9"}
    monkeypatch.setattr(kernels, "library_versions", lambda _: newer)
    with pytest.raises(KeyboardInterrupt, match="compared again"):
        network(base, path)


def test_a_file_that_cannot_be_read_is_made_anew(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    path.write_text("{")
    assert network(base, path).way is Way.PACKED
    assert list(json.loads(path.read_text()).values()) == [None]


def test_what_memory_did_not_suffice_to_compare_is_not_trusted_and_not_kept(
    base: Path, offered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(attention, "varlen", right)
    monkeypatch.setattr(kernels, "compare_way", too_large)
    found = network(base, tmp_path / "attention.json")
    assert found.way is Way.PACKED
    assert all("memory ran out before its gradients were compared" in n for n in found.notes)
    assert len(found.notes) == 2
    assert not (tmp_path / "attention.json").exists()


def test_comparing_changes_neither_the_adapter_nor_the_random_numbers(base: Path) -> None:
    found = network(base)
    weights, numbers = found.state(), torch.get_rng_state()
    with found.measuring():
        kernels.choose_way(found, Proofs())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(p.grad is None for p in found.adapter.values())
    assert all((v == weights[n]).all() for n, v in found.state().items())
