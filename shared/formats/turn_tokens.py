"""Which special tokens of a tokenizer begin or end a turn: in a text, a model would obey them.

All other special tokens are only text where a row has them: `<filename>` of a code model, `<unk>`.
"""

import re
from collections.abc import Collection, Iterable

# A template may put the name of a role between marks: `'<|' + message.role + '|>'`.
ROLE_NAMES = frozenset(
    ("system", "user", "assistant", "tool", "model", "developer", "observation", "ipython", "human")
)
OPENING, CLOSING = STRIKE = "<s>", "</s>"  # of a text in Llama 2, and of struck-out words in HTML
LLAMA_INSTRUCTION = "[INST]"  # a text with it was rendered for Llama 2 already
TAG = re.compile(r"</?s>")


def turn_tokens(specials: Iterable[str], template: str, ends: Collection[str]) -> set[str]:
    """Return those of the special tokens that begin or end a turn.

    They stand in the chat template, are named for a role, or are among `ends`: the tokens that
    begin and end a text, and those at which generation stops.
    """
    return {
        token
        for token in specials
        if token in ends or token in template or letters_of(token).lower() in ROLE_NAMES
    }


def letters_of(token: str) -> str:
    return "".join(filter(str.isalpha, token))


def strikes_out(words: str) -> bool:
    """Return whether the `<s>` and `</s>` of a text are HTML: each end has its beginning."""
    if LLAMA_INSTRUCTION in words:
        return False
    is_open = False
    for tag in TAG.findall(words):
        if tag == CLOSING and not is_open:
            return False
        is_open = tag == OPENING
    return not (is_open and words.startswith(OPENING))
