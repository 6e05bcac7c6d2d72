"""Prints one row of a dataset as the model sees it.

`python -m services.trainer.worker.example REQUEST.json` prints one JSON object: `sequences`, each a
list of tokens {id, token, text, trained}, where `token` is the tokenizer's own spelling and `text`
what the token decodes to by itself; `left_out`, why the row is not trained, or null; or `failed`
{kind, message, example} if the row cannot be shown, for example if its mask would be wrong.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.child import limit_memory
from shared.errors import CannotTrain
from shared.protocol.names import OnLong

os.environ["HF_HUB_OFFLINE"] = "1"
EXAMPLE_MEMORY = 4 << 30  # bytes, for a stranger's tokenizer


class Request(BaseModel):
    """A request to show one row. `row`: 1-based line of the dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_dir: Path
    chat_template: str | None
    clock: str
    dataset: Path
    dataset_sha256: str
    row: int
    max_length: int
    on_long: OnLong = "set_aside"


def example_answer(request: Request) -> dict[str, Any]:
    """Return `sequences` and `left_out` of the row that is asked for. Raises CannotTrain."""
    from services.model.template import Chat
    from services.trainer.worker.data.encoder import Encoder, Why
    from services.trainer.worker.data.rows import read_rows

    rows = read_rows(request.dataset, request.dataset_sha256)
    if not 1 <= request.row <= len(rows):
        raise CannotTrain("data", f"The dataset has lines 1 to {len(rows)}.")
    chat = Chat(request.base_dir, request.clock, request.chat_template)
    row = rows[request.row - 1]
    result = Encoder(chat, request.max_length, request.on_long).encode(row)
    if isinstance(result, Why) and result.example is not None:
        raise CannotTrain("mask", result.reason, example=result.example)
    if isinstance(result, Why):
        return {"left_out": result.reason, "sequences": []}
    sequences, start = [], 0
    for length in result.lengths:
        here = slice(start, start + length)
        pairs = zip(result.ids[here].tolist(), result.trained[here].tolist(), strict=True)
        sequences.append([token(chat.tokenizer, i, t) for i, t in pairs])
        start += length
    return {"left_out": None, "sequences": sequences}


def token(tokenizer: Any, number: int, trained: bool) -> dict[str, Any]:
    return {
        "id": number,
        "token": tokenizer.convert_ids_to_tokens(number),
        "text": tokenizer.decode([number]),
        "trained": trained,
    }


def answer_file(answer: Callable[[bytes], dict[str, Any]], path: str) -> None:
    """Print the answer to the request in a file, or why there is none."""
    try:
        found = answer(Path(path).read_bytes())
    except CannotTrain as failure:
        shown = {"kind": failure.kind, "message": failure.message, "example": failure.example}
        found = {"failed": shown, "sequences": []}
    print(json.dumps(found))


if __name__ == "__main__":
    import services.model.template  # noqa: F401 - the limit is for what comes behind

    limit_memory(EXAMPLE_MEMORY, may_write=True)
    answer_file(lambda data: example_answer(Request.model_validate_json(data)), sys.argv[1])
