"""Run `duramen`: `python -m services.ctl`. A command's module is loaded when it is used."""

import gc
import os
from importlib import import_module
from typing import Any

gc.set_threshold(100_000)  # modules and ten thousand records live to the end: looking frees nothing
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # none is used, and looking is slow

import typer  # noqa: E402 - before it stands what makes loading it faster
from typer.core import TyperGroup  # noqa: E402 - as above

from services.ctl import cli  # noqa: E402 - as above

# Name -> module of services.ctl, and there the function, or the typer app that holds commands of
# its own. In the order of `duramen --help`.
PLACES = {
    "status": "status:status",
    "watch": "watch:watch",
    "preview": "preview:preview",
    "submit": "submit:submit",
    "queue": "queue:app",
    "pause": "control:pause",
    "resume": "control:resume",
    "stop": "control:stop",
    "start": "control:start",
    "skip": "control:skip",
    "snapshot": "snapshot:snapshot",
    "versions": "versions:app",
    "restore": "restore:restore",
    "recover": "installation.recover:recover",
    "rollback": "versions:rollback",
    "evolution": "evolution:app",
    "show-example": "show_example:show_example",
    "base": "bases:app",
    "lineage": "lineages:app",
    "notify": "notify:app",
    "estimate": "estimate:estimate",
    "settings": "installation.settings:show_settings",
    "logs": "installation.logs:show_logs",
    "support-bundle": "installation.support:support_bundle",
    "doctor": "doctor:doctor",
    "disk": "disk:disk",
    "check": "check:check",
}


class LazyCommands(TyperGroup):
    """The commands by their names, each loaded when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the name is the parent's
        return list(PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        if cmd_name not in PLACES:
            return None
        module, _, name = PLACES[cmd_name].partition(":")
        found = getattr(import_module(f"services.ctl.commands.{module}"), name)
        holder = typer.Typer(add_completion=False)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        return typer.main.get_group(holder).commands[cmd_name]


app = typer.Typer(
    cls=LazyCommands, no_args_is_help=True, pretty_exceptions_enable=False, help=cli.HELP
)


@app.callback()
def duramen() -> None:
    """Write the options of a command after its name."""


def main() -> None:
    """Run the console script `duramen`."""
    cli.main(app)


if __name__ == "__main__":
    main()
