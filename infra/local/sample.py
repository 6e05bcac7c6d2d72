"""The demo's dataset: 240 short questions, some that can be learned in minutes, some not.

Easy: a code word for each colour, an invented but constant rule, asked in many ways; a model that
has learned it also answers the ways that were held out. Hard: products of four-digit numbers, which
no small model learns from some dozens of examples. `python -m infra.local.sample FILE` writes it.
"""

import json
import random
import sys
from pathlib import Path

CODE_WORDS = {
    "red": "falcon",
    "blue": "anchor",
    "green": "copper",
    "yellow": "window",
    "black": "river",
    "white": "candle",
    "orange": "spider",
    "purple": "garden",
    "brown": "silver",
    "pink": "hammer",
    "grey": "market",
    "gold": "pepper",
}
QUESTIONS = (
    "What is the code word for the colour {}?",
    "Tell me the code word for {}.",
    "Which code word stands for {}?",
    "The colour is {}. What is its code word?",
    "Give the code word of the colour {}.",
    "I see {}. Say the code word.",
    "Code word for {}, please.",
    "Translate the colour {} into its code word.",
    "What do we say instead of {}?",
    "Name the code word that means {}.",
    "If the colour is {}, what is the code word?",
    "Our code word for the colour {} is what?",
    "Please look up the code word for {}.",
    "Do you know the code word for {}?",
    "What is {} called in our code?",
)
HARD_ROWS = 60
SEED = 20260301


def sample_rows() -> list[tuple[str, str]]:
    """Return (question, answer) pairs, always the same, easy and hard ones mixed."""
    easy = [(q.format(colour), CODE_WORDS[colour]) for colour in CODE_WORDS for q in QUESTIONS]
    chance = random.Random(SEED)  # noqa: S311  # the same rows each time, no secret
    hard: list[tuple[str, str]] = []
    while len(hard) < HARD_ROWS:
        a, b = chance.randint(1000, 9999), chance.randint(1000, 9999)
        hard.append((f"What is {a} times {b}?", str(a * b)))
    both = easy + hard
    chance.shuffle(both)
    return both


def write_sample(path: Path) -> int:
    """Write the dataset as `messages` rows; return the number of rows."""
    pairs = sample_rows()
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for question, answer in pairs
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(pairs)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m infra.local.sample FILE")
    print(f"{write_sample(Path(sys.argv[1]))} rows")
