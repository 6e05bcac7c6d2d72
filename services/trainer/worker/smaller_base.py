"""Makes a smaller network of the same kind as a base that is too large to be tried out itself.

It has fewer layers, but one of each kind at least, a smaller vocabulary, fewer and narrower
experts, and random weights. All modules keep their names, and what decides about attention its
sizes.
"""

from pathlib import Path
from typing import Any

from services.trainer.worker.base_check import configuration
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape
from shared.memory_estimate import LAYERS

# A field's name -> the most that it keeps.
MOST = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 1024),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "ffn_dim", "n_inner"), 512),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"), 1),
}
KINDS = ("layer_types", "layers_block_type", "mlp_layer_types")  # lists: the kind of each layer
MOST_LAYERS = 12
MOST_NUMBERS = 600_000_000  # 2.4 GB as float32, twice while it is loaded again


def write_smaller(base: Path, lora: AdapterShape, target: Path) -> tuple[str, AdapterShape]:
    """Write a smaller base; return what it is, and the adapter's shape for it.

    The targets are those of the whole base, which is built without weights to find them. Raises
    CannotTrain (base).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from services.model.refusal import refusing
    from services.model.targets import choose_targets

    build: Any = AutoModelForCausalLM.from_config
    kind = str(configuration(base)["model_type"])
    with refusing("built", kind):
        config = AutoConfig.from_pretrained(str(base), local_files_only=True)
        layers = config.get_text_config().num_hidden_layers
        with torch.device("meta"):
            choose_targets(build(config), lora)
        make_smaller(config)
        with torch.device("meta"):
            numbers = count(build(config))
        if numbers > MOST_NUMBERS:
            raise CannotTrain(
                "base", f"Even a small part of this base ({kind}) is too large to be tried out."
            )
        torch.manual_seed(0)
        build(config, dtype=torch.float32).save_pretrained(str(target))
    kept = config.get_text_config().num_hidden_layers
    what = (
        f"a smaller network of the same kind ({kept} of {layers} layers, {numbers / 1e6:.0f} "
        "million random weights), because the base itself is large"
    )
    return what, for_fewer_layers(lora)


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def make_smaller(config: Any) -> None:
    """Make a configuration smaller in place."""
    text = config.get_text_config()
    before = text.num_hidden_layers
    after = layers_to_keep(text, before)
    for name, value in list(vars(text).items()):
        if name in LAYERS:
            setattr(text, name, after)
        elif isinstance(value, list) and len(value) == before:
            setattr(text, name, value[:after])
        elif isinstance(value, dict) and value and all(isinstance(key, int) for key in value):
            setattr(text, name, {key: kept for key, kept in value.items() if key < after})
        elif name in MOST and isinstance(value, int) and value > MOST[name]:
            setattr(text, name, MOST[name])
        elif name.endswith("_token_id") and isinstance(value, int):
            setattr(text, name, min(value, MOST["vocab_size"] - 1))
    if getattr(text, "num_kv_shared_layers", 0):
        text.num_kv_shared_layers = 0


def layers_to_keep(text: Any, before: int) -> int:
    """Return how many of the first layers are of all kinds that the base has."""
    most = 2
    for name in KINDS:
        kinds = getattr(text, name, None)
        if isinstance(kinds, list) and kinds:
            most = max(most, *(kinds.index(kind) + 1 for kind in set(kinds)))
    for name in ("attn_layer_period", "expert_layer_period"):
        most = max(most, getattr(text, name, None) or 0)
    return min(before, most, MOST_LAYERS)


def for_fewer_layers(lora: AdapterShape) -> AdapterShape:
    """Return the same shape, or all-linear if targets name layers that may have been left away."""
    numbered = any(part.isdigit() for target in lora.targets for part in target.split("."))
    return lora.model_copy(update={"targets": "all-linear"}) if numbered else lora
