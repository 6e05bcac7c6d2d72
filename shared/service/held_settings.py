"""The settings that a service holds, as it shows them: without a secret."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from shared.answers.settings import SettingHeld
from shared.setting_names import PREFIX
from shared.settings import without_password

MASKED, UNSET = "(secret)", "–"


def held(settings: BaseSettings) -> list[SettingHeld]:
    """Return the settings of a program with what holds, what was given, and the defaults."""
    return [
        SettingHeld(
            name=PREFIX + name.upper(),
            value=shown_setting(getattr(settings, name)),
            default=None if field.is_required() else shown_setting(default_held(field)),
            is_given=name in settings.model_fields_set,
        )
        for name, field in type(settings).model_fields.items()
    ]


def default_held(field: FieldInfo) -> Any:
    """Return the default of a field that has one."""
    return field.get_default(call_default_factory=True)


def shown_setting(value: Any) -> str:
    """Return a value as people write it, a secret as a word, an address without its password."""
    if isinstance(value, SecretStr):
        return MASKED if value.get_secret_value() else UNSET
    if value is None or value in ("", {}, [], ()):
        return UNSET
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value) if isinstance(value, str | int | Path) else repr(value)
    return without_password(text)
