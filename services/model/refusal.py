"""Turns what a library raises about a base into a refusal that names the place and a way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from services.model.out_of_memory import is_out_of_memory
from shared.errors import CannotTrain

LONGEST = 600  # characters of what a library says
# Raised by a model that meets what it was not written for; never by a lack of memory or disk.
CONFUSED = (
    *(AttributeError, LookupError, TypeError, ValueError),
    *(NotImplementedError, AssertionError),
)


@contextmanager
def refusing(doing: str, base_type: str, targets: str = "") -> Iterator[None]:
    """Raise CannotTrain (base) for any exception inside, except for one of memory.

    `doing` ends "The base cannot be …", such as `loaded`. `targets`: the layers that have an
    adapter, by the ends of their names, with commas, as far as they are known.
    """
    try:
        yield
    except CannotTrain:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise refusal_of(error, doing, base_type, targets) from error


def refusal_of(error: Exception, doing: str, base_type: str, targets: str = "") -> CannotTrain:
    """Return the refusal for an exception that came out of a base's own code."""
    at = module_at(error)
    where = f" in {at}" if at else ""
    kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else type(error).__name__
    said = ": ".join(filter(None, [kind, str(error).strip()[:LONGEST].rstrip(".")]))
    said = " ".join((said or type(error).__name__).split())
    return CannotTrain(
        "base",
        f"The base (model type {base_type}) cannot be {doing}{where}: {said}. "
        f"{way_out(at, targets)}",
    )


def way_out(at: str | None, targets: str) -> str:
    """Return what to do about a failure in this module."""
    end = at.split(" ")[0].rpartition(".")[2] if at else ""
    rest = [name for name in targets.split(",") if name and name != end]
    if rest and len(rest) < len(targets.split(",")):
        return (
            f"Leave {end} without an adapter: duramen lineage new NAME --base BASE --targets "
            + ",".join(rest)
        )
    return (
        "Add the base again if its files may be damaged, or take another one: duramen base add "
        "DIR. What works is listed in docs/bases.md."
    )


def module_at(error: BaseException) -> str | None:
    """Return the innermost module of a network that was running, as `path (class)`, or None."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    modules = [m for f in frames if isinstance(m := f.f_locals.get("self"), torch.nn.Module)]
    if not modules:
        return None
    inner, root = modules[-1], modules[0]
    paths: dict[Any, str] = {module: name for name, module in root.named_modules()}
    for module in reversed(modules):
        if path_in_base(paths.get(module, "")):
            return f"{path_in_base(paths[module])} ({type(inner).__name__})"
    return None


def path_in_base(path: str) -> str:
    """Return a module's path in the base, without what peft puts around it."""
    parts = path.split(".")
    if parts[0] == "base_model":
        parts = parts[2:]
    kept = [p for p in parts if p not in {"base_layer", "default"} and not p.startswith("lora_")]
    return ".".join(kept)
