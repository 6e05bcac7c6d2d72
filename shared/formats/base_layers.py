"""The layers of a base by the names in its files: which there are, and which are left out."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from shared.left_out import Spared, grouped, mixtures_in, why_left_out

HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
# Names that a mixture may have in memory, whatever its files call them.
MIXTURE_NAMES = ("experts", "gate", "router", "gate_up_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class BaseLayers:
    """The layers of one base. `names`: their paths; `matrices`: those that are one matrix."""

    model_type: str
    names: tuple[str, ...]
    matrices: tuple[str, ...]
    is_tied: bool
    is_mixture: bool
    left_out: tuple[Spared, ...]

    def has(self, target: str) -> bool:
        """Return whether a target may name a layer, or a block of layers, of the base."""
        end = target.rpartition(".")[2]
        if end in HEADS + EMBEDDINGS or (self.is_mixture and end in MIXTURE_NAMES):
            return True
        return any(f".{target}." in f".{name}." for name in self.names)

    def ends(self) -> list[str]:
        """Return the last parts of the names of all matrices."""
        return sorted({name.rpartition(".")[2] for name in self.matrices})

    def nearest(self, target: str) -> list[str]:
        """Return the names that are most like one that the base does not have."""
        return get_close_matches(target.rpartition(".")[2], self.ends(), n=3, cutoff=0.5)


def layers_in(config: dict[str, Any], headers: Iterable[dict[str, Any]]) -> BaseLayers:
    """Return the layers of a base, from its config.json and the headers of its weights."""
    text = config.get("text_config") or config
    kind = str(text.get("model_type") or config.get("model_type"))
    sizes = {
        str(name).removesuffix(".weight"): len(entry["shape"])
        for header in headers
        for name, entry in header.items()
        if not str(name).endswith("bias")
    }
    inside = {name: n for name, n in sizes.items() if any(p.isdigit() for p in name.split("."))}
    matrices = [name for name, dimensions in inside.items() if dimensions == 2]
    stacked = [n for n, dimensions in inside.items() if dimensions == 3 and holds_experts(n)]
    mixtures = mixtures_in(matrices, stacked)
    reasons = []
    for name in (*matrices, *stacked):
        why = why_left_out(name, kind, mixtures, is_stacked=name in stacked)
        if why is not None:
            reasons.append((name, why))
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return BaseLayers(
        model_type=kind,
        names=tuple(sizes),
        matrices=tuple(matrices),
        is_tied=not set(HEADS) & set(sizes) if tied is None else bool(tied),
        is_mixture=bool(mixtures),
        left_out=grouped(reasons),
    )


def holds_experts(name: str) -> bool:
    """Return whether a tensor of three dimensions holds the matrices of all experts."""
    parts = name.split(".")
    return "experts" in parts or parts[-1] in {"input_linear", "output_linear"}
