"""Whatever bytes a file has, it is read, or refused with a reason."""

import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ingest.container import foreign, lines
from services.ingest.container.names import SUFFIXES, container_of
from services.ingest.container.rows import read_rows_of
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from services.ingest.reading.row_error import RowError, Unreadable

ENDINGS = sorted({*SUFFIXES, ".zip", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".jsonl.bz2"})
MAGICS = [magic for magics in foreign.BEGINNINGS.values() for magic in magics]
JSONISH = st.text(alphabet="{}[]\",:\\ \n\t0123e.-NaInfity'rolecnt\ufeff\x1e", max_size=60)


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    data=st.one_of(
        st.binary(max_size=80),
        JSONISH.map(str.encode),
        st.text(max_size=40).map(lambda text: text.encode("utf-16", "surrogatepass")),
        st.builds(lambda magic, rest: magic + rest, st.sampled_from(MAGICS), st.binary()),
    )
)
def test_no_bytes_raise_anything_but_a_reason(tmp_path: Path, ending: str, data: bytes) -> None:
    found = container_of("a" + ending)
    assert found is not None
    path = tmp_path / "any"
    path.write_bytes(data)
    try:
        for number, row in read_rows_of(path, found, 200, lambda _: None):
            assert number >= 1
            assert isinstance(row, bytes | RowError)
    except Unreadable as error:
        assert error.why.message
    (tmp_path / dataset.ORIGINAL).write_bytes(data)
    dataset.build_dataset(tmp_path, "a" + ending, ReadingRequest(1 << 20))


def test_lines_that_begin_a_row_and_never_end_it_do_not_take_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_IN_VAIN", 1 << 16)
    text = '{"text": "a"}\n' + '{"a":\n' * 20_000
    (tmp_path / dataset.ORIGINAL).write_text(text)
    built = dataset.build_dataset(tmp_path, "a.jsonl", ReadingRequest(1 << 20))
    assert built.contents.bad_rows == 20_000


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / dataset.ORIGINAL, "w") as archive:
        for n in range(10_001):
            archive.writestr(f"{n}.x", "")
    built = dataset.build_dataset(tmp_path, "a.zip", ReadingRequest(1 << 20))
    assert "10000" in built.contents.problems[0].message
