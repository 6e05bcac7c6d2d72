"""Stored formats: what is left out, what older files lack, and how what is wrong is named."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.formats.dataset import chosen_lines, original_lines
from shared.formats.metrics import MetricsLine
from shared.formats.plan import Plan, heldout_of
from shared.formats.report import taking_of
from shared.formats.result import SegmentResult
from shared.formats.snapshot import probability_of, surprisal_of
from shared.formats.snapshot_parquet import (
    LATER,
    decode_exactly,
    decode_snapshot,
    encode_snapshot,
)
from shared.protocol.names import JobId
from tests.golden.files import ROW
from tests.plans import a_plan

JOB = JobId("main", "1" * 64, 1)
FILE = {"path": "metrics.jsonl", "bucket": "work", "key": "k", "sha256": "2" * 64, "size": 3}


def test_a_result_of_another_version_is_read() -> None:
    old = SegmentResult.from_bytes(json.dumps({"schema": 1, "files": [FILE], "more": 1}).encode())
    found = old.file("metrics.jsonl")
    assert found is not None
    assert found.ref.key == "k"
    assert old.file("job.log") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[]", "not a JSON object"),
        (b'{"schema":2,"files":[]}', "schema 2, this program reads 1"),
        (b'{"schema":1}', "files: Field required"),
        (b'{"schema":1,"files":[{"path":1}]}', "files.0.path: Input should be a valid string"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_a_file_of_this_format_is_named_in_one_line(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        SegmentResult.from_bytes(data)
    assert "\n" not in str(refused.value)


def test_a_plan_is_closed_and_tells_later_plans_what_it_held_out() -> None:
    held, other = "a" * 64, "b" * 64
    probes = [
        {"id": name, "split": split, "dataset": JOB.sha256, "row": 0, "text": "t"}
        for name, split in ((held, "heldout"), (other, "trained"))
    ]
    plan = a_plan(JOB, probes=probes, heldout_ids=["c" * 64])
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert heldout_of(plan.to_bytes()) == {held, "c" * 64}
    with pytest.raises(ValueError, match="more: Extra inputs"):
        Plan.from_bytes(json.dumps({**json.loads(plan.to_bytes()), "more": 1}).encode())


def test_lines_are_found_however_the_file_is_cut_and_no_more_is_read() -> None:
    data = b"".join(b'{"layout":"text","line":%d}\n' % (2 * n + 1) for n in range(5))
    for size in (1, 7, len(data)):
        blocks = iter([data[at : at + size] for at in range(0, len(data), size)])
        assert original_lines(blocks, {0, 3}) == {0: 1, 3: 7}
        if size == 1:
            assert b"".join(blocks) == b'{"layout":"text","line":9}\n'
    assert list(chosen_lines([b"a\nb"], [1, 2])) == [(1, b"b")]
    assert list(chosen_lines(iter([]), [])) == []


def test_metrics_of_earlier_versions_name_rows_by_number_alone() -> None:
    new = MetricsLine.model_validate_json(b'{"position":1,"rows":[{"row":4,"id":"x","loss":null}]}')
    old = MetricsLine.model_validate_json(b'{"position":1,"rows":[4]}')
    assert new.rows == old.rows
    assert MetricsLine.model_validate_json(b'{"position":1,"snapshot":{}}').rows is None


def test_a_report_tells_under_which_id_its_file_was_taken() -> None:
    assert taking_of(b'{"taken":"t","name":"n"}') == "t"
    assert taking_of(b"{}") is None
    with pytest.raises(ValueError, match="Input should be an object"):
        taking_of(b"[]")


def test_a_snapshot_of_an_earlier_version_is_read_and_a_wild_number_is_none() -> None:
    row = {**ROW, "loss": math.inf, "similarity": math.nan}
    data = encode_snapshot([row], {"why": "first", "seconds": math.nan})
    new = decode_snapshot(data)
    assert new.rows == [{**ROW, "loss": None, "similarity": None}]
    assert new.decision == '{"seconds": null, "why": "first"}'
    table = pq.read_table(pa.BufferReader(data)).drop_columns(LATER).replace_schema_metadata(None)
    pq.write_table(table, sink := pa.BufferOutputStream())
    old = decode_snapshot(sink.getvalue().to_pybytes())
    assert old.rows == [{**ROW, "loss": None, **dict.fromkeys(LATER)}]
    assert old.decision is None
    assert decode_exactly(sink.getvalue().to_pybytes()) is None


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not Parquet at all"])
def test_what_is_not_parquet_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_snapshot(data)
    assert decode_exactly(data) is None


def test_surprisal_is_a_byte_and_back_again_a_probability() -> None:
    losses = np.array([0, 0.01, 0.03125, 1.0, 2.345, 15.9, 100, np.inf], np.float32)
    as_before = np.clip(np.rint(losses * 16), 0, 255).astype(np.uint8)
    assert [surprisal_of(loss) for loss in losses.tolist()] == as_before.tolist()
    assert probability_of(surprisal_of(1.0)) == pytest.approx(math.exp(-1))
