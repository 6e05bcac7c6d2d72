"""A file that is refused as a whole, and what its sender can do about it."""

from collections.abc import Sequence

from shared.formats.report import Problem

PUT_INSTEAD = "put a plain .jsonl file into the inbox instead."


class Refused(Exception):
    """A file is refused as a whole, for these problems."""

    def __init__(self, problems: Sequence[Problem], next_step: str = PUT_INSTEAD) -> None:
        self.problems, self.next_step = list(problems), next_step
        super().__init__(self.problems[0].message)

    @classmethod
    def of(cls, rule: str, message: str, next_step: str = PUT_INSTEAD) -> "Refused":
        return cls([Problem(field="file", rule=rule, message=message)], next_step)
