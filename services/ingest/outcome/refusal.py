"""A file that is refused as a whole, and what its sender can do about it."""

import os
import stat
from collections.abc import Sequence

from shared.formats.report import Problem

PUT_INSTEAD = "put a plain .jsonl file into the inbox instead."
PUT_AGAIN = "fix the file, then put it into the inbox again."
KINDS = {
    stat.S_IFLNK: ("symlink", "It is a symbolic link. Put the file itself here, not a link to it."),
    stat.S_IFIFO: ("fifo", "It is a pipe, not a file."),
    stat.S_IFSOCK: ("socket", "It is a socket, not a file."),
    stat.S_IFBLK: ("device", "It is a device, not a file."),
    stat.S_IFCHR: ("device", "It is a device, not a file."),
}


class WholeFileRefused(Exception):
    """A file is refused as a whole, for these problems."""

    def __init__(self, problems: Sequence[Problem], next_step: str = PUT_INSTEAD) -> None:
        self.problems, self.next_step = list(problems), next_step
        super().__init__(self.problems[0].message)

    @classmethod
    def of(cls, rule: str, message: str, next_step: str = PUT_INSTEAD) -> "WholeFileRefused":
        return cls([Problem(field="file", rule=rule, message=message)], next_step)


def refuse_other_kinds(status: os.stat_result) -> None:
    """Raise Refused for what is not a plain file."""
    if not stat.S_ISREG(status.st_mode):
        rule, message = KINDS.get(stat.S_IFMT(status.st_mode), ("kind", "It is not a file."))
        raise WholeFileRefused.of(rule, message)
