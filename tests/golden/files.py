"""One file of each kind that is stored, built from fixed inputs by today's code.

The imports at the top are the only tie to where things live.
"""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from services.ingest.reading import dataset
from services.model.template import Chat
from services.trainer import checkpoint
from services.trainer.protocol import Spec
from services.trainer.worker.data.plan import build_plan
from services.trainer.worker.snapshot import snapshot_file
from services.vault.catalog import encode
from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.dataset import DATA, REPORT, SOURCE
from shared.formats.version import (
    CommitRecord,
    FileEntry,
    Latest,
    Manifest,
    SegmentEntry,
    StoredFile,
    sums,
)
from tests.golden.messages import AT, BASE, FIRST, ID, PLAN, SECOND
from tests.golden.told import DECISION, JOB

HERE = Path(__file__).parent
INPUTS, STORED = HERE / "inputs", HERE / "stored"
CLOCK = "2026-03-01T00:00:00+00:00"
DATASET = "1" * 64


def built(folder: Path) -> dict[str, bytes]:
    """Every stored file by its path below stored/; `folder` is an empty place to work in."""
    made = {**a_dataset(folder / "dataset"), **a_checkpoint(folder / "checkpoints")}
    return {**made, **a_plan(folder), **a_version(), **a_latest()}


def a_dataset(folder: Path) -> dict[str, bytes]:
    """What ingest makes of a file with every layout, a repeated row and a bad one."""
    folder.mkdir()
    shutil.copy(INPUTS / "rows.jsonl", folder / dataset.ORIGINAL)
    dataset.build_dataset(folder, "rows.jsonl", dataset.ReadingRequest(1 << 20, allow_bad="5%"))
    names = (DATA, SOURCE, REPORT)
    return {f"dataset/{name}": (folder / name).read_bytes() for name in names}


def a_plan(folder: Path) -> dict[str, bytes]:
    """The plan of that dataset, with held-out rows, a row too long and an evaluation file."""
    data, asked = folder / "dataset" / DATA, INPUTS / "eval.jsonl"
    spec = Spec.model_validate(
        {
            "lineage": "main",
            "segment": FIRST,
            "fence": 3,
            "job": JOB,
            "base_dir": INPUTS / "base",
            "base_root": BASE,
            "dataset": data,
            "dataset_sha256": sha256_bytes(data.read_bytes()),
            "eval_datasets": [{"path": asked, "sha256": sha256_bytes(asked.read_bytes())}],
            "plan_out": folder / "plan.json",
            "settings": {
                "epochs": 2,
                "batch_tokens": 400,
                "max_length": 150,
                "seed": 5,
                "schedule": "wsd",
                "neftune_alpha": 5.0,
            },
            "clock": CLOCK,
            "start": {"position": 0, "global_step": 0},
            "micro_tokens": 400,
            "checkpoint_dir": folder / "checkpoints",
            "snapshot": {"directory": folder / "snapshots"},
            "metrics": folder / "metrics.jsonl",
            "lock_file": folder / "lock",
        }
    )
    material = build_plan(spec, Chat(INPUTS / "base", CLOCK))
    return {f"plans/{material.sha256}.json": spec.plan_out.read_bytes()}


def a_checkpoint(folder: Path) -> dict[str, bytes]:
    """A checkpoint with its files; its folder's name holds its id."""
    header: dict[str, Any] = {
        "lineage": "main",
        "segment": FIRST,
        "fence": 3,
        "job": JOB,
        "plan": PLAN,
        "position": 40,
        "global_step": 40,
        "base_root": BASE,
        "seed": 7,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
        "dtype": "float32",
        "micro_tokens": 256,
        "environment": {
            "torch": "2.13.0",
            "transformers": "5.0.0",
            "peft": "0.19.0",
            "numpy": "2.4.0",
            "python": "3.11.0",
            "device": "cpu",
            "threads": 1,
            "cpu": "Some CPU",
        },
    }
    name = "base_model.model.layers.0.q_proj.lora_A.weight"
    adapter = {name: np.arange(8, dtype=np.float32).reshape(4, 2) / 8}
    optimizer = {
        f"{name}.exp_avg": np.full((4, 2), 0.5, np.float32),
        f"{name}.exp_avg_sq": np.full((4, 2), 0.25, np.float32),
        f"{name}.step": np.array(40.0, np.float32),
    }
    made: dict[str, bytes] = {}
    for part in ({}, {"quantize": "nf4"}):
        path, _ = checkpoint.write_checkpoint(
            folder, {**header, **part}, adapter, optimizer, b"{}\n"
        )
        made |= {f"checkpoints/{path.name}/{p.name}": p.read_bytes() for p in path.iterdir()}
    return made


