"""The LoRA adapter on a base: its modules, its initial values and the names of its tensors."""

import json
import math
import re
import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from services.model.layers import decoder_prefix
from services.model.targets import Targets
from shared.formats.adapter import AdapterShape


def with_adapter(base: Any, lora: AdapterShape, targets: Targets) -> Any:
    """Return peft's model around the base, with a new adapter of this shape."""
    with warnings.catch_warnings():
        # peft asks for a property that transformers has renamed, says that it sets fan_in_fan_out
        # for the matrices of GPT-2, as it must, and that it does not find patterns of its own for
        # fused experts. None of it can be changed here.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys")
        return get_peft_model(base, lora_config(lora, targets, beside_decoder(base)))


def beside_decoder(base: Any) -> str | None:
    """Return a pattern for all modules beside the decoder of a model that also sees or hears.

    Text never passes them, so an adapter there would only cost memory. None for a text model.
    """
    prefix = decoder_prefix(base)
    return rf"(?!{re.escape(prefix)}).*" if prefix else None


def lora_config(lora: AdapterShape, targets: Targets, excluded: str | None = None) -> LoraConfig:
    """Return peft's configuration; `excluded` is a pattern of modules that get no adapter."""
    names = targets.modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number does
        lora_dropout=lora.dropout,
        target_modules=names if isinstance(names, str) else list(names),
        target_parameters=list(targets.parameters) or None,
        exclude_modules=excluded,
        bias="none",
    )


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trainable tensors, sorted by the names that peft gives them in its files."""
    found = {
        name.replace(".default.", ".").removesuffix(".default"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert all(p.dtype == torch.float32 for p in found.values())
    return dict(sorted(found.items()))


def initialize(adapter: dict[str, torch.nn.Parameter], seed: int) -> None:
    """Draw A as peft does, but from a generator of our own, and set B to zero.

    Of an embedding's adapter it is the other way round, as in peft. The generator is the CPU's, so
    that a lineage starts with the same bits on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.items():
            values = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
            elif name.endswith(".lora_embedding_B"):
                values.normal_(generator=generator)
            parameter.copy_(values)


def adapter_config(model: Any) -> bytes:
    """Return peft's adapter_config.json: the same bytes for the same adapter."""
    fields = model.peft_config["default"].to_dict()
    fields.update(base_model_name_or_path="base", inference_mode=True, revision=None)
    plain = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in fields.items()}
    for kind in ("target_modules", "target_parameters"):
        if isinstance(plain.get(kind), list):
            plain[kind] = sorted(plain[kind])
    return (json.dumps(plain, sort_keys=True, indent=2, default=str) + "\n").encode()
