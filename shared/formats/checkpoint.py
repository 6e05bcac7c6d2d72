"""The files of a checkpoint, what its header says, and where a version keeps each of them."""

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
    """The bytes of one file. `size` in bytes."""

    sha256: Sha256
    size: int


class TensorHashes(Part):
    """The SHA-256 over all tensors of each file, whatever bytes the file lays around them."""

    adapter: Sha256
    optimizer: Sha256


class Environment(Part):
    """What bit-identity depends on, beside the inputs."""

    torch: str
    transformers: str
    peft: str
    numpy: str
    python: str
    device: str
    threads: int
    cpu: str


class Header(CanonicalFile):
    """header.json of a checkpoint. Its SHA-256 is the checkpoint's id.

    `position`: plan steps done. `global_step`: steps of the whole lineage.
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
        """A later fence beats a later step: what a superseded owner wrote is dead."""
        return self.fence, self.global_step


class Listed(BaseModel):
    """The one field of a header that those read who only copy or compare the files."""

    files: dict[str, FileHash]


def listed_files(header: bytes) -> dict[str, FileHash]:
    """Return the files that a stored header lists, by name. Raises ValueError."""
    return Listed.model_validate_json(header).files


def header_or_none(data: bytes) -> Header | None:
    """Return the header that these bytes are, to the byte; None if they are not one."""
    try:
        header = Header.from_bytes(data)
    except ValueError:
        return None
    return header if header.to_bytes() == data else None
