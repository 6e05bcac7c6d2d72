"""Plans that a test makes up, complete in every field that the format has."""

from typing import Any

from shared.formats.plan import Plan
from shared.protocol.names import JobId


def a_plan(job: JobId, **fields: Any) -> Plan:
    """A plan of the job with these fields; the others say little."""
    empty: dict[str, Any] = {
        "job": job.path,
        "dataset": job.sha256,
        **dict.fromkeys(("base_root", "tokenizer_sha256", "template_sha256"), "0" * 64),
        "clock": "2026-03-01T00:00:00+00:00",
        "settings": {},
        "eval_fraction": 0.0,
        "rows": 0,
        **dict.fromkeys(("train_rows", "heldout_rows", "left_out", "probes", "batches"), ()),
        "eval_rows": {},
        **dict.fromkeys(("tokens", "trained_tokens"), 0),
        "tokens_sha256": "0" * 64,
    }
    return Plan.model_validate({**empty, **fields})
