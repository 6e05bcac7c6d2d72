"""Text and Markdown become rows of text of a bounded size, and nothing of them is lost."""

import json
from pathlib import Path

import pytest

from services.ingest.container import prose
from services.ingest.container.names import container_of
from services.ingest.container.rows import read_rows_of
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from shared.formats.dataset import DATA

LIMIT = 1 << 20


def texts(tmp_path: Path, text: str, name: str) -> list[str]:
    (tmp_path / dataset.ORIGINAL).write_bytes(text.encode())
    built = dataset.build_dataset(tmp_path, name, ReadingRequest(LIMIT))
    assert built.contents.problems == []
    assert built.contents.layouts == {"text": built.contents.rows}
    return [json.loads(line)["text"] for line in (tmp_path / DATA).read_bytes().splitlines()]


def test_text_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {n}. " + "It goes on. " * 60 for n in range(30)]
    rows = texts(tmp_path, "\n\n".join(paragraphs), "a.txt")
    assert all(len(row) <= prose.MOST_CHARACTERS for row in rows)
    assert "\n\n".join(rows).split() == " ".join(paragraphs).split()
    assert all(row.startswith("Paragraph") for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "A sentence. " * 2000,
        "word " * 5000,
        "x" * 9000,
        "文。" * 5000,
        "line\n" * 5000,
        "a b\r\n" * 3000,
        "x" * 200_000 + "\n\nend",
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_long_paragraph_is_cut_at_sentences_then_at_words(
    tmp_path: Path, text: str, name: str
) -> None:
    (tmp_path / "text").write_bytes(text.encode())
    form = container_of(name)
    assert form is not None
    found = [row for _, row in read_rows_of(tmp_path / "text", form, LIMIT, print)]
    rows = [json.loads(row)["text"] for row in found if isinstance(row, bytes)]
    assert all(0 < len(row) <= prose.MOST_CHARACTERS for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())
    if text.startswith(("A s", "文")):
        assert all(row.endswith((".", "。")) for row in rows)
    if text.startswith("word"):
        assert all(set(row.split()) == {"word"} for row in rows)


def test_a_heading_stays_with_what_follows_it(tmp_path: Path) -> None:
    text = "".join(
        f"# Part {n}\n\n## About\n\n" + "Words go on. " * 100 + "\n\n" for n in range(20)
    )
    rows = texts(tmp_path, text, "a.md")
    assert all(row.startswith("# Part") and row.endswith("on.") for row in rows)
    code = "```\na\n\n# b\n\n```\n" * 3
    assert texts(tmp_path, "# Code\n" + code, "b.md") == ["# Code\n\n" + code.strip()]
