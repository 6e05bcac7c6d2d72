"""A label counts as much as its factor says: in the loss, in its gradient, in what is reported."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.model import attention
from services.model.attention import pack
from services.model.encoded import Encoded, joined
from services.model.network import Network
from services.trainer.worker.data.plan import tokens_sha256
from services.trainer.worker.loop import gradient, label_weight
from shared.formats.plan import TrainingSettings
from tests.tiny import shared_tiny
from tests.unit.test_loop import awake, examples

UNCLIPPED = TrainingSettings(clip=1e9)


def weighted(seed: int = 0) -> list[Encoded]:
    """Rows of which every second one has factors, from almost nothing to one."""
    chance = np.random.default_rng(seed)
    return [
        dataclasses.replace(
            row, weights=chance.uniform(0.05, 1, len(row)).astype(np.float32) if n % 2 else None
        )
        for n, row in enumerate(examples(seed))
    ]


def by_torch(network: Network, rows: list[Encoded]) -> tuple[torch.Tensor, list[float]]:
    """(Weighted mean of all labels, that of each row), in float64, by the model's own forward."""
    network.base.set_attn_implementation("sdpa")
    sums, weights = [], []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype(np.int64))
        logits = network.model(input_ids=ids[None]).logits[0, :-1].double()
        losses = functional.cross_entropy(logits, ids[1:], reduction="none")
        ones = np.ones(len(row), np.float32)
        factors = torch.from_numpy(row.labelled * (ones if row.weights is None else row.weights))
        sums.append((losses * factors[1:].double()).sum())
        weights.append(factors[1:].double().sum())
    network.base.set_attn_implementation(attention.NAME)
    means = [float(s.detach() / w) for s, w in zip(sums, weights, strict=True)]
    return torch.stack(sums).sum() / torch.stack(weights).sum(), means


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_weighted_losses_and_gradients_are_those_of_torch(lean: bool, parts: int) -> None:
    network, rows = awake(shared_tiny()), weighted()
    network.lean = lean
    reference, row_means = by_torch(network, rows)
    torch.autograd.backward(reference)
    expected = {n: p.grad.clone() for n, p in network.adapter.items() if p.grad is not None}
    for parameter in network.adapter.values():
        parameter.grad = None
    size = len(rows) // parts
    cut = [rows[n : n + size] for n in range(0, len(rows), size)]
    numbers = gradient(network, UNCLIPPED, cut, 0).tolist()[1:]
    loss = sum(numbers[:parts]) / label_weight(cut)
    assert loss == pytest.approx(float(reference.detach()), rel=1e-5)
    assert numbers[parts:] == pytest.approx(row_means, rel=1e-5)
    for name, parameter in network.adapter.items():
        assert parameter.grad is not None
        scale = float(expected[name].abs().max())
        assert float((parameter.grad - expected[name]).abs().max()) <= 1e-4 * scale, name


def test_factors_of_one_change_nothing_to_the_bit() -> None:
    plain = examples()
    ones = [dataclasses.replace(r, weights=np.ones(len(r), np.float32)) for r in plain]
    found = []
    for rows in (plain, ones):
        network = awake(shared_tiny())
        found.append((gradient(network, UNCLIPPED, [rows[:2], rows[2:]], 0), network))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6)
    for name, parameter in found[0][1].adapter.items():
        assert torch.equal(parameter.grad, found[1][1].adapter[name].grad)  # type: ignore[arg-type]


def test_a_weight_of_a_half_is_half_the_gradient_beside_another_row() -> None:
    rows = examples(count=2)
    half = dataclasses.replace(rows[1], weights=np.full(len(rows[1]), 0.5, np.float32))
    labels = rows[0].labels + rows[1].labels / 2
    assert label_weight([[rows[0]], [half]]) == labels

    def grad(part: Encoded) -> torch.Tensor:
        network = awake(shared_tiny())
        total, _ = network.loss(pack([part], network.device))
        torch.autograd.backward(total)
        return torch.cat([p.grad.flatten() for p in network.adapter.values() if p.grad is not None])

    assert torch.allclose(grad(half), grad(rows[1]) / 2, rtol=1e-4, atol=1e-7)


def test_factors_follow_their_tokens_and_are_hashed_only_where_they_are() -> None:
    ids, trained = np.arange(6, dtype=np.int32), np.array([0, 0, 1, 1, 1, 1], np.bool_)
    row = Encoded(ids, trained, weights=np.array([1, 1, 0.5, 0.5, 0.25, 0.25], np.float32))
    both = joined([Encoded(ids, trained), row])
    assert both.weights is not None
    assert both.weights.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert both.last.weights is not None
    assert (row.label_weight, both.label_weight) == (1.5, 5.5)
    cut = both.cut(4)
    assert cut is not None
    assert (cut.lengths, cut.label_weight) == ((4, 4), 3.0)
    plain = joined([Encoded(ids, trained)] * 2)
    assert plain.weights is None
    assert tokens_sha256([plain], []) != tokens_sha256([both], [])
    # As it was before there were factors.
    assert tokens_sha256([plain], []).startswith("f27ce49a9538")


def test_the_pack_has_factors_only_where_a_row_has() -> None:
    device = torch.device("cpu")
    assert pack(examples(), device).factors is None
    batch = pack(weighted(), device)
    assert batch.factors is not None
    assert len(batch.factors) == sum(batch.labels)
