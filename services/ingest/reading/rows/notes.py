"""What is found on the way through a row, beside its turns."""

from dataclasses import dataclass, field
from typing import Any

from services.ingest.reading.row_error import RowError


@dataclass
class Notes:
    """The names that were ignored, and the tools that the turns brought with them."""

    ignored: set[str] = field(default_factory=set)
    tools: list[dict[str, Any]] | None = None

    def add_tools(self, tools: list[dict[str, Any]], where: str) -> None:
        """Keep tools. Raises RowError if other ones are known already."""
        if not tools:
            return
        if self.tools is not None and self.tools != tools:
            message = "The row names its tools twice, and differently. Keep one of the lists."
            raise RowError(where, "tools", message)
        self.tools = tools
