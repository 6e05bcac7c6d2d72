"""`python -m services.ctl` is `duramen`. The module of a command is loaded when it is used."""

import gc
import os
from importlib import import_module
from typing import Any

gc.set_threshold(100_000)  # modules and ten thousand records live to the end: to look is in vain
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # none is used, and to look is slow

import typer  # noqa: E402 - before it stands what makes loading it faster
from typer.core import TyperGroup  # noqa: E402 - as above

from services.ctl import cli  # noqa: E402 - as above

# name -> module of services.ctl; `:app` where the command has commands of its own. In the order
# of `duramen --help`.
PLACES = {
    "status": "control",
    "watch": "watch",
    "submit": "submit",
    "queue": "queue:app",
    "pause": "control",
    "resume": "control",
    "stop": "control",
    "start": "control",
    "skip": "control",
    "snapshot": "snapshot",
    "versions": "versions:app",
    "restore": "restore",
    "rollback": "versions",
    "evolution": "evolution:app",
    "show-example": "show_example",
    "base": "base:app",
    "lineage": "base:lineage_app",
    "notify": "notify:app",
    "estimate": "estimate",
    "doctor": "doctor",
    "check": "check",
}


class Commands(TyperGroup):
    """The commands by their names."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the name is the parent's
        return list(PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        if cmd_name not in PLACES:
            return None
        module, _, group = PLACES[cmd_name].partition(":")
        loaded, holder = import_module(f"services.ctl.{module}"), typer.Typer(add_completion=False)
        if group:
            holder.add_typer(getattr(loaded, group), name=cmd_name)
        else:
            holder.command(cmd_name)(loaded.COMMANDS[cmd_name])
        return typer.main.get_group(holder).commands[cmd_name]


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, help=cli.HELP)


@app.callback()
def duramen() -> None:
    """Takes no options of its own: those of a command stand behind its name."""


def main() -> None:
    """The console script."""
    cli.main(app)


if __name__ == "__main__":
    main()
