"""The rows that readers of files yield, and the errors for rows and files that are refused."""

from typing import Any

BOM = b"\xef\xbb\xbf"


class RowError(Exception):
    """A row is refused. `field` is a path such as messages[1].content; `column` is from 1."""

    def __init__(self, field: str, rule: str, message: str, column: int | None = None) -> None:
        self.field, self.rule, self.message, self.column = field, rule, message, column
        super().__init__(f"{field}: {message} ({rule})")


Item = tuple[int, bytes | RowError]  # the line from 1, the row


def too_long(limit: int) -> RowError:
    """Return the error for a row that has more bytes than allowed."""
    message = (
        f"The row is longer than {limit} bytes, which is more than a model can read at "
        "once. Split it into several rows. (The limit is set by DURAMEN_MAX_ROW_BYTES.)"
    )
    return RowError("row", "row_too_long", message)


class Unreadable(Exception):
    """A file cannot be read beyond a line (None: at all); `why` is a RowError."""

    def __init__(self, why: RowError, line: int | None = None, sample: str = "") -> None:
        self.why, self.line, self.sample = why, line, sample
        super().__init__(str(why))


def kind(value: Any) -> str:
    """Return what a JSON value is, in a user's words."""
    match value:
        case None:
            return "null or missing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"
