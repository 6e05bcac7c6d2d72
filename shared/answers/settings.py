"""The answers of every service about its settings."""

from shared.answers import Reply


class SettingHeld(Reply):
    """A setting that a service holds. `default` is None where there is none.

    A secret's value is never given, only whether there is one.
    """

    name: str
    value: str
    default: str | None
    is_given: bool
