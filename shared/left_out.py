"""The layers of a base that `all-linear` leaves without an adapter, and why, by their names alone.

The trainer asks about the modules of a network, the command line about the tensors in a base's
files, which many mixtures of experts store under other names. Both are answered by one rule.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

# The model types, and the modules in them, to which peft refuses a LoRA adapter.
MAMBA_TYPES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
MAMBA_MODULES = ("conv1d", "out_proj")
MAMBA = "peft refuses it, because the kernels of Mamba read its weights past an adapter"
# Modules whose weights are used without calling them: an adapter there is never reached.
BYPASSED_MODULES = ("correction_coefs", "dt_proj")
BYPASSED = "the model reads its weights past an adapter, which would learn nothing"
# The mixtures in which peft takes the names of the experts' matrices for the experts themselves,
# so that other layers of these names cannot have an adapter alone.
FUSED_TYPES = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), ("gate", "w1", "w2", "w3")),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
            *("dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite"),
            *("glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe"),
            *("qwen3_moe", "qwen3_next", "solar_open"),
        ),
        ("gate", "gate_proj", "up_proj", "down_proj"),
    ),
}
FUSED = "peft adapts it in this family only together with all experts"
ROUTER = "it chooses among the experts, and a small change sends tokens to other ones"
EXPERTS = "an adapter for each expert costs far more memory than all other layers together"
ROUTERS = ("gate", "gating", "router", "shared_expert_gate")


@dataclass(frozen=True)
class Spared:
    """Layers of one kind that get no adapter: the ends of their names, and why."""

    names: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)}: {self.why}"


def why_left_out(
    name: str, model_type: str, mixtures: Collection[str], *, is_stacked: bool = False
) -> str | None:
    """Return why a layer gets no adapter unless it is asked for by name, or None if it gets one.

    `name` is the layer's path, such as `model.layers.0.mlp.gate`; `mixtures` are the paths of all
    blocks that hold experts (`mixtures_in`). A stacked layer holds the matrices of all experts.
    """
    parts = name.split(".")
    if model_type in MAMBA_TYPES and parts[-1] in MAMBA_MODULES:
        return MAMBA
    if parts[-1] in BYPASSED_MODULES:
        return BYPASSED
    if "router" in parts and mixtures:
        return ROUTER
    if is_stacked or "experts" in parts:
        return EXPERTS
    if parts[-1] in ROUTERS and name.rpartition(".")[0] in mixtures:
        return ROUTER
    return FUSED if mixtures and parts[-1] in FUSED_TYPES.get(model_type, ()) else None


def mixtures_in(names: Iterable[str], stacked: Iterable[str] = ()) -> set[str]:
    """Return the paths of all blocks that hold experts, from the paths of layers.

    `stacked`: the paths of those that hold the matrices of all experts.
    """
    found = {name.partition(".experts")[0] for name in names if "experts" in name.split(".")}
    return (
        found
        | {name.partition(".experts")[0] for name in stacked if ".experts" in name}
        | {name.rpartition(".")[0] for name in stacked if ".experts" not in name}
    )


def grouped(reasons: Iterable[tuple[str, str]]) -> tuple[Spared, ...]:
    """Return what is left out by its reason, from pairs of a layer's path and the reason."""
    kinds: dict[str, set[str]] = {}
    for name, why in reasons:
        kinds.setdefault(why, set()).add(known_as(name, why))
    return tuple(Spared(tuple(sorted(names)), why) for why, names in sorted(kinds.items()))


def known_as(name: str, why: str) -> str:
    """Return the end of a layer's path by which people know it, without numbers."""
    parts = [p for p in name.removesuffix(".weight").split(".") if not p.isdigit()]
    if why == EXPERTS and "experts" in parts:
        return "experts"
    return "router" if "router" in parts else parts[-1]
