"""duramen notify: send a test notification."""

import typer

from services.ctl import cli
from services.ctl.views.columns import count_of
from shared.answers.herald import Sent
from shared.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Notifications: test.")


@app.callback()
def group() -> None:
    """Notifications of finished and failed jobs, versions and alerts."""


@app.command("test")
def send_test(json: cli.Json = False) -> None:
    """Send a test message to every address of DURAMEN_NOTIFY_URLS."""
    config = cli.settings()
    if not config.herald_url:
        raise UsageError("Only the containers send notifications.", next_step="make up")
    value = cli.ask(Sent, config.herald_url, config.herald_token, "/api/notify/test", "POST")
    sent = (
        f"Sent to {count_of(value.addresses, 'address', 'addresses')}. Check that it has arrived."
    )
    cli.emit(value, json, lambda: cli.console.print(sent))
