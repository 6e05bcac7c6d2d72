"""Whether rows become the same tokens, and the same loss mask, as in TRL.

`python -m tests.bench.bench_trl [--rows 200]`, with a Python that has `trl` beside what is locked.

Two hundred rows of each layout that TRL can read go two ways: through this project's own parser and
encoder, and through TRL's reading of the layout, its template for the family with the answers
marked, and the tokenizer's mask of what the assistant said. The tokenizer is that of the tests with
the special tokens of the family; the templates are the families' own, as TRL ships them. Prints a
table in Markdown: rows, rows with the same tokens, rows with the same mask, and of the others the
first difference. Where this project makes several sequences of a row, because its template shows an
answer differently later, TRL has one, and these rows are counted apart.
"""

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.ingest.reading.row import canonical_row
from services.model.encoded import Encoded
from services.model.template import Chat
from services.trainer.worker.data.encoder import Encoder, Why
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from tests.tiny import make_tokenizer

# Family -> the token at which its model stops.
FAMILIES = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "glm4moe": "<|user|>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gptoss": "<|return|>",
}
# Other tokens at which the models of a family stop.
ENDS = {
    "phi3": ["<|endoftext|>"],
    "glm4moe": ["<|endoftext|>", "<|observation|>"],
    "gptoss": ["<|endoftext|>", "<|call|>"],
}
SPECIAL = re.compile(r"<[|｜][^<>{}'\"\s]+?[|｜]>|<(?:start|end)_of_turn>|<bos>|\[gMASK\]|<sop>")
TEXT = """the red garden holds seven copper lamps; why? because 3 + 4 = 7, said Ada.
 Next: émile ✓"""
WORDS = TEXT.split(" ")
Row = dict[str, Any]


def words(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randrange(3, 30))).strip()


def talk(chance: random.Random, turns: int) -> list[Row]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": words(chance)} for n in range(2 * turns)]


def messages(chance: random.Random) -> Row:
    return {"messages": talk(chance, chance.randrange(1, 4))}


def with_system(chance: random.Random) -> Row:
    return {"messages": [{"role": "system", "content": words(chance)}, *talk(chance, 2)]}


def prompt_completion(chance: random.Random) -> Row:
    *asked, said = talk(chance, 1)
    return {"prompt": asked, "completion": [said]}


def conversations(chance: random.Random) -> Row:
    # TRL takes these keys, but no other names of the speakers.
    return {"conversations": [{"from": t["role"], "value": t["content"]} for t in talk(chance, 2)]}


def tools(chance: random.Random) -> Row:
    call = {"name": "look", "arguments": {"place": words(chance), "count": chance.randrange(9)}}
    asked, said = talk(chance, 1)
    made = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
    }
    answer = {"role": "tool", "name": "look", "content": words(chance)}
    schema = {"type": "object", "properties": {"place": {"type": "string"}}}
    tool = {"name": "look", "description": "Looks at a place.", "parameters": schema}
    return {
        "messages": [asked, made, answer, said],
        "tools": [{"type": "function", "function": tool}],
    }


LAYOUTS: dict[str, Callable[[random.Random], Row]] = {
    "messages": messages,
    "messages, system": with_system,
    "messages, tools": tools,
    "prompt/completion": prompt_completion,
    "conversations": conversations,
}


