"""Asks the trainer to try a base out, and draws what it found."""

from typing import Any
from urllib.parse import quote

from services.ctl import cli
from services.ctl.settings import CtlSettings
from shared.answers.trainer import BaseTried
from shared.errors import DuramenError, UsageError
from shared.protocol.records import LineageSettings

TRY_SECONDS = 180.0
EARLIER_SECONDS = 5.0
SHAPE_FIELDS = {"rank", "alpha", "dropout", "targets"}
CHECKED_LATER = "the first job checks it instead, and fails if it cannot be trained"


def try_base(config: CtlSettings, settings: LineageSettings) -> BaseTried | str:
    """Return what the trainer found of a base, or the reason why it could not be tried out.

    Raises UsageError if the base cannot be trained with this adapter.
    """
    found = ask_trainer(config, settings, "", TRY_SECONDS)
    if isinstance(found, BaseTried) and found.failed is not None:
        why, _, command = found.failed.message.partition(" Type: ")
        raise UsageError(why, next_step=command or "duramen base list")
    return found


def trial_before(config: CtlSettings, settings: LineageSettings) -> BaseTried | str:
    """Return what the trainer found when it tried the base out before, or why that is not known."""
    found = ask_trainer(config, settings, "&earlier=true", EARLIER_SECONDS)
    if isinstance(found, BaseTried) and found.what is None and found.failed is None:
        return "it was never tried out on this trainer's host with such an adapter"
    return found


def ask_trainer(
    config: CtlSettings, settings: LineageSettings, how: str, seconds: float
) -> BaseTried | str:
    shape = quote(settings.lora.model_dump_json(include=SHAPE_FIELDS))
    path = f"/api/base/{settings.base_root}?shape={shape}{how}"
    if not config.trainer_url:
        return "DURAMEN_TRAINER_URL is not set"
    try:
        return cli.ask(BaseTried, config.trainer_url, config.trainer_token, path, seconds=seconds)
    except DuramenError as error:
        return error.said


def trial_lines(found: BaseTried | str, settings: LineageSettings) -> list[str]:
    """Return what was found, as sentences."""
    if isinstance(found, str):
        return [f"The base was not tried out: {found.rstrip('.')}; {CHECKED_LATER}."]
    if found.failed is not None:
        return [f"The base could not be trained: {found.failed.message}"]
    if found.doubt is not None:
        return [
            f"The base was not tried out, for {found.what} fails: {found.doubt} So {CHECKED_LATER}."
        ]
    first, last = found.losses
    tried = (
        f"Tried out on the trainer's CPU in {found.seconds:.0f} s: {found.what}. Its loss on a "
        f"made-up text went from {first:.2f} to {last:.2f}, and plain peft gives the same logits "
        "with the saved adapter."
    )
    told = [tried, f"Layers with an adapter: {', '.join(found.adapted)}."]
    told += [f"Without an adapter: {', '.join(s.names)} ({s.why})." for s in found.left_out]
    told += [f"Note: {note}." for note in found.notes]
    if settings.quantize != "none":
        told.append(f"It was tried in float32, not in {settings.quantize}.")
    return told


def as_json(found: BaseTried | str) -> dict[str, Any]:
    """Return the same for programs."""
    if isinstance(found, str):
        return {"tried": False, "why": found}
    return {"tried": found.doubt is None, **found.model_dump(mode="json", exclude_unset=True)}
