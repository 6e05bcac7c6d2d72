"""Trees of messages, as OpenAssistant writes them: one message a row, or a whole tree.

Of each tree one conversation is read: the answers of the best rank, 0 being the best. Of questions
that follow an answer and have no rank, the first that was answered.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from services.ingest.container import wrapped
from services.ingest.reading import digits
from services.ingest.reading.row_error import Item, RowError
from services.ingest.reading.rows.fields import fold, is_neutral
from services.ingest.reading.rows.roles import role_of

TreeRow = dict[str, Any]
MOST_HELD_BYTES = 128 << 20  # of messages that are held, since nothing says where their tree ends
PARENT, TREE = ("parentid", "parent"), ("messagetreeid", "treeid")
OWN_ID, RANK, SAID = ("messageid", "id"), ("rank",), ("text", "content")
SHAPE = frozenset((*PARENT, *TREE, *OWN_ID, *RANK, *SAID, "role", "replies", "deleted"))
NO_WAY = (
    "No way leads from this message to the first one of its tree: a message between them is not "
    "there, or is elsewhere in the file. Sort the file by `message_tree_id`, or add it."
)
ONE_PATH = "Write the path from its root to its last answer as one row of `messages`."


class Node(NamedTuple):
    """A message of a tree, with those that answer it."""

    line: int
    fields: TreeRow
    replies: "list[Node]"

    def get(self, names: tuple[str, ...]) -> Any:
        return next((self.fields[n] for n in names if self.fields.get(n) is not None), None)

    @property
    def is_user(self) -> bool:
        return role_of(str(self.fields.get("role"))) == "user"

    @property
    def rank(self) -> float | None:
        rank = self.get(RANK)
        return rank if isinstance(rank, int | float) and not math.isnan(rank) else None


def node_of(line: int, row: TreeRow) -> Node:
    fields = {fold(name): value for name, value in row.items()}
    return Node(line, {n: v if n in SHAPE else in_words(v) for n, v in fields.items()}, [])


def in_words(value: Any) -> Any:
    """Return what is kept of a field beside the message: for a list or an object, that it is there.

    Many messages are held at once, and those of OpenAssistant have more beside them than words.
    """
    return (not is_neutral(value) or None) if isinstance(value, list | dict) else value


def begins_tree(row: TreeRow) -> bool:
    """Return whether a row is a message of a tree, or a whole tree."""
    return is_whole_tree(row) or is_message(row)


def is_whole_tree(row: TreeRow) -> bool:
    root = row.get("prompt")
    return type(root) is dict and type(root.get("replies")) is list


def is_message(row: TreeRow) -> bool:
    """Return whether a row is one message, which may have a parent, and no conversation."""
    names = {fold(name) for name in row}
    is_part = bool(names & {"parentid", "messagetreeid"}) and "role" in names
    talks = any(type(v) is list and v and wrapped.is_turn(v[0]) for v in row.values())
    return is_part and bool(names.intersection(SAID)) and not talks


def conversations(rows: Iterator[tuple[int, TreeRow | RowError]]) -> Iterator[Item]:
    """Yield a conversation for each tree, with the line of its first message."""
    held: list[Node] = []
    size = 0
    for line, row in rows:
        if isinstance(row, RowError):
            yield line, row
        elif is_whole_tree(row):
            yield line, best_conversation(grown(node_of(line, row["prompt"])))
        elif not is_message(row):
            yield line, digits.as_given(row)
        else:
            node = node_of(line, row)
            tree = node.get(TREE)
            if held and tree is not None and tree != held[-1].get(TREE):
                yield from grown_together(held)
                held, size = [], 0
            held.append(node)
            size += len(str(node.get(SAID)))
            if size > MOST_HELD_BYTES:
                why = "The messages of this tree are too many. Sort them by `message_tree_id`."
                yield held[0].line, RowError("row", "tree", why)
                held, size = [], 0
    yield from grown_together(held)


def grown(root: Node) -> Node:
    """Return a whole tree, whose messages hold their replies."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        replies = node.fields.get("replies")
        for reply in replies if type(replies) is list else ():
            if type(reply) is dict:
                node.replies.append(node_of(node.line, reply))
        waiting += node.replies
    return root


def grown_together(nodes: list[Node]) -> Iterator[Item]:
    """Yield the conversations of messages that name their parents, in any order."""
    known: dict[str, Node] = {}
    for node in nodes:
        known.setdefault(str(node.get(OWN_ID) or len(known)), node)
    roots = [node for node in known.values() if node.get(PARENT) is None]
    for node in known.values():
        if str(node.get(PARENT)) in known:
            known[str(node.get(PARENT))].replies.append(node)
    reached = list(roots)
    for node in reached:
        reached += node.replies
    for node in roots:
        yield node.line, best_conversation(node)
    if len(reached) < len(known):
        there = {id(node) for node in reached}
        for node in known.values():
            if id(node) not in there:
                yield node.line, RowError("row", "tree", NO_WAY)


def best_conversation(root: Node) -> bytes | RowError:
    """Return the best path of a tree as a row of messages."""
    path, left = [root], 0
    try:
        while replies := [node for node in path[-1].replies if not node.fields.get("deleted")]:
            path.append(best(replies))
            left += len(replies) - 1
    except RowError as error:
        return error
    while len(path) > 1 and path[-1].is_user:
        path.pop()  # a question without an answer
    turns = [turn(node) for node in path]
    row: TreeRow = {"messages": turns} | ({"other messages of the tree": left} if left else {})
    try:
        return orjson.dumps(row)
    except orjson.JSONEncodeError:
        return RowError("row", "tree", "A message of this tree is nested too deeply.")


def best(replies: list[Node]) -> Node:
    """Return the best of the replies to one message. Raises RowError if nothing says which."""
    ranked = [node for node in replies if node.rank is not None]
    if ranked:
        return min(ranked, key=lambda node: node.rank or 0)
    if len(replies) == 1:
        return replies[0]
    if all(node.is_user for node in replies):
        return next((node for node in replies if node.replies), replies[0])
    message = f"The tree has {len(replies)} answers to one message, and no `rank` says which is"
    raise RowError("row", "tree", f"{message} the best. {ONE_PATH}")


def turn(node: Node) -> TreeRow:
    rest = {name: value for name, value in node.fields.items() if name not in SHAPE}
    return {**rest, "role": node.fields.get("role"), "content": node.get(SAID)}
