"""The lean loop computes what transformers computes, and each step depends on counters alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from services.model import attention
from services.model.attention import pack
from services.model.encoded import Encoded
from services.model.lora import adapter_config
from services.model.network import Network
from services.trainer.worker import metrics
from services.trainer.worker.micro_batches import split
from services.trainer.worker.optimizer import (
    learning_rate,
    make_optimizer,
    mix,
    optimizer_state,
    restore_optimizer,
)
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from tests.tiny import make_tiny, shared_tiny

LORA = AdapterShape(rank=4, alpha=8)


def examples(seed: int = 0, count: int = 6, vocabulary: int = 200) -> list[Encoded]:
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(chance.integers(4, 40))
        trained = np.zeros(length, np.bool_)
        trained[length // 2 :] = True
        trained[0] = bool(chance.integers(2))
        found.append(Encoded(chance.integers(0, vocabulary, length).astype(np.int32), trained))
    return found


def awake(base: Path, lora: AdapterShape = LORA) -> Network:
    """A network whose adapter does something: a fresh one adds nothing."""
    network = Network(base, "float32", lora, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.adapter.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def by_transformers(network: Network, rows: list[Encoded]) -> torch.Tensor:
    """Mean loss over the labels, padded, by the model's own forward with a mask."""
    width = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for n, row in enumerate(rows):
        here = torch.from_numpy(row.ids.astype(np.int64))
        ids[n, : len(row)], mask[n, : len(row)] = here, 1
        labels[n, : len(row)] = torch.where(torch.from_numpy(row.trained), here, -100)
    network.base.set_attn_implementation("sdpa")
    logits = network.model(input_ids=ids, attention_mask=mask).logits
    network.base.set_attn_implementation(attention.NAME)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), labels[:, 1:].flatten())


@pytest.mark.parametrize("lean", [True, False])
def test_loss_and_gradients_are_those_of_transformers(lean: bool) -> None:
    network, rows = awake(shared_tiny()), examples()
    assert network.lean
    network.lean = lean
    reference = by_transformers(network, rows)
    torch.autograd.backward(reference)
    expected = {n: p.grad.clone() for n, p in network.adapter.items() if p.grad is not None}
    assert set(expected) == set(network.adapter)
    for parameter in network.adapter.values():
        parameter.grad = None
    batch = pack(rows, network.device)
    total, losses = network.loss(batch)
    torch.autograd.backward(total / len(batch.targets))
    mean = float(total.detach()) / len(batch.targets)
    assert mean == pytest.approx(float(reference.detach()), rel=1e-5)
    assert float(losses.sum()) == pytest.approx(float(total.detach()), rel=1e-6)
    for name, parameter in network.adapter.items():
        assert parameter.grad is not None
        scale = float(expected[name].abs().max())
        assert float((parameter.grad - expected[name]).abs().max()) <= 1e-4 * scale, name


def test_a_conversation_has_the_same_losses_alone_and_packed() -> None:
    network, rows = awake(shared_tiny()), examples(seed=3)
    with network.measuring():
        batch = pack(rows, network.device)
        together = torch.split(network.predict(batch)[0], batch.labels)
        apart = [network.predict(pack([r], network.device))[0] for r in rows]
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_sliding_window_is_kept_in_long_conversations() -> None:
    masks = attention.window(5, 2, torch.device("cpu"))
    assert masks is not None
    assert masks.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert attention.window(2, 2, torch.device("cpu")) is None


def test_a_head_with_a_scale_is_noticed_and_computed_by_the_model(tmp_path: Path) -> None:
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        logit_scale=0.25,
    )
    CohereForCausalLM(config).save_pretrained(str(tmp_path))
    network = awake(tmp_path)
    assert not network.lean
    batch = pack(examples(), network.device)
    assert float(network.loss(batch)[0].detach()) > 0


def test_the_adapter_starts_from_its_seed_alone() -> None:
    torch.manual_seed(5)
    first = Network(shared_tiny(), "float32", LORA, seed=1).state()
    torch.manual_seed(6)
    second = Network(shared_tiny(), "float32", LORA, seed=1).state()
    third = Network(shared_tiny(), "float32", LORA, seed=2).state()
    assert all((first[n] == second[n]).all() for n in first)
    assert any((first[n] != third[n]).any() for n in first)
    assert all((v == 0).all() == ("lora_B" in n) for n, v in first.items())


