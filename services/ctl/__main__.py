"""`python -m services.ctl` is `duramen`."""

import typer

from services.ctl import base, check, cli, control, doctor, evolution, queue, versions, watch

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Duramen.")
app.add_typer(queue.app, name="queue")
app.add_typer(versions.app, name="versions")
app.add_typer(evolution.app, name="evolution")
app.add_typer(base.app, name="base")
app.add_typer(base.lineage_app, name="lineage")
for module in (control, watch, versions, doctor, check):
    for name, command in module.COMMANDS.items():
        app.command(name)(command)


def main() -> None:
    """The console script."""
    cli.main(app)


if __name__ == "__main__":
    main()
