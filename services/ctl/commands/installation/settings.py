"""duramen settings: what each program holds, where it comes from, and the default."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from services.ctl import cli
from services.ctl.errors import ServiceUnavailable
from services.ctl.settings import CtlSettings
from services.ctl.views import columns
from shared.answers.settings import SettingHeld
from shared.errors import UsageError
from shared.service.held_settings import MASKED, held
from shared.service_names import SERVICES
from shared.setting_names import PREFIX

BY_THE_USER = (".env", "environment")
ITSELF = "duramen"  # the command line, which reads settings of its own
SettingsFound = dict[str, list[SettingHeld]]
SettingLines = list[dict[str, Any]]
ProgramName = Annotated[
    str | None,
    typer.Argument(metavar="[SERVICE]", help="One service, or the command line (duramen)."),
]


def show_settings(service: ProgramName = None, json: cli.Json = False) -> None:
    """Show the settings that hold now, where each comes from, and its default.

    A service says itself what it holds since its start: what was changed in .env later is not in
    it. A secret is shown as a word.
    """
    value, silent = settings_now(cli.settings(), service)
    cli.emit(value, json, lambda: print_settings(value))
    if silent:
        raise silent[0]


def settings_now(
    config: CtlSettings, service: str | None
) -> tuple[dict[str, SettingLines], list[ServiceUnavailable]]:
    """Return what each program holds, or one of them, and an error for each that is silent."""
    found, silent = ask_all(config, programs_asked(config, service))
    origins = dict(word.split("=", 1) for word in config.origins.split())
    shell = dict.fromkeys(cli.given_by_shell, "environment")
    value = {
        name: setting_rows(each, origins | shell if name == ITSELF else origins)
        for name, each in found.items()
    }
    return value, silent


def programs_asked(config: CtlSettings, service: str | None) -> list[str]:
    """Return the programs to be asked. Raises UsageError for a name that is none of theirs."""
    known = [*SERVICES, *(["herald"] if config.herald_url else []), ITSELF]
    if service is not None and service not in known:
        raise UsageError(f"{service!r} is not a program here. There are {', '.join(known)}.")
    return [service] if service else known


def ask_all(
    config: CtlSettings, programs: Iterable[str]
) -> tuple[SettingsFound, list[ServiceUnavailable]]:
    """Return what each program holds, and an error for each one that does not answer."""
    found: SettingsFound = {}
    silent = []
    for name in programs:
        try:
            found[name] = held(config) if name == ITSELF else held_by(config, name)
        except ServiceUnavailable as error:
            silent.append(error)
    return found, silent


def held_by(config: CtlSettings, service: str) -> list[SettingHeld]:
    """Return what a service holds. Raises ServiceUnavailable, DuramenError."""
    url, token = getattr(config, f"{service}_url"), getattr(config, f"{service}_token")
    return cli.ask(list[SettingHeld], url, token, "/api/settings", seconds=cli.KNOCK_SECONDS)


def setting_rows(settings: Iterable[SettingHeld], origins: Mapping[str, str]) -> SettingLines:
    """Return the settings of one program for a program to read, each with its origin."""
    return [
        {
            "name": each.name,
            "value": each.value,
            "from": where_from(each, origins),
            "default": each.default,
            "secret": each.value == MASKED,
        }
        for each in settings
    ]


def where_from(setting: SettingHeld, origins: Mapping[str, str]) -> str:
    """Return where the value of a setting comes from, in one word."""
    if not setting.is_given:
        return "default"
    by_file = origins.get(f"{setting.name}_FILE", "installation")
    return origins.get(setting.name, by_file)


def print_settings(value: dict[str, SettingLines]) -> None:
    for number, (program, rows) in enumerate(value.items()):
        if number:
            cli.console.print()
        cli.note(program, "bold")
        cli.print_table(
            ["setting", columns.text("value"), "from", "default"],
            [
                [
                    row["name"].removeprefix(PREFIX),
                    columns.Cell(row["value"], "cyan" if row["from"] in BY_THE_USER else ""),
                    row["from"],
                    "required" if row["default"] is None else row["default"],
                ]
                for row in rows
            ],
        )