# peft asks for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_what_is_written_and_its_config_has_the_same_bytes(tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM

    network, rows = awake(shared_tiny()), examples()
    assert adapter_config(network.model) == adapter_config(awake(shared_tiny()).model)
    save_file(network.state(), tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes(adapter_config(network.model))
    base = AutoModelForCausalLM.from_pretrained(str(shared_tiny()))
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = torch.from_numpy(rows[0].ids.astype(np.int64))[None]
    with torch.no_grad():
        theirs = loaded(input_ids=ids).logits[0, :-1].argmax(-1)
    everything = Encoded(rows[0].ids, np.ones(len(rows[0]), np.bool_))
    with network.measuring():
        ours = network.predict(pack([everything], network.device))[1]
    assert (theirs == ours).all()


def test_a_network_computes_alike_each_time_and_fills_no_memory_for_that() -> None:
    memory: Any = torch.utils.deterministic
    memory.fill_uninitialized_memory = True
    awake(shared_tiny())
    assert torch.are_deterministic_algorithms_enabled()
    assert not memory.fill_uninitialized_memory


def test_the_optimizer_is_restored_to_the_bit() -> None:
    rows = examples()

    def step(network: Network, optimizer: torch.optim.AdamW) -> None:
        total, _ = network.loss(pack(rows, network.device))
        torch.autograd.backward(total)
        optimizer.step()
        optimizer.zero_grad()

    network = awake(shared_tiny())
    optimizer = make_optimizer(network, TrainingSettings())
    step(network, optimizer)
    weights, state = network.state(), optimizer_state(network, optimizer)
    other = Network(shared_tiny(), "float32", LORA, seed=9)
    other.restore(weights)
    again = make_optimizer(other, TrainingSettings())
    restore_optimizer(other, again, state)
    for n, o in ((network, optimizer), (other, again)):
        step(n, o)
        step(n, o)
    assert all((v == other.state()[k]).all() for k, v in network.state().items())


def test_the_learning_rate_warms_up_once_and_then_stays() -> None:
    warm = TrainingSettings(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(warm, s, s, 6) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cold = TrainingSettings(learning_rate=1.0, warmup_steps=0)
    assert learning_rate(cold, 0, 0, 6) == 1.0


def test_a_schedule_goes_down_to_a_tenth_at_the_end_of_each_job() -> None:
    def rates(**fields: Any) -> list[float]:
        # A later job of the lineage: the warm-up is long over.
        chosen = TrainingSettings(learning_rate=1.0, warmup_steps=4, **fields)
        return [round(learning_rate(chosen, 50 + p, p, 11), 3) for p in range(11)]

    assert rates() == [1.0] * 11
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[5] == 0.55
    assert cosine[10] == 0.1
    assert cosine == sorted(cosine, reverse=True)
    cooled = rates(schedule="wsd", cooldown_fraction=0.2)
    assert cooled == [*[1.0] * 9, 0.55, 0.1]
    short = TrainingSettings(learning_rate=1.0, warmup_steps=0, schedule="cosine")
    assert learning_rate(short, 0, 0, 1) == 1.0


def test_noise_on_the_embeddings_is_bounded_seeded_and_gone_afterwards() -> None:
    network, rows = awake(shared_tiny()), examples()
    batch = pack(rows, network.device)
    seen: list[torch.Tensor] = []
    hook = network.base.get_input_embeddings().register_forward_hook(
        lambda _, __, out: seen.append(out.detach())
    )
    quiet = network.loss(batch)[0]
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with network.noise(batch, 5.0):
            # Behind the noise: hooks run in the order of their registration.
            after = network.base.get_input_embeddings().register_forward_hook(
                lambda _, __, out: seen.append(out.detach())
            )
            losses.append(float(network.exact_loss(batch)[0].detach()))
            after.remove()
    assert losses[0] == losses[1] != losses[2]
    assert float(network.loss(batch)[0].detach()) == float(quiet.detach()) != losses[0]
    difference = (seen[2] - seen[1])[0].abs()
    for part, length in zip(torch.split(difference, batch.lengths), batch.lengths, strict=True):
        most = 5.0 / (length * part.shape[1]) ** 0.5
        assert 0.8 * most < float(part.max()) <= most * 1.001
    hook.remove()


def test_the_randomness_of_each_micro_batch_is_its_own() -> None:
    seeds = {mix(s, g, m) for s in range(4) for g in range(30) for m in range(4)}
    assert len(seeds) == 480
    assert all(0 <= s < 2**63 for s in seeds)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 80))
def test_a_split_keeps_order_and_only_a_lone_row_may_be_too_long(
    lengths: list[int], most: int
) -> None:
    rows = {n: Encoded(np.zeros(k, np.int32), np.ones(k, np.bool_)) for n, k in enumerate(lengths)}
    parts = split(list(rows), rows, most)
    assert [r for part in parts for r in part] == list(rows)
    assert all(len(part) == 1 or sum(lengths[r] for r in part) <= most for part in parts)


def test_metrics_of_steps_that_are_done_again_are_cut_off_and_the_others_count(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps(
            {
                "position": n,
                "seconds": 2.0,
                "snapshot_seconds": 1.5 * n,
                "skipped": n != 1,
                "rows": [{"row": n, "loss": None if n == 2 else 1.0}, {"row": 9, "loss": 1.0}],
            }
        )
        for n in range(1, 6)
    ]
    path.write_text("\n".join(lines) + '\n{"position": 6, "lo')
    file, past = metrics.open_metrics(path, 3)
    file.close()
    assert [json.loads(m)["position"] for m in path.read_text().splitlines()] == [1, 2, 3]
    # Row 2 was no number; in the third step none was, so all of them may have done it.
    assert past == metrics.Past(3, [(2,), (3, 9)], 6.0, 4.5)


def test_a_bfloat16_base_keeps_a_float32_adapter(tmp_path: Path) -> None:
    network = Network(make_tiny(tmp_path), "bfloat16", LORA, seed=1)
    total, losses = network.loss(pack(examples(), network.device))
    torch.autograd.backward(total)
    assert losses.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in network.adapter.values())
