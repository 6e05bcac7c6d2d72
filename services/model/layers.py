"""The layers of a base that an adapter may be put on, by their paths."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from shared.left_out import mixtures_in, why_left_out

MATRICES = (torch.nn.Linear, Conv1D)


@dataclass
class Layers:
    """The layers of one base.

    `matrices`: modules that hold one matrix, without the head. `stacked`: parameters that hold the
    matrices of all experts, [experts, ...]. `routers`: parameters that choose among experts, in
    modules of their own. `mixtures`: blocks that hold experts.
    """

    model_type: str
    matrices: list[str] = field(default_factory=list)
    stacked: list[str] = field(default_factory=list)
    routers: list[str] = field(default_factory=list)
    mixtures: set[str] = field(default_factory=set)

    def left_out(self) -> dict[str, str]:
        """Return the paths of all layers that all-linear leaves out, each with the reason."""
        found = {}
        for name in (*self.matrices, *self.stacked, *self.routers):
            why = why_left_out(
                name.removesuffix(".weight"),
                self.model_type,
                self.mixtures,
                is_stacked=name in self.stacked,
            )
            if why is not None:
                found[name] = why
        return found


def layers_of(base: Any) -> Layers:
    """Return the layers of the decoder of a base."""
    head, decoder = base.get_output_embeddings(), decoder_prefix(base)
    found = Layers(base.config.model_type)
    alone = []
    for name, module in base.named_modules():
        if not name.startswith(decoder):
            continue
        if isinstance(module, MATRICES):
            if module is not head:
                found.matrices.append(name)
        elif not isinstance(module, torch.nn.Embedding):
            alone += [(name, f"{name}.{own}", p.ndim) for own, p in own_parameters(module)]
            if holds_expert_weights(name, module):
                found.stacked += [path for within, path, n in alone if within == name and n > 1]
    found.stacked = [path for path in found.stacked if not path.endswith("bias")]
    found.mixtures = mixtures_in(found.matrices, found.stacked)
    found.routers = [
        path
        for name, path, dimensions in alone
        if dimensions == 2
        and path.endswith(".weight")
        and why_left_out(name, found.model_type, found.mixtures)
    ]
    return found


def holds_expert_weights(name: str, module: torch.nn.Module) -> bool:
    """Return whether a module with parameters of its own holds the matrices of all experts."""
    return "Expert" in type(module).__name__ or "experts" in name.split(".")


def own_parameters(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the parameters of a module itself; those of a convolution are not matrices."""
    if type(module).__name__.startswith("Conv"):
        return []
    return list(module.named_parameters(recurse=False))


def decoder_of(base: Any) -> Any:
    """Return the module that makes hidden states of tokens: all of a text model but its head."""
    found = base.get_decoder() if hasattr(base, "get_decoder") else base.model
    return base.model if found is base else found  # Llama 4 names itself


def decoder_prefix(base: Any) -> str:
    """Return the beginning of the paths of all modules that text passes.

    It is empty for a text model, and that of the decoder for one that also sees or hears.
    """
    if base.config.get_text_config() is base.config:
        return ""
    decoder = decoder_of(base)
    return str(next(name for name, module in base.named_modules() if module is decoder)) + "."
