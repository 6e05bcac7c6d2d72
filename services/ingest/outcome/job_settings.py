"""What a user may set for one job, by the names that trainers use, and why he may not the rest."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from services.ingest.reading.row_error import RowError
from services.ingest.reading.rows.options import (
    RowOptions,
    columns_of,
    layout_named,
    system_way,
)
from shared.protocol.allowance import Allowance
from shared.protocol.largest import check_largest
from shared.protocol.names import SCHEDULES
from shared.protocol.records import JobSettings
from shared.wrong_value import why_wrong

# name as written -> name here
NAMES = {
    **{name: name for name in JobSettings.model_fields},
    "lr": "learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    "max_grad_norm": "clip",
    "lr_scheduler_type": "schedule",
    "neftune_noise_alpha": "neftune_alpha",
}
# What ingest alone reads.
ROW_OPTIONS = ("columns", "layout", "only_positive", "system")
OPTIONS = ("again", *ROW_OPTIONS)
AT_INGEST = ("allow_bad", *OPTIONS)  # what must be known when a file is read
LINEAGE = {
    "base": "base base_model base_root model model_name model_name_or_path model_revision",
    "shape of the adapter": (
        "rank r lora_r lora_rank alpha lora_alpha dropout lora_dropout targets target_modules "
        "lora_target_modules lora_target modules_to_save use_rslora use_dora"
    ),
    "dtype": "dtype torch_dtype bf16 fp16 load_in_4bit load_in_8bit",
    "chat template": "chat_template template",
    "seed": "seed data_seed",
}
OF_LINEAGE = {name: what for what, names in LINEAGE.items() for name in names.split()}
BATCHES = {
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_batch_size",
    "batch_size",
    "micro_batch_size",
}
LEVELS = "the folder decides the priority: inbox/priority/, inbox/ or inbox/low/"
ELSEWHERE = {
    **dict.fromkeys(
        BATCHES,
        "a step is measured in tokens: for 4 rows of 500 tokens, set batch_tokens: 2000",
    ),
    "level": LEVELS,
    "priority": LEVELS,
    "lineage": "the folder decides the lineage: inbox/@NAME/",
    "warmup_ratio": "the learning rate warms up once per lineage: set warmup_steps",
    "max_steps": "the length of a job follows from its rows: set num_train_epochs",
    "optim": "the optimizer is AdamW, and each job continues with its state",
    "packing": "rows are always packed, and attention never crosses from one row to another",
    "output_dir": "every result becomes a version: see duramen versions list",
}
SWITCHES = {"again": "true or false", "only_positive": "true or false", "delta": "on or off"}
# YAML reads a plain on, yes or off as a boolean.
SWITCH = {"on": "on", "true": "on", "yes": "on", "off": "off", "false": "off", "no": "off"}
OPTION_OF_ROWS = {"columns": columns_of, "layout": layout_named, "system": system_way}


class Asked(NamedTuple):
    """What a user set for one file. `again`: it is trained also if it was trained before.

    `rows` is how its rows are read.
    """

    settings: JobSettings = JobSettings()
    again: bool = False
    rows: RowOptions = RowOptions()


class SettingsRefused(Exception):
    """Some settings cannot be taken; `problems` says which and why."""

    def __init__(self, problems: list[RowError]) -> None:
        self.problems = problems
        super().__init__("; ".join(p.message for p in problems))


def read_settings(values: dict[str, Any]) -> Asked:
    """Settings by the names that a user gave them. Raises SettingsRefused naming each wrong one."""
    asked, problems = taken_settings(values)
    if problems:
        raise SettingsRefused(problems)
    return asked


def taken_settings(values: dict[str, Any]) -> tuple[Asked, list[RowError]]:
    """Return the settings that can be taken, and a problem for each one that cannot."""
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    problems: list[RowError] = []
    for name, value in values.items():
        try:
            own = name if name in OPTIONS else own_name(name)
            if own in written:
                message = (
                    f"`{name}` and `{written[own]}` are two names for the same setting: "
                    "keep one of them."
                )
                raise RowError(name, "setting_twice", message)
            written[own] = name
            found[own] = checked(name, own, value)
        except RowError as error:
            problems.append(error)
    again = found.pop("again", False)
    rows = row_options({name: found.pop(name) for name in ROW_OPTIONS if name in found})
    if again:  # the plan shall not leave out what the user wants trained again
        found.setdefault("delta", "off")
    return Asked(JobSettings.model_validate(found), again, rows), problems


def row_options(said: dict[str, Any]) -> RowOptions:
    """Return how rows are read, from the options that were set and checked."""
    columns, ignore = said.pop("columns", ({}, ()))
    return RowOptions(columns=columns, ignore=ignore, **said)


def over(values: dict[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command says, and what the sidecar says beside it."""
    said = {NAMES.get(name, name) for name in stronger}
    kept = {name: value for name, value in values.items() if NAMES.get(name, name) not in said}
    return {**kept, **stronger}


