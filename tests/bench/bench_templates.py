"""Which rows can be trained with the chat templates that families have.

`python -m tests.bench.bench_templates FOLDER...`, with folders of `.jinja` files, for example
`src/axolotl/utils/chat_templates/templates` of axolotl, `trl/chat_templates` of TRL and
`models/templates` of llama.cpp. For each template it makes a tokenizer that has the template's
special tokens and encodes one row of each kind. Prints a table in Markdown, and with `-v` the text
of each row, what is trained in ⟦ ⟧.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.model.template import Chat
from services.trainer.worker.data.encoder import Encoder, Why
from shared.formats.dataset import CanonicalRow
from tests.tiny import make_tokenizer
from tests.unit.test_mask_families import shown

SPECIAL = re.compile(
    r"<[|｜][^<>{}'\"\s]+?[|｜]?>|<[a-z_]+[|｜]>|</?think>|</?tool_call>|<(?:start|end)_of_turn>"
    r"|\[\|[a-z]+\|\]|\[/?[A-Z_]+\]|\[gMASK\]|<sop>|<\|\"\|>"
)
STOP = re.compile(
    r"<[|｜](?:im_end|eot|eot_id|end|return|call|user|observation|end▁of▁sentence|END_OF_TURN_TOKEN)"
    r"[|｜]>|<turn[|]>|<end_of_turn>|</s>"
)
CALL = {"type": "function", "id": "call_0abcdefgh"}
CALL |= {"function": {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}}  # type: ignore[dict-item]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Returns how warm it is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "the city"}},
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "How warm is it in Rome?"}
SAID = {"role": "assistant", "content": "It is warm."}
RESULT = {"role": "tool", "content": "21", "tool_call_id": "call_0abcdefgh"}


def called(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", **more, "tool_calls": [CALL]}


ROWS: dict[str, dict[str, Any]] = {
    "two turns": {"messages": [USER, SAID, USER, SAID]},
    "system": {"messages": [{"role": "system", "content": "Be short."}, USER, SAID]},
    "thought": {"messages": [USER, {**SAID, "reasoning_content": "I know that."}]},
    "call": {"messages": [USER, called()], "tools": [TOOL]},
    "call and answer": {"messages": [USER, called(), RESULT, SAID], "tools": [TOOL]},
    "thought and call": {
        "messages": [USER, called(reasoning_content="I must look."), RESULT, SAID],
        "tools": [TOOL],
    },
    "words and call": {
        "messages": [USER, {**called(), "content": "I look."}, RESULT, SAID],
        "tools": [TOOL],
    },
    "call as text": {"messages": [USER, {**SAID, "content": "[get_weather()]"}, RESULT, SAID]},
    "assistant first": {"messages": [SAID, USER, SAID]},
    "later system": {"messages": [USER, SAID, {"role": "system", "content": "Now."}, USER, SAID]},
}


def chat_of(text: str, folder: Path) -> Chat:
    """A tokenizer with the special tokens of a template, and that template."""
    found = sorted({*SPECIAL.findall(text), "</s>"} - {"<|im_start|>", "<|im_end|>"})
    tokenizer = make_tokenizer(None, found, adds_bos=True)
    stops = {*STOP.findall(text), "</s>"} & set(tokenizer.get_vocab())
    tokenizer.eos_token = next((s for s in ("<|im_end|>", *sorted(stops)) if s in text), "</s>")
    tokenizer.save_pretrained(str(folder))
    numbers = tokenizer.convert_tokens_to_ids(sorted(stops))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": numbers}))
    return Chat(folder, "2026-03-01T00:00:00+00:00", text)


def results(chat: Chat) -> Iterator[tuple[str, str, str]]:
    """Yield (kind of row, `yes` or why not, its text) of each row."""
    encoder = Encoder(chat, 1 << 30)
    for kind, row in ROWS.items():
        found = encoder.encode(CanonicalRow.parse(json.dumps(row).encode()))
        if isinstance(found, Why):
            yield kind, found.reason.replace("\n", " "), found.example or ""
        else:
            yield kind, "yes", "\n----\n".join(shown(chat, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    print(f"| template | {' | '.join(ROWS)} |\n|---{'|---' * len(ROWS)}|")
    for file in sorted(f for folder in options.folders for f in folder.glob("*.jinja")):
        with tempfile.TemporaryDirectory() as folder:
            told = list(results(chat_of(file.read_text(encoding="utf-8"), Path(folder))))
        short = [why if why == "yes" else f"no: {why[:60]}" for _, why, _ in told]
        print(f"| {file.stem} | {' | '.join(short)} |", flush=True)
        if options.verbose:
            for kind, why, text in told:
                print(f"\n#### {file.stem}, {kind}: {why}\n\n```\n{text}\n```\n")


if __name__ == "__main__":
    main()
