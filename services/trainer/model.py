"""The frozen base with its LoRA adapter, and the two questions that are asked of it."""

import json
import math
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from services.trainer import attention
from services.trainer.attention import Batch, pack
from services.trainer.checkpoint import Tensors
from services.trainer.head_loss import CHUNK_TOKENS, FrozenHeadLoss, plain_loss
from services.trainer.spec import Failure, Lora
from services.trainer.template import Encoded


class Network:
    """Base and adapter on one device. `lean`: the head is a plain frozen matrix."""

    def __init__(self, base_dir: Path, dtype: str, lora: Lora, seed: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.use_deterministic_algorithms(True)
        attention.register()
        # The job's log is for people.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            base = AutoModelForCausalLM.from_pretrained(
                str(base_dir),
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
            base.set_attn_implementation(attention.NAME)
            base.to(self.device)  # type: ignore[arg-type]  # from_pretrained's wrapper hides it
            self.model: Any = with_adapter(base, lora)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise Failure("base", f"The base model cannot be loaded: {error}") from error
        self.base: Any = self.model.get_base_model()
        self.adapter = adapter_parameters(self.model)
        initialize(self.adapter, seed)
        self.model.train()
        self.lean = False
        self.check()

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states [T, d] behind the last layer."""
        body = self.base.get_decoder() if hasattr(self.base, "get_decoder") else self.base.model
        out = body(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=None,
            use_cache=False,
            lengths=batch.lengths,
        )
        states: torch.Tensor = out.last_hidden_state[0]
        return states

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits [n, V] at the labels, by the model's own head."""
        out = self.base(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=None,
            use_cache=False,
            lengths=batch.lengths,
            logits_to_keep=batch.sources,
        )
        found: torch.Tensor = out.logits[0]
        return found

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum over the labels, with a gradient; loss of each label [n] float32)."""
        if not self.lean:
            return plain_loss(self.logits(batch), batch.targets)
        states = self.hidden(batch).index_select(0, batch.sources)
        head = self.base.get_output_embeddings().weight
        total, losses = FrozenHeadLoss.apply(states, head, batch.targets)  # type: ignore[no-untyped-call]
        return total, losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss [n] float32, most likely token [n]) at the labels."""
        if not self.lean:
            logits = self.logits(batch)
            return plain_loss(logits, batch.targets)[1], logits.argmax(-1)
        states = self.hidden(batch).index_select(0, batch.sources)
        head = self.base.get_output_embeddings().weight
        losses, best = [], []
        for start in range(0, len(states), CHUNK_TOKENS):
            here = slice(start, start + CHUNK_TOKENS)
            logits = states[here] @ head.t()
            losses.append(plain_loss(logits, batch.targets[here])[1])
            best.append(logits.argmax(-1))
        return torch.cat(losses), torch.cat(best)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """No dropout and no gradients inside; as before afterwards."""
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Attention with masks, as padded batches and a cache need it."""
        self.base.set_attn_implementation("sdpa")
        try:
            with self.measuring():
                yield
        finally:
            self.base.set_attn_implementation(attention.NAME)

    def check(self) -> None:
        """Try what the loop relies on, on this very model. Raises Failure (base)."""
        vocabulary = int(self.base.config.get_text_config().vocab_size)
        first, second = sequence(7, vocabulary, 3), sequence(5, vocabulary, 11)
        both = pack([first, second], self.device)
        with self.measuring():
            try:
                together = self.hidden(both)
                apart = torch.cat([self.hidden(pack([e], self.device)) for e in (first, second)])
            except NotImplementedError as error:
                raise Failure("base", f"This model cannot be trained here: {error}") from error
            limit = 1e-3 if together.dtype == torch.float32 else 0.1
            scale = float(apart.abs().max())
            if float((together - apart).abs().max()) > limit * max(scale, 1.0):
                raise Failure(
                    "base",
                    "Packed conversations see each other in this model: its attention is not "
                    f"the one that transformers lets us replace ({type(self.base).__name__}).",
                )
            self.lean = self.plain_head(both, together)

    def plain_head(self, batch: Batch, states: torch.Tensor) -> bool:
        """True if logits are hidden states times a frozen matrix and nothing else."""
        head: Any = self.base.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            return False
        bias: torch.Tensor | None = head.bias
        if bias is not None or head.weight.requires_grad:
            return False
        by_hand = states.index_select(0, batch.sources) @ head.weight.t()
        by_model = self.logits(batch)
        return torch.allclose(by_hand.float(), by_model.float(), rtol=1e-3, atol=1e-3)

    def state(self) -> dict[str, NDArray[Any]]:
        """The adapter's tensors by the names under which peft stores them, float32."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self.adapter.items()}

    def restore(self, tensors: Tensors) -> None:
        """Raises Failure (checkpoint) unless names and shapes are exactly those of the adapter."""
        same = set(tensors) == set(self.adapter) and all(
            tuple(tensors[n].shape) == tuple(p.shape) for n, p in self.adapter.items()
        )
        if not same:
            raise Failure("checkpoint", "The checkpoint's adapter does not fit this base and LoRA.")
        with torch.no_grad():
            for name, parameter in self.adapter.items():
                parameter.copy_(torch.from_numpy(tensors[name]))


def with_adapter(base: Any, lora: Lora) -> Any:
    with warnings.catch_warnings():
        # peft asks for a property that transformers has renamed; nobody here can change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        return get_peft_model(base, lora_config(lora))


def lora_config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number does
        lora_dropout=lora.dropout,
        target_modules=lora.targets if lora.targets == "all-linear" else list(lora.targets),
        bias="none",
    )


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trainable tensors, sorted by the names that peft gives them in its files."""
    found = {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert all(p.dtype == torch.float32 for p in found.values())
    return dict(sorted(found.items()))


def initialize(adapter: dict[str, torch.nn.Parameter], seed: int) -> None:
    """A as peft draws it, but from a generator of our own, on the CPU; B zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.items():
            values = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
            parameter.copy_(values)


def adapter_config(model: Any) -> bytes:
    """peft's adapter_config.json, the same bytes for the same adapter."""
    fields = model.peft_config["default"].to_dict()
    fields.update(base_model_name_or_path="base", inference_mode=True, revision=None)
    plain = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in fields.items()}
    if isinstance(plain.get("target_modules"), list):
        plain["target_modules"] = sorted(plain["target_modules"])
    return (json.dumps(plain, sort_keys=True, indent=2, default=str) + "\n").encode()


def environment(device: torch.device) -> dict[str, Any]:
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


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def sequence(tokens: int, vocabulary: int, factor: int) -> Encoded:
    """Some token ids, all with a label; for trying the model out."""
    ids = (np.arange(1, tokens + 1) * factor) % vocabulary
    return Encoded(ids.astype(np.int32), np.ones(tokens, np.bool_))