def own_name(name: str) -> str:
    """Its name here. Raises RowError with the reason why it has none."""
    if name in NAMES:
        return NAMES[name]
    if name in OF_LINEAGE:
        message = (
            f"`{name}` belongs to the lineage: its {OF_LINEAGE[name]} is fixed when it is made, "
            "for all its jobs train one adapter. Make another one: duramen lineage new."
        )
        raise RowError(name, "of_lineage", message)
    if name in ELSEWHERE:
        raise RowError(
            name, "not_a_setting", f"`{name}` is not a setting of a job: {ELSEWHERE[name]}."
        )
    known = ", ".join(sorted({*NAMES, *OPTIONS}))
    nearest = difflib.get_close_matches(name[:40], sorted({*NAMES, *OPTIONS}), n=1)
    meant = f" Did you mean `{nearest[0]}`?" if nearest else ""
    message = f"`{name[:40]}` is not a known setting.{meant} Known settings: {known}."
    raise RowError(name[:40], "unknown_setting", message)


def checked(name: str, own: str, value: Any) -> Any:
    """The value, as JobSettings or an option takes it. Raises RowError."""
    if own == "allow_bad":
        try:
            Allowance.of(str(value))
        except ValueError as error:
            raise wrong_setting(name, value, str(error)) from error
        return str(value)
    if own in SWITCHES:
        said = SWITCH.get(str(value).lower())
        if said is None:
            raise wrong_setting(name, value, f"it must be {SWITCHES[own]}")
        return said if own == "delta" else said == "on"
    if own in OPTION_OF_ROWS:
        return checked_option(name, own, value)
    if isinstance(value, bool):
        raise wrong_setting(name, value, "it must be a number or a string")
    if own == "schedule":
        value = SCHEDULES.get(str(value), value)
    if own == "description":
        value = str(value)
    return checked_value(name, own, value)


def checked_value(name: str, own: str, value: Any) -> Any:
    """Return a value as JobSettings takes it, within its bounds. Raises RowError."""
    try:
        taken = getattr(JobSettings.model_validate({own: value}), own)
        check_largest(own, taken)
    except ValidationError as error:
        raise wrong_setting(name, value, why_wrong(error.errors()[0])) from error
    except ValueError as error:
        raise wrong_setting(name, value, str(error)) from error
    return taken


def checked_option(name: str, own: str, value: Any) -> Any:
    """Return an option of rows in the form that the reader takes. Raises RowError."""
    try:
        return OPTION_OF_ROWS[own](value)
    except ValueError as error:
        raise wrong_setting(name, value, str(error)) from error


def wrong_setting(name: str, value: Any, why: str) -> RowError:
    why = why[:1].lower() + why[1:]
    return RowError(name, "setting_value", f"`{name}` cannot be {str(value)[:80]!r}: {why}.")
