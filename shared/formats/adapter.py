"""The shape of a LoRA adapter, and its tensors."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from shared.formats.canonical import Part

if TYPE_CHECKING:  # most readers of this room have no numpy
    from collections.abc import Mapping

    from numpy.typing import NDArray


class AdapterShape(Part):
    """The shape of an adapter, fixed for a lineage."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


Tensors: TypeAlias = "Mapping[str, NDArray[Any]]"  # by their names