def theirs(tokenizer: Any, row: Row) -> tuple[list[int], list[bool]]:
    """Return the tokens of a row, and which are trained, as TRL has them."""
    from trl.chat_template_utils import get_training_chat_template
    from trl.data_utils import maybe_convert_to_chatml

    found = maybe_convert_to_chatml(dict(row))
    said = found.get("messages") or found["prompt"] + found["completion"]
    made = tokenizer.apply_chat_template(
        said,
        tools=row.get("tools"),
        chat_template=get_training_chat_template(tokenizer),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return list(made["input_ids"]), [bool(t) for t in made["assistant_masks"]]


def ours(encoder: Encoder, row: Row) -> Encoded | str:
    """Return the tokens of a row as they are trained here, or why they are not."""
    try:
        found = encoder.encode(CanonicalRow.parse(canonical_row(row).line))
    except CannotTrain as error:
        return error.message
    return found.reason if isinstance(found, Why) else found


def compared(tokenizer: Any, encoder: Encoder, row: Row) -> tuple[str, str]:
    """Return the outcome for one row, and what differs."""
    own = ours(encoder, row)
    try:
        ids, trained = theirs(tokenizer, row)
    except Exception as error:  # noqa: BLE001  # what TRL cannot do is a result here
        why = str(error).partition("\n")[0][:90]
        return ("refused by both", "") if isinstance(own, str) else ("refused by TRL", why)
    if isinstance(own, str):
        return ("refused by both", "") if not any(trained) else ("refused", own[:90])
    if own.parts:
        return "several sequences", ""
    if own.ids.tolist() != ids:
        at = next((n for n, (a, b) in enumerate(zip(own.ids, ids, strict=False)) if a != b), 0)
        here, there = (tokenizer.decode(i[max(0, at - 3) : at + 5]) for i in (own.ids, ids))
        return "other tokens", f"{here!r} here, {there!r} there"
    here = runs(tokenizer, ids, own.trained.tolist(), trained)
    there = runs(tokenizer, ids, trained, own.trained.tolist())
    if here:
        return "other mask", f"trained here alone: {here}"
    return (f"equal but for {there}, which TRL trains too", "") if there else ("equal", "")


def runs(tokenizer: Any, ids: list[int], one: list[bool], other: list[bool]) -> str:
    """Return the different stretches of text that one mask has and the other lacks."""
    found: list[list[int]] = []
    before = False
    for token, mine, its in zip(ids, one, other, strict=True):
        alone = mine and not its
        if alone:
            found += [] if before else [[]]
            found[-1].append(token)
        before = alone
    return ", ".join(sorted({repr(tokenizer.decode(run)) for run in found})[:4])


def tried(folder: Path, family: str, count: int) -> Iterator[tuple[str, Counter[str], str]]:
    """Yield (layout, outcomes, first difference) of one family."""
    import trl.chat_template_utils as theirs_templates

    template: str = getattr(theirs_templates, f"{family}_chat_template")
    stop = FAMILIES[family]
    extra = sorted(
        {*SPECIAL.findall(template), *ENDS.get(family, []), stop} - {"<|im_start|>", "<|im_end|>"}
    )
    begins = "bos_token" in template
    tokenizer = make_tokenizer(template, extra, adds_bos=begins)
    # A template that ends with the tokenizer's own token has another one for the end of a turn.
    tokenizer.eos_token = "<|endoftext|>" if "<|endoftext|>" in extra else stop
    tokenizer.save_pretrained(str(folder))
    stops = {"eos_token_id": tokenizer.convert_tokens_to_ids([stop, *ENDS.get(family, [])])}
    (folder / "generation_config.json").write_text(json.dumps(stops))
    chat = Chat(folder, datetime.now(UTC).isoformat())  # TRL's templates see today's date
    chat.tokenizer.chat_template = template
    encoder = Encoder(chat, 100_000)
    for layout, make in LAYOUTS.items():
        chance, outcomes, first = random.Random(7), Counter[str](), ""
        for _ in range(count):
            outcome, what = compared(chat.tokenizer, encoder, make(chance))
            outcomes[outcome] += 1
            first = first or what
        yield layout, outcomes, first


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--rows", type=int, default=200)
    reader.add_argument("--family", action="append", choices=[*FAMILIES])
    reader.add_argument("--json", action="store_true")
    options = reader.parse_args()
    if not options.json:
        print("| template | layout | outcome of the rows | first difference |\n|---|---|---|---|")
    for family in options.family or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            for layout, outcomes, first in tried(Path(folder), family, options.rows):
                if options.json:
                    print(json.dumps([family, layout, outcomes, first]))
                    continue
                told = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
                print(f"| {family} | {layout} | {told} | {first.replace('|', '∣')} |", flush=True)


if __name__ == "__main__":
    main()