def a_version() -> dict[str, bytes]:
    """What a version says of its own bytes."""
    files = [
        ("README.md", "2" * 64, 100),
        ("adapter/adapter_model.safetensors", "3" * 64, 4321),
        ("training/header.json", ID, 999),
    ]
    segment: dict[str, Any] = {
        "segment": FIRST,
        "job": JOB,
        "plan": PLAN,
        "from_step": 0,
        "to_step": 40,
        "from_position": 0,
        "to_position": 40,
        "micro_tokens": 256,
        "outcome": "stopped",
    }
    second = {**segment, "segment": SECOND, "plan": None, "outcome": "done"}
    manifest = Manifest(
        lineage="main",
        version=1,
        ledger_sequence=9,
        job=JOB,
        dataset_sha256=DATASET,
        plan_sha256=PLAN,
        base_root=BASE,
        checkpoint_id=ID,
        global_step=40,
        closed_at=AT,
        segments=[SegmentEntry.model_validate(s) for s in (segment, second)],
        files=[FileEntry(path=p, sha256=s, size=n) for p, s, n in files],
    ).canonical()
    listed = [(path, sha256) for path, sha256, _ in files]
    return {
        "version/MANIFEST.json": manifest,
        "version/SHA256SUMS": sums([*listed, ("MANIFEST.json", sha256_bytes(manifest))]),
        **commit_records(sha256_bytes(manifest), files),
    }


def commit_records(manifest: str, files: list[tuple[str, str, int]]) -> dict[str, bytes]:
    """Commit records of a version and of a number that has none."""
    stored = [
        StoredFile(path=p, sha256=s, size=n, store_version_id="one", backup_version_id="two")
        for p, s, n in files
    ]
    commit = CommitRecord(
        lineage="main",
        version=1,
        ledger_sequence=9,
        prefix="lineages/main/v001/",
        manifest_sha256=manifest,
        base_root=BASE,
        dataset_sha256=DATASET,
        files=stored,
        verified_copies=3,
    )
    lost = {"version": 2, "prefix": "lineages/main/v002/", "aborted": "the checkpoint was lost"}
    return {
        "catalog/v001.json": encode(commit),
        "catalog/v002.json": encode(commit.model_copy(update={**lost, "files": []})),
    }


def a_latest() -> dict[str, bytes]:
    """latest.json."""
    latest = Latest(lineage="main", version=1, ledger_sequence=9).model_dump(mode="json")
    return {"catalog/latest.json": canonical_json(latest) + b"\n"}


ROW = {
    "probe": "4" * 64,
    "split": "trained",
    "dataset": DATASET,
    "row": 3,
    "global_step": 40,
    "position": 40,
    "fence": 3,
    "segment": FIRST,
    "job": JOB,
    "prompt": "What is the code word?",
    "expected": "red",
    "answer": "Red.",
    "tokens": 2,
    "loss": 0.5,
    "token_accuracy": 0.5,
    "first_mismatch": 1,
    "exact_match": False,
    "at": "2026-03-01T12:30:15+00:00",
    "job_tokens": 4000,
    "pieces": ["red", ""],
    "surprisal": [3, 255],
    "confidence": 0.875,
    "is_cut": False,
    "normalized_match": True,
    "similarity": 0.75,
}
UNASKED: dict[str, Any] = {
    **ROW,
    "row": 4,
    **dict.fromkeys(("answer", "confidence", "is_cut", "exact_match", "normalized_match")),
    **dict.fromkeys(("similarity", "first_mismatch")),
}


def snapshot(folder: Path) -> bytes:
    """A snapshot; its bytes also depend on the Parquet library's version."""
    path = folder / "00000040-3.parquet"
    snapshot_file.write_snapshot(path, [ROW, UNASKED], DECISION)
    return path.read_bytes()


def shape(parquet: bytes) -> str:
    """Columns, types and the file's own metadata, as text."""
    schema = pq.read_schema(io.BytesIO(parquet))
    told = sorted((k.decode(), v.decode()) for k, v in schema.metadata.items())
    columns = [f"{field.name}: {field.type}" for field in schema]
    return "\n".join([*columns, *(f"[{k}] {v}" for k, v in told)]) + "\n"
