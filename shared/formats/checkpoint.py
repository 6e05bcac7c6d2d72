"""The files of a checkpoint, its header, and the path of each file in a version."""

import hashlib
from typing import ClassVar, Literal

from pydantic import BaseModel

from shared.formats.adapter import AdapterShape
from shared.formats.canonical import CanonicalFile, Part
from shared.protocol.names import Sha256

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
OPTIMIZER, HEADER = "optimizer.safetensors", "header.json"

# The file of a checkpoint => its path inside a version.
IN_A_VERSION = {
    ADAPTER: f"adapter/{ADAPTER}",
    ADAPTER_CONFIG: f"adapter/{ADAPTER_CONFIG}",
    OPTIMIZER: f"training/{OPTIMIZER}",
    HEADER: f"training/{HEADER}",
}


class FileHash(Part):
    """The SHA-256 of one file, and its `size` in bytes."""

    sha256: Sha256
    size: int


class TensorHashes(Part):
    """The SHA-256 over all tensors of each file, without the other bytes of the file."""

    adapter: Sha256
    optimizer: Sha256


class Environment(Part):
    """The environment that bit-identity depends on, in addition to the inputs."""

    torch: str
    transformers: str
    peft: str
    numpy: str
    python: str
    device: str
    threads: int
    cpu: str


class Header(CanonicalFile):
    """The file header.json of a checkpoint. Its SHA-256 is the checkpoint's id.

    `position` counts the plan steps that are done, `global_step` the steps of the whole lineage.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"quantize"})

    kind: Literal["checkpoint"] = "checkpoint"
    lineage: str
    segment: str
    fence: int
    job: str
    plan: Sha256
    position: int
    global_step: int
    base_root: Sha256
    seed: int
    lora: AdapterShape
    dtype: Literal["float32", "bfloat16"]
    quantize: Literal["none", "nf4"] = "none"
    micro_tokens: int
    tensors: TensorHashes
    files: dict[str, FileHash]
    environment: Environment

    @property
    def id(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def age(self) -> tuple[int, int]:
        """The age of the checkpoint: a later fence beats a later step.

        What an owner wrote after it was superseded is dead.
        """
        return self.fence, self.global_step


class Listed(BaseModel):
    """The one field of a header that is needed to copy or compare the files."""

    files: dict[str, FileHash]


def listed_files(header: bytes) -> dict[str, FileHash]:
    """Return the files that a stored header lists, by name. Raises ValueError."""
    return Listed.model_validate_json(header).files


def header_or_none(data: bytes) -> Header | None:
    """Return the header that these bytes are, byte for byte, or None if they are not one."""
    try:
        header = Header.from_bytes(data)
    except ValueError:
        return None
    return header if header.to_bytes() == data else None
