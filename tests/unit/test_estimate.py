"""What is told of memory before the start, against what a worker then takes."""

import json
import struct
from pathlib import Path

import pytest
import torch

from services.ctl.commands.estimate import size_in_bytes
from services.model.attention import pack
from services.model.kernels import sequence
from services.model.network import Network
from services.trainer.memory import Memory, shortage
from services.trainer.worker import base_check
from shared.errors import UsageError
from shared.formats.adapter import AdapterShape
from shared.memory_estimate import (
    GIB,
    Choice,
    Dtype,
    choose_fitting,
    estimate_memory,
    shape_of_folder,
)
from tests.tiny import make_family, make_tiny, tiny_conversations, write_dataset
from tests.unit.test_worker_memory import status_bytes
from tests.worker import Job, Worker

MIB = 2**20


@pytest.mark.slow
def test_the_estimate_is_what_a_real_worker_takes(tmp_path: Path) -> None:
    base = make_tiny(
        tmp_path / "base",
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=8000,
    )
    job = Job(tmp_path, base)
    job.sha256 = write_dataset(job.dataset, tiny_conversations(80))
    tokens = 2200
    settings = {**job.spec("x")["settings"], "batch_tokens": tokens}
    lora = {"rank": 16, "alpha": 32}
    spec = job.spec("x", settings=settings, lora=lora, micro_tokens=tokens, checkpoint_seconds=1e6)
    with Worker(job.directory / "x", spec, fresh=True) as worker:
        worker.until_event("plan")
        worker.tell("go")
        step = worker.until_event("step")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 2)
        peak = status_bytes(worker, "VmHWM")
        # Nor does it hold what a base of this kind does not need, and takes seconds to import.
        assert "bitsandbytes" not in Path(f"/proc/{worker.pid}/maps").read_text()
    assert step["micro_batches"] == 1
    choice = Choice("float32", step["tokens"])
    told = estimate_memory(shape_of_folder(base), choice, AdapterShape(rank=16), "cpu")
    ratio = told.total / peak
    print(f"estimate {told.total / MIB:.0f} MiB, measured {peak / MIB:.0f} MiB: {ratio:.2f}")
    assert 0.8 < ratio < 1.4


def make_8b(folder: Path) -> Path:
    """Llama 3 8B, by its configuration and the headers of its weights alone."""
    layers, hidden, inner, words = 32, 4096, 14336, 128256
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": words,
    }
    matrices = {"q": hidden, "k": 1024, "v": 1024, "o": hidden, "gate": inner, "up": inner}
    shapes = {"model.embed_tokens.weight": [words, hidden], "lm_head.weight": [words, hidden]}
    for layer in range(layers):
        for name, outs in matrices.items():
            shapes[f"model.layers.{layer}.{name}_proj.weight"] = [outs, hidden]
        shapes[f"model.layers.{layer}.down_proj.weight"] = [hidden, inner]
    header = json.dumps({n: {"dtype": "BF16", "shape": s} for n, s in shapes.items()}).encode()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_an_8b_model_fits_a_card_of_24_gb_with_checkpointing_and_one_of_12_quantised(
    tmp_path: Path,
) -> None:
    shape = shape_of_folder(make_8b(tmp_path))
    assert shape.numbers == pytest.approx(8.03e9, rel=1e-3)
    wish = Choice("bfloat16", 2048)
    large, middle, small = (
        choose_fitting(shape, size * GIB, wish, AdapterShape(rank=16), "cuda")
        for size in (80, 24, 12)
    )
    assert large.choice == wish
    assert middle.choice == Choice("bfloat16", 2048, checkpointing=True)
    assert small.choice.quantize == "nf4"
    assert small.total <= 12 * GIB < middle.total <= 24 * GIB < large.total
    # Adam's two moments, and what it trains: 42 million numbers, as peft counts them.
    assert large.parts["optimizer"] == pytest.approx(41_943_040 * 8 * 1.08, rel=1e-3)


@pytest.mark.parametrize("gib", [80, 24, 18, 12, 8, 6])
def test_the_longest_row_is_never_cut_to_fit(tmp_path: Path, gib: int) -> None:
    shape = shape_of_folder(make_8b(tmp_path))
    found = choose_fitting(
        shape, gib * GIB, Choice("bfloat16", 2048), AdapterShape(rank=16), "cuda"
    )
    assert found.choice.tokens == 2048


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_caps_keep_in_full_is_counted(tmp_path: Path, dtype: Dtype) -> None:
    """Gemma 2's head and attention: all logits, and all scores of each layer."""
    tokens, words = 1200, 20_000
    base = make_family(tmp_path, "gemma2", vocab_size=words, max_position_embeddings=tokens)
    network = Network(base, dtype, AdapterShape(rank=16, alpha=32), seed=0)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in network.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = network.loss(pack([sequence(tokens, words, 7)], network.device))
    size = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    told = estimate_memory(
        shape_of_folder(base), Choice(dtype, tokens), AdapterShape(rank=16), "cuda"
    )
    ratio = told.parts["activations"] / size
    print(f"estimate {told.parts['activations'] / MIB:.0f} MiB, kept {size / MIB:.0f} MiB")
    assert float(total.detach()) > 0
    assert 1 < ratio < 2.5  # beside what is kept there is what is computed


def test_weights_that_lie_there_twice_are_counted_once(tmp_path: Path) -> None:
    """Some models bring all of them again, as one file of their makers' own; an index is only
    with those in several parts."""
    before = shape_of_folder(make_8b(tmp_path))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "consolidated.safetensors").write_bytes(whole)
    assert shape_of_folder(tmp_path) == before
    assert [file.name for file in base_check.weight_files(tmp_path)] == ["model.safetensors"]
    index = {"weight_map": {"lm_head.weight": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shape_of_folder(tmp_path) == before
    assert [file.name for file in base_check.weight_files(tmp_path)] == ["model.safetensors"]


def test_sizes_are_read_as_people_write_them() -> None:
    assert size_in_bytes("24GB") == size_in_bytes("24 GiB") == size_in_bytes("24g") == 24 * GIB
    assert size_in_bytes("512M") == 512 * MIB
    for text in ("a lot", "24"):
        with pytest.raises(UsageError, match="24GB"):
            size_in_bytes(text)


def test_a_folder_that_holds_no_weights_has_no_size(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a model directory"):
        shape_of_folder(tmp_path)


def test_too_little_free_memory_names_need_and_holders(tmp_path: Path) -> None:
    told = estimate_memory(
        shape_of_folder(make_8b(tmp_path)), Choice("bfloat16", 64), AdapterShape(), "cpu"
    )
    assert shortage(told, Memory("cpu", 64 * GIB, 40 * GIB)) is None
    why = shortage(told, Memory("cpu", 64 * GIB, 3 * GIB))
    assert why is not None
    assert "3.0 GiB of 64.0 GiB free" in why
    assert "(pid " in why
    # Waiting would not make the machine larger.
    assert shortage(told, Memory("cpu", 8 * GIB, 3 * GIB)) is None
    limited = shortage(told, Memory("cuda", 64 * GIB, 2 * GIB, limit=2 * GIB))
    assert limited is not None
    assert limited.endswith("DURAMEN_MEMORY_LIMIT allows 2.0 GiB")
