"""The thought before an answer, as the families write it: in tags of their own."""

import re
from typing import NamedTuple


class Tags(NamedTuple):
    """What a family writes before and after a thought."""

    opening: str
    closing: str


THINK = Tags("<think>\n", "\n</think>\n\n")
FAMILIES = (Tags("<|channel>thought\n", "<channel|>"), Tags("[THINK]", "[/THINK]"), THINK)

OPEN = r"(?:<think>|\[THINK\]|<\|channel>thought\n)"
CLOSE = r"(?:</think>|\[/THINK\]|<channel\|>)"
EMPTY_THOUGHT = re.compile(rf"\s*{OPEN}?\s*{CLOSE}\s*")
EMPTY_LAST = re.compile(rf"{OPEN}?\s*{CLOSE}\s*$")
OPENED = re.compile(rf"(?:{OPEN}\s*)?({CLOSE}\s*)$|{OPEN}\s*$")  # by a prompt; 1: closed, too
THOUGHTS = (
    (FAMILIES[2], re.compile(r"\s*(?:<think>)?(.*?)</think>(.*)", re.DOTALL)),
    (FAMILIES[1], re.compile(r"\s*\[THINK\](.*?)\[/THINK\](.*)", re.DOTALL)),
    (FAMILIES[0], re.compile(r"\s*<\|channel>thought\n(.*?)<channel\|>(.*)", re.DOTALL)),
)


class Thoughtful(NamedTuple):
    """A message in two parts, each without white space around it, and the tags between them."""

    tags: Tags
    thought: str
    answer: str


def parted(content: str) -> Thoughtful | None:
    """Return a message as its thought and its answer, or None if it has no thought."""
    for tags, pattern in THOUGHTS:
        found = pattern.fullmatch(content)
        if found:
            return Thoughtful(tags, found[1].strip(), found[2].strip())
    return None


def tags_of(template: str) -> Tags:
    """Return the tags in which the family of this template writes its thoughts."""
    return next((tags for tags in FAMILIES if tags.opening.strip() in template), THINK)


def last_words(content: str) -> str:
    """Return an answer without its thought."""
    found = parted(content)
    return found.answer if found else content.strip()
