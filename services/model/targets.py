"""Chooses what of a base gets an adapter, and says what is left out, and why.

`all-linear` means every matrix of the decoder but those that peft refuses, and the routers and
experts of a mixture. A target that is named is taken, whatever it is: a matrix, an embedding, the
experts that a mixture keeps in one tensor. What cannot be adapted is refused here, in words that
say what to type instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

from services.model.layers import MATRICES, Layers, layers_of
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape
from shared.left_out import BYPASSED, MAMBA, Spared, grouped, why_left_out

EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
AGAIN = "Type: duramen lineage new NAME --base BASE --targets "


@dataclass(frozen=True)
class Targets:
    """What peft is asked to adapt. `modules`: names or ends of names, or `all-linear`."""

    modules: str | tuple[str, ...]
    parameters: tuple[str, ...] = ()
    left_out: tuple[Spared, ...] = ()


def choose_targets(base: Any, lora: AdapterShape, known: Iterable[str] = ()) -> Targets:
    """Return what of the base gets an adapter.

    `known`: names of the tensors of the adapter that is trained on. If they belong to layers that
    are left out, the lineage began before these were, and nothing is left out. Raises CannotTrain
    (base) for a target that the base does not have, or that cannot have an adapter.
    """
    layers = layers_of(base)
    if lora.targets != "all-linear":
        return named_targets(base, layers, lora)
    reasons = layers.left_out()
    adapted = {path_of(name) for name in known}
    if not reasons or adapted & set(reasons) or any(".experts" in name for name in adapted):
        return Targets("all-linear")
    taken = [name for name in layers.matrices if name not in reasons]
    left_out = grouped(reasons.items())
    if not taken:
        turn_down(
            f"all-linear leaves nothing of this base ({layers.model_type}) to train: "
            f"{'; '.join(map(str, left_out))}. {AGAIN}{','.join(sorted(ends(reasons)))}"
        )
    return Targets(short_names(taken, base), left_out=left_out)


def path_of(name: str) -> str:
    """Return the path of the layer that a tensor of an adapter belongs to."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


def ends(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def short_names(taken: list[str], base: Any) -> tuple[str, ...]:
    """Return the last parts of these names, or whole names where other modules end alike."""
    others = ends(name for name, _ in base.named_modules() if name not in set(taken))
    found = {n if n.rpartition(".")[2] in others else n.rpartition(".")[2] for n in taken}
    return tuple(sorted(found))


def is_fused(base: Any, end: str) -> bool:
    """Return whether peft takes modules of this name for the experts that a family has fused."""
    asked = LoraConfig(target_modules=[end])
    try:
        convert_peft_config_for_transformers(asked, model=base, conversions=None)
    except ValueError:  # it is one of two that must be named together
        return True
    return end not in (asked.target_modules or ())


def named_targets(base: Any, layers: Layers, lora: AdapterShape) -> Targets:
    """Return the targets that were named, each as the kind of thing that it is."""
    modules: list[str] = []
    parameters: list[str] = []
    for target in lora.targets:
        names = [n for n, _ in base.named_modules() if is_named(n, target)]
        inside = [n for n in layers.stacked + layers.routers if is_within(n, target)]
        if inside and not any(isinstance(base.get_submodule(n), MATRICES) for n in names):
            parameters += inside
            continue
        check_target(base, layers, target, names, [t for t in lora.targets if t != target])
        modules.append(target)
    check_fused(base, modules, lora, bool(parameters))
    return Targets(tuple(modules), tuple(sorted({last_two(name) for name in parameters})))


def is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def is_within(name: str, target: str) -> bool:
    """Return whether a parameter is named by the target, or lies in a module that is."""
    module = name.rpartition(".")[0]
    mixture = target.endswith("experts") and f".{target}." in f".{name}"
    return mixture or is_named(name, target) or is_named(module, target)


def last_two(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def check_fused(base: Any, modules: list[str], lora: AdapterShape, has_parameters: bool) -> None:
    """Check what peft makes of names that a family has fused into its experts.

    Raises CannotTrain (base).
    """
    asked = LoraConfig(target_modules=modules)
    try:
        convert_peft_config_for_transformers(asked, model=base, conversions=None)
    except ValueError as error:
        fused = [end for end in EXPERT_NAMES if is_fused(base, end)]
        turn_down(
            f"The experts of this base ({base.config.model_type}) keep several matrices in one: "
            f"{str(error).rstrip('.')}. {AGAIN}{','.join(dict.fromkeys([*modules, *fused]))}"
        )
    if lora.dropout and (has_parameters or asked.target_parameters):
        turn_down(
            "peft adapts experts and routers that are kept in one tensor only without dropout. "
            "Type: duramen lineage new NAME --base BASE --dropout 0 --targets "
            + ",".join(lora.targets)
        )


def check_target(base: Any, layers: Layers, target: str, names: list[str], rest: list[str]) -> None:
    """Check that peft can adapt the modules with these names.

    `rest`: the other targets. Raises CannotTrain (base).
    """
    kind = layers.model_type
    if not names:
        if layers.mixtures and is_fused(base, target):
            return
        turn_down(f"This base ({kind}) has no layer {target!r}. {nearest(layers, target)}")
    reason = why_left_out(names[0], kind, layers.mixtures)
    if reason in {MAMBA, BYPASSED}:
        turn_down(
            f"{target} of this base ({kind}) cannot have an adapter: {reason}. {others(layers)}"
        )
    if is_tied(base, names):
        turn_down(
            f"{target} cannot have an adapter: this base ({kind}) uses one matrix as its embedding "
            f"and as its head, and an adapter would change only one of them. {others(layers)}"
        )
    for name in names:
        module = base.get_submodule(name)
        if not isinstance(module, (*MATRICES, torch.nn.Embedding)):
            inside = ends(n for n in layers.matrices if n.startswith(f"{name}."))
            which = AGAIN + ",".join(sorted(inside | set(rest))) if inside else others(layers)
            turn_down(
                f"{target} of this base ({kind}) is a {type(module).__name__}, not a matrix, and "
                f"peft cannot adapt it. {which}"
            )


def is_tied(base: Any, names: list[str]) -> bool:
    """Return whether one of these modules is a head or embedding that share one matrix."""
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    return any(base.get_submodule(name) in {head, embedding} for name in names)


def nearest(layers: Layers, target: str) -> str:
    """Return the next step for a name that the base does not have: the nearest that it has."""
    known = sorted(ends([*layers.matrices, *layers.stacked]))
    close = get_close_matches(target.rpartition(".")[2], known, n=3, cutoff=0.5)
    return f"The nearest names are {', '.join(close)}." if close else others(layers)


def others(layers: Layers) -> str:
    """Return the next step: the matrices that can be named."""
    reasons = layers.left_out()
    named = ends(n for n in layers.matrices if n not in reasons)
    return AGAIN + ",".join(sorted(end for end in named if not end.isdigit()))


def turn_down(message: str) -> NoReturn:
    raise CannotTrain("base", message)
