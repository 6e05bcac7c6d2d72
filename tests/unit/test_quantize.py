"""A base held in four bits, and gradients computed anew: less memory, the same adapter."""

import warnings
from pathlib import Path

import pytest
import torch

from services.model.attention import pack
from services.model.lora import adapter_config
from services.model.network import Network
from services.trainer.worker.optimizer import make_optimizer
from shared.formats.adapter import AdapterShape
from shared.formats.plan import TrainingSettings
from tests.tiny import make_tiny, shared_tiny
from tests.unit.test_loop import examples

LORA = AdapterShape(rank=4, alpha=8, dropout=0.1)


def gradients(network: Network) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    batch = pack(examples(), network.device)
    total, _ = network.loss(batch, 1.0)
    torch.autograd.backward(total)
    found = {}
    for name, parameter in network.adapter.items():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
    return float(total.detach()), found


def test_recomputing_gives_the_same_bits_also_with_dropout_and_noise() -> None:
    kept = Network(shared_tiny(), "float32", LORA, seed=1)
    anew = Network(shared_tiny(), "float32", LORA, seed=1, recompute=True)
    assert anew.packs
    assert anew.lean
    assert anew.base.is_activation_checkpointing
    assert not kept.base.is_activation_checkpointing
    loss, expected = gradients(kept)
    again, found = gradients(anew)
    assert again == loss
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def nf4(base: Path) -> Network:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return Network(base, "float32", AdapterShape(rank=4, alpha=8), seed=1, quantize="nf4")


def test_an_adapter_trained_on_four_bits_merges_into_the_base_as_it_is_stored(
    tmp_path: Path,
) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    base = make_tiny(tmp_path / "base", tie_word_embeddings=False)
    network = nf4(base)
    head = network.base.get_output_embeddings()
    assert type(head) is torch.nn.Linear
    assert network.lean
    assert network.packs
    layer = network.base.model.layers[0].mlp.gate_proj.base_layer
    assert type(layer).__name__ == "Linear4bit"
    optimizer = make_optimizer(network, TrainingSettings(learning_rate=0.02))
    batch = pack(examples(), network.device)
    losses = []
    for _ in range(12):
        total, _ = network.loss(batch)
        torch.autograd.backward(total / len(batch.targets))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / len(batch.targets))
    assert losses[-1] < 0.8 * losses[0]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = {name: torch.from_numpy(values) for name, values in network.state().items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_bytes(adapter_config(network.model))

    plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    with torch.no_grad():
        before = plain(input_ids=batch.ids).logits
        with warnings.catch_warnings():
            # peft asks for a property that transformers has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
            tuned = PeftModel.from_pretrained(plain, str(adapter))
        beside = tuned(input_ids=batch.ids).logits
        merged = tuned.merge_and_unload(safe_merge=True)
        after = merged(input_ids=batch.ids).logits
    assert torch.allclose(after, beside, atol=1e-3)
    assert not torch.allclose(after, before, atol=0.1)
    weights = merged.model.layers[0].mlp.gate_proj
    assert type(weights) is torch.nn.Linear
    assert weights.weight.dtype == torch.float32
    # What was learned on four bits is known to the base in full.
    row = batch.targets
    loss = torch.nn.functional.cross_entropy(after[0, batch.sources], row)
    assert float(loss) < float(torch.nn.functional.cross_entropy(before[0, batch.sources], row))
