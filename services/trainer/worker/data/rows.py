"""The rows of a canonical dataset."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import CannotTrain
from shared.formats.dataset import ChatTurn, row_id


@dataclass(frozen=True)
class Row:
    """One canonical row: a conversation, with the tools that it may use, or plain `text`."""

    id: str
    messages: tuple[ChatTurn, ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None
    text: str | None = None
    line: str | None = None  # as it is stored, where it has tools

    @property
    def is_watchable(self) -> bool:
        """Whether it is text, or ends in an answer of words: that can be asked for and compared."""
        if self.text is not None:
            return True
        answers = [m for m in self.messages if m.role == "assistant"]
        return bool(answers) and not answers[-1].tool_calls


def read_rows(path: Path, sha256: str) -> list[Row]:
    """All rows of a canonical dataset. Raises Failure (data) if its bytes are not `sha256`."""
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CannotTrain("data", f"The dataset is damaged: it hashes to {found}, not {sha256}.")
    rows = []
    # Split at "\n" only: splitlines() would also split at characters that JSON allows in strings.
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n")):
        try:
            rows.append(parsed(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CannotTrain("data", f"Line {number + 1} of the dataset: {error}") from error
    return rows


def parsed(line: bytes) -> Row:
    """Raises ValueError, KeyError, TypeError for what is no canonical row."""
    fields = json.loads(line)
    if "text" in fields:
        return Row(row_id(line), text=str(fields["text"]))
    messages = tuple(ChatTurn.model_validate(m) for m in fields["messages"])
    tools = tuple(fields["tools"]) if fields.get("tools") else None
    called = tools is not None or any(m.tool_calls for m in messages)
    return Row(row_id(line), messages, tools, line=line.decode() if called else None)
