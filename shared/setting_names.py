"""Every DURAMEN_ name that something reads, and one check that refuses all others.

Whoever starts something calls `refuse_unknown` first: `make up`, `make local` and `make demo` with
the names in .env and in the environment, each service with those in its own environment. A name
that is silently dropped would leave its user with a setting that does nothing.

Uses only the standard library: `make up` runs on a host that has nothing else.
tests/unit/test_settings.py compares the names below with the settings classes.
"""

import difflib
from collections.abc import Container, Iterable

from shared.errors import UnknownSettings

PREFIX = "DURAMEN_"
FOR_TESTS = ("DURAMEN_TEST_", "DURAMEN_GPU_")

# Fields of the settings classes. Each may also be given as a file: DURAMEN_X_FILE.
_OF_CLASSES = """
archive_dir backup_access_key backup_disk backup_inner_urls backup_lock backup_retention_days
backup_secret_key backup_url batch_tokens bus_disk checkout checkpoint_seconds copies device
disk_reserve_bytes done_limit_bytes eval_fraction evolution_token evolution_url failure_domains
gradient_checkpointing grafana_password grafana_url herald_token herald_url http_host http_port
http_token hub_token_file inbox_dir ingest_token ingest_url learning_rate lease_seconds log_level
logs_dir lr_scheduler_type max_grad_norm max_length max_row_bytes max_upload_bytes memory_limit
micro_batch_tokens nats_ca nats_monitor_seed_file nats_seed_file nats_url neftune_alpha
notify_urls num_train_epochs on_long origins prometheus_url secrets_dir settle_seconds
snapshot_allowance_seconds snapshot_fraction state_dir store_access_key store_away_seconds
store_disk store_health_urls store_inner_urls store_kind store_secret_key store_url
supervisor_file threads torch trainer_token trainer_url vault_token vault_url wait_seconds
warmup_steps work_limit_bytes
"""
# What the installation reads, or writes for its user's own programs.
_INSTALLATION = """
accept_one_disk backup_dir compose_files env_file home host_gid host_uid metrics_retention
models_dir nats_tls nats_tls_dir notify_rendered port_base reader_access_key reader_secret_key
rendered restore_dir secrets service store torch_index trainer_gpus trainer_memory version volumes
watching without
"""
_PORTS = """
nats store store_grpc store_master store_master_grpc store_volume store_volume_grpc
store_filer store_filer_grpc backup backup_grpc backup_master backup_master_grpc backup_volume
backup_volume_grpc backup_filer backup_filer_grpc ingest trainer vault evolution console grafana
herald
"""
_MEMORIES = "nats store backup ingest vault evolution herald prometheus grafana"
OF_CLASSES, INSTALLATION, PORTS, MEMORIES = (
    frozenset(names.split()) for names in (_OF_CLASSES, _INSTALLATION, _PORTS, _MEMORIES)
)
KNOWN_NAMES = frozenset(
    PREFIX + name.upper()
    for name in (
        *OF_CLASSES,
        *INSTALLATION,
        *(f"port_{port}" for port in PORTS),
        *(f"memory_{container}" for container in MEMORIES),
    )
)

# Names of earlier versions, and what the same setting is called now.
RENAMED = {
    "DURAMEN_CLIP": "DURAMEN_MAX_GRAD_NORM",
    "DURAMEN_EPOCHS": "DURAMEN_NUM_TRAIN_EPOCHS",
    "DURAMEN_MICRO_TOKENS": "DURAMEN_MICRO_BATCH_TOKENS",
    "DURAMEN_SCHEDULE": "DURAMEN_LR_SCHEDULER_TYPE",
}
# Settings of earlier versions that are constants now. Jobs still choose their own weight decay and
# cooldown.
RETIRED = frozenset(
    {
        "DURAMEN_SCAN_SECONDS",
        "DURAMEN_UNFINISHED_SECONDS",
        "DURAMEN_RETRY_SECONDS",
        "DURAMEN_SWEEP_SECONDS",
        "DURAMEN_WEIGHT_DECAY",
        "DURAMEN_COOLDOWN_FRACTION",
        "DURAMEN_VAULT_MEMORY",
        "DURAMEN_NATS_MONITOR_URL",
        "DURAMEN_PORT_NATS_MONITOR",
    }
)


def refuse_unknown(names: Iterable[str]) -> str | None:
    """Return a warning about names that no longer have any effect, or None.

    Raises UnknownSettings, which names every DURAMEN_ name that nothing reads.
    """
    ours = sorted({name for name in names if name.startswith(PREFIX)})
    wrong = [why for why in map(_objection, ours) if why]
    if wrong:
        raise UnknownSettings(wrong)
    retired = [name for name in ours if name in RETIRED]
    if not retired:
        return None
    verb, what = ("have", "settings") if len(retired) > 1 else ("has", "a setting")
    return (
        f"{', '.join(retired)} {verb} no effect: what was {what} is fixed now. "
        "Remove it from .env or the environment."
    )


def origins(names: Iterable[str], environment: Container[str]) -> str:
    """Return where each of these settings of the user stands: `NAME=.env NAME=environment …`.

    `environment`: the names that are set there, where they win over .env.
    """
    ours = sorted(name for name in names if name.startswith(PREFIX))
    return " ".join(f"{n}={'environment' if n in environment else '.env'}" for n in ours)


def is_known(name: str) -> bool:
    """Return whether something reads `name`, or the file that it names."""
    return name in KNOWN_NAMES or (
        name.endswith("_FILE") and name.removesuffix("_FILE") in KNOWN_NAMES
    )


def _objection(name: str) -> str | None:
    if is_known(name) or name in RETIRED or name.startswith(FOR_TESTS):
        return None
    if name in RENAMED:
        return f"{name} is now called {RENAMED[name]}"
    nearest = difflib.get_close_matches(name, sorted(KNOWN_NAMES), n=1)
    return f"{name} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else "")
