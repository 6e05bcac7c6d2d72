"""A base that cannot be trained here is refused before anything is computed, in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.model.device import total_memory
from services.model.network import Network
from services.model.template import Chat
from services.trainer.worker import base_check
from shared import host
from shared.errors import CannotTrain
from tests.tiny import make_tiny, shared_tiny
from tests.unit.test_loop import LORA
from tests.unit.test_mask import CLOCK


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "base")


def refused(base: Path, **options: Any) -> str:
    with pytest.raises(CannotTrain) as caught:
        base_check.check_base(base, "float32", **{"memory_bytes": 1 << 40, **options})
    assert caught.value.kind == "base"
    return str(caught.value)


def reconfigure(base: Path, **changes: Any) -> None:
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_base_that_is_in_order_passes() -> None:
    base_check.check_base(shared_tiny(), "float32", 1 << 40)
    (file,) = base_check.weight_files(shared_tiny())
    # Tied: the embeddings are stored once.
    assert base_check.parameters(file) == sum(
        p.numel()
        for n, p in Network(shared_tiny(), "float32", LORA, 0).base.named_parameters()
        if ".lora_" not in n
    )


def test_a_base_without_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert "no weights (no safetensors file)" in refused(base)


def test_a_base_of_which_a_part_is_missing(base: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no weights (model-2.safetensors)" in refused(base)


def test_a_base_that_wants_code_of_its_own(base: Path) -> None:
    reconfigure(base, model_type="marvel", auto_map={"AutoModelForCausalLM": "m.Marvel"})
    assert "code of its own, which Duramen never runs" in refused(base)


def test_a_base_that_does_not_write_on(base: Path) -> None:
    reconfigure(base, model_type="vit")
    assert "not a causal language model" in refused(base)


def test_a_base_that_does_not_fit_says_what_it_needs_and_what_there_is(base: Path) -> None:
    message = refused(base, memory_bytes=100_000)
    assert "does not fit" in message
    assert "MiB" in message


def test_a_base_that_is_larger_than_the_limit_says_so(base: Path) -> None:
    assert "DURAMEN_MEMORY_LIMIT allows" in refused(base, limit=100_000)


def test_the_limit_of_the_own_memory_group_is_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that sees the host's tree of groups is in a group below the root."""
    monkeypatch.setattr(host, "OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host, "CGROUPS", tmp_path / "fs")
    (tmp_path / "cgroup").write_text("0::/system/duramen\n")
    group = tmp_path / "fs" / "system" / "duramen"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{3 << 20}\n")
    (group / "memory.current").write_text(f"{2 << 20}\n")
    (group / "memory.stat").write_text(f"anon 7\ninactive_file {1 << 20}\n")
    assert total_memory("cpu") == 3 << 20
    assert host.machine_memory().free == 2 << 20


def test_weights_that_are_cut_off(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert "cannot be read" in refused(base)


def test_weights_that_are_not_those_of_the_configuration(base: Path) -> None:
    reconfigure(base, hidden_size=32)
    base_check.check_base(base, "float32", 1 << 40)
    with pytest.raises(CannotTrain, match="cannot be loaded") as caught:
        Network(base, "float32", LORA, seed=0)
    assert caught.value.kind == "base"


def test_a_tokenizer_that_cannot_be_read(base: Path) -> None:
    (base / "tokenizer.json").write_text("{")
    with pytest.raises(CannotTrain, match="tokenizer cannot be loaded") as caught:
        Chat(base, CLOCK)
    assert caught.value.kind == "base"
