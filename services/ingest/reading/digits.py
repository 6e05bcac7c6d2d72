"""JSON whose numbers are kept digit for digit.

orjson turns an integer beyond 64 bits, and a decimal of more than about 16 digits, into the nearest
float. Here such numbers keep their text. NaN and the infinities, which Python writes, are read, so
that they do no harm in a field that is not used.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

from services.ingest.reading.row_error import RowError

NUMBER_RULES = ("digits", "not_finite")


class BigInteger(int):
    """An integer beyond 64 bits, which stays exact wherever it goes."""


class Written(float):
    """A decimal as it was written. `text` is its JSON; `exact`, whether a float holds its value."""

    text: str
    exact: bool

    def __new__(cls, text: str) -> "Written":
        self = super().__new__(cls, text)
        self.text = text
        self.exact = abs(self) != float("inf") and Decimal(text) == Decimal(repr(float(self)))
        return self


class Infinite(float):
    """NaN or an infinity. `text` is as Python writes it."""

    text: str

    def __new__(cls, text: str) -> "Infinite":
        self = super().__new__(cls, text)
        self.text = text
        return self


def parse(raw: bytes | str) -> Any:
    """Return a JSON value with exact numbers. Raises orjson.JSONDecodeError."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        found = beyond_json(raw, error.msg)
        if found is None:
            raise
        return found
    try:
        return exact(raw) if holds_float(value) else value
    except RecursionError:  # whoever writes it refuses it
        return value


def beyond_json(raw: bytes | str, why: str) -> Any:
    """Return a value that is JSON but for NaN, an infinity or a number too large; else None."""
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        if "infinity" not in why and "NaN" not in text and "Infinity" not in text:
            return None
        value = exact(text)
        as_given(value)  # refuses half of a surrogate pair
    except (ValueError, TypeError, RecursionError):
        return None
    return value


def exact(raw: bytes | str) -> Any:
    """Return a JSON value whose numbers keep their text where a number would lose it.

    Raises ValueError, RecursionError.
    """
    return json.loads(raw, parse_int=whole, parse_float=Written, parse_constant=Infinite)


def whole(text: str) -> int:
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 64 else BigInteger(number)


def holds_float(value: Any) -> bool:
    """Return whether a float is anywhere in a value; a number that was rounded is one."""
    if type(value) is not dict and type(value) is not list:
        return type(value) is float
    for each in value.values() if type(value) is dict else value:
        if type(each) is not str and holds_float(each):
            return True
    return False


def number_text(value: float) -> str:
    """Return a number as its JSON text, as it was written. Raises RowError of NaN."""
    if isinstance(value, Infinite):
        raise not_a_value(value, "")
    return value.text if isinstance(value, Written) else as_given(value).decode()


def write(value: Any) -> bytes:
    """Return compact JSON. Raises RowError where a number has to be rounded or is not finite.

    Raises orjson.JSONEncodeError if the value is nested too deeply.
    """
    try:
        return orjson.dumps(value, default=kept, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except orjson.JSONEncodeError:
        with suppress(RecursionError):
            for wrong in unfit(value):
                raise wrong from None
        raise


def as_given(value: Any) -> bytes:
    """Return compact JSON with every number as it was given. Raises orjson.JSONEncodeError."""
    return orjson.dumps(value, default=given, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def kept(value: Any) -> Any:
    """Return what orjson writes for a number that it does not know. Raises TypeError."""
    if isinstance(value, BigInteger):
        return orjson.Fragment(int.__repr__(value))
    if isinstance(value, Written) and value.exact:
        return float(value)
    raise TypeError


def given(value: Any) -> Any:
    return orjson.Fragment(value.text) if hasattr(value, "text") else kept(value)


def unfit(value: Any, where: str = "") -> Iterator[RowError]:
    """Yield the errors for numbers in a value that cannot be kept as they are."""
    if isinstance(value, Infinite):
        yield not_a_value(value, where)
    if isinstance(value, Written) and not value.exact:
        message = (
            f"{value.text[:40]} has more digits than a decimal number can hold, so that it would "
            "be rounded. Write it as a string, in quotes."
        )
        yield RowError(where or "row", "digits", message)
    items: Any = ()
    if type(value) is dict:
        items = ((f"{where}.{name}" if where else name, v) for name, v in value.items())
    elif type(value) is list:
        items = ((f"{where}[{n}]", v) for n, v in enumerate(value))
    for place, v in items:
        yield from unfit(v, place)


def not_a_value(value: Infinite, where: str) -> RowError:
    message = f"{value.text} is not a value that can be learned. Write the value, or leave it out."
    return RowError(where or "row", "not_finite", message)
