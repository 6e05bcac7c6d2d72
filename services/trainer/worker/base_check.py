"""Checks in seconds whether a base can be trained here at all, before anything is computed.

It reads the configuration and the headers of the weights, and loads neither weights nor code.
"""

import json
import math
from pathlib import Path
from typing import Any

from shared.errors import CannotTrain, UsageError
from shared.formats.model_files import INDEX, index_in, read_header, weights_of
from shared.memory_estimate import NF4_BYTES, WIDTHS, gib


def check_base(
    base_dir: Path,
    dtype: str,
    memory_bytes: int,
    *,
    quantize: str = "none",
    limit: int | None = None,
) -> None:
    """Check that the base can be trained on a device with `memory_bytes` of memory.

    Raises CannotTrain (base) if there are no weights, if the model needs code that is not in
    transformers, or if its weights alone take more than the device has or than `limit` bytes (None:
    no limit).
    """
    config = configuration(base_dir)
    check_code(config)
    numbers = sum(parameters(file) for file in weight_files(base_dir))
    need = int(numbers * (NF4_BYTES if quantize == "nf4" else WIDTHS[dtype]))
    have = f"this machine has {gib(memory_bytes)} in all"
    if limit is not None and limit < memory_bytes:
        have = f"DURAMEN_MEMORY_LIMIT allows {gib(limit)}"
    if need > min(memory_bytes, limit or memory_bytes):
        raise CannotTrain(
            "base",
            f"This base does not fit: {numbers / 1e9:.2f} billion numbers as {dtype} take "
            f"{gib(need)}, and {have}. Train a smaller base, or on a larger machine, or this one "
            "quantised: duramen lineage new NAME --quantize nf4",
        )


def configuration(base_dir: Path) -> dict[str, Any]:
    """Return the base's config.json. Raises CannotTrain (base) if it cannot be used."""
    try:
        found = json.loads((base_dir / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CannotTrain(
            "base", f"The base has no config.json that can be read: {error}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise CannotTrain("base", "The base's config.json names no model_type.")
    return found


def check_code(config: dict[str, Any]) -> None:
    """Check that transformers knows the model type and that it is a causal language model.

    Raises CannotTrain (base).
    """
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    kind = config["model_type"]
    if kind not in CONFIG_MAPPING_NAMES:
        why = (
            "needs code of its own, which Duramen never runs"
            if config.get("auto_map")
            else "unknown"
        )
        raise CannotTrain(
            "base",
            f"The base's model type {kind!r} is not in transformers {transformers.__version__} "
            f"({why}). Add a base of a type that is, or the same model converted to one.",
        )
    if kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CannotTrain("base", f"{why_not_causal(kind, config)} duramen base add DIR")


def why_not_causal(kind: str, config: dict[str, Any]) -> str:
    """Return why a model type that transformers knows cannot be trained, and what could be."""
    if config.get("is_encoder_decoder"):
        return (
            f"The base is an encoder with a decoder ({kind}), not a causal language model, and "
            "chat cannot be trained on it. Add one that is, such as a Llama or a Qwen:"
        )
    if isinstance(config.get("text_config"), dict):
        return (
            f"The base ({kind}) also sees or hears, and transformers cannot load its text part "
            "alone as a causal language model. Add the language model that it was made from, a "
            f"{config['text_config'].get('model_type', 'text model')}:"
        )
    return (
        f"The base is not a causal language model; its type is {kind!r}. Add one that is, such as "
        "a Llama or a Qwen:"
    )


def weight_files(base_dir: Path) -> list[Path]:
    """Return the files with the base's weights. Raises CannotTrain (base) if any is missing."""
    try:
        names = weights_of({path.name for path in base_dir.iterdir()}, index_in(base_dir))
    except (OSError, ValueError) as error:
        raise CannotTrain("base", f"{INDEX} cannot be read: {error}") from error
    files = [base_dir / Path(name).name for name in sorted(names)]
    missing = [file.name for file in files if not file.is_file()]
    if not files or missing:
        raise CannotTrain(
            "base",
            f"The base has no weights ({', '.join(missing) or 'no safetensors file'}): add it "
            "again from a folder that holds them, as safetensors.",
        )
    return files


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds. Raises CannotTrain (base)."""
    try:
        with file.open("rb") as handle:
            tensors = read_header(handle, file.name, file.stat().st_size)
    except (OSError, UsageError) as error:
        raise CannotTrain("base", f"The weights in {file.name} cannot be read: {error}") from error
    return sum(math.prod(entry["shape"]) for entry in tensors.values())
