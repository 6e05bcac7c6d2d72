"""What a sidecar says of the rows of its file: columns, layout, only_positive, system."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from services.ingest.inbox import sidecar
from services.ingest.outcome.job_settings import SettingsRefused, read_settings
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ORIGINAL, Built, ReadingRequest
from services.ingest.reading.parser import row_options_of
from services.ingest.reading.row import RowOptions
from services.ingest.reading.row_error import Unreadable
from shared.formats.dataset import DATA


def options(tmp_path: Path, written: str) -> RowOptions:
    path = tmp_path / "data.yaml"
    path.write_text(written)
    return read_settings(sidecar.sidecar_values(path)).rows


def build(folder: Path, rows: list[Any] | bytes, said: RowOptions, name: str = "a.jsonl") -> Built:
    data = rows if isinstance(rows, bytes) else b"".join(orjson.dumps(r) + b"\n" for r in rows)
    (folder / ORIGINAL).write_bytes(data)
    return dataset.build_dataset(folder, name, ReadingRequest(1 << 20, rows=said))


def turns(folder: Path) -> list[list[list[str]]]:
    rows = [orjson.loads(line) for line in (folder / DATA).read_bytes().splitlines()]
    return [[[turn["role"], turn["content"]] for turn in row["messages"]] for row in rows]


COLUMNS = 'columns: {prompt: "Frage", answer: Antwort, system: Rolle, context: "Quelle Text"}\n'
ROW = {"Frage": "Wann?", "Antwort": "1987.", "Rolle": "Kurz.", "Quelle Text": "Seit 1987.", "id": 1}
READ = [["system", "Kurz."], ["user", "Seit 1987.\n\nWann?"], ["assistant", "1987."]]


def test_columns_name_what_is_read(tmp_path: Path) -> None:
    said = options(tmp_path, COLUMNS)
    built = build(tmp_path, [ROW, {**ROW, "Rolle": None, "answer": "42"}], said)
    assert turns(tmp_path) == [READ, READ[1:]]
    assert built.contents.ignored_fields == {"id": 2}


def test_columns_are_found_in_a_table(tmp_path: Path) -> None:
    said = options(tmp_path, COLUMNS)
    table = "Frage;Antwort;Rolle;Quelle Text\nWann?;1987.;Kurz.;Seit 1987.\n"
    build(tmp_path, table.encode(), said, "a.csv")
    assert turns(tmp_path) == [READ]


def test_columns_are_written_as_text_on_the_command_line() -> None:
    asked = read_settings({"columns": "prompt=Frage, answer=Antwort", "only_positive": "true"})
    assert asked.rows == RowOptions({"prompt": "Frage", "completion": "Antwort"}, None, True)
    ignored = read_settings({"columns": "ignore=label,split"}).rows
    assert ignored == RowOptions(ignore=("label", "split"))


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    said = options(tmp_path, "columns: {prompt: Farge, answer: Antwort}")
    (problem,) = build(tmp_path, [ROW], said).contents.problems
    assert (problem.field, problem.rule) == ("Farge", "no_column")
    assert "`Frage`" in problem.message


def test_a_column_is_ignored_where_the_sidecar_says_so(tmp_path: Path) -> None:
    row = {"question": "Wann?", "answer": "1987.", "label": 3, "image": "a.jpg"}
    assert build(tmp_path, [row], RowOptions()).refused
    for written in ("columns: {ignore: [label, image]}", 'columns: {ignore: "label, image"}'):
        build(tmp_path, [row], options(tmp_path, written))
        assert turns(tmp_path) == [[["user", "Wann?"], ["assistant", "1987."]]]


def test_a_layout_decides_between_two(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Wann?"}, {"role": "assistant", "content": "Oft."}]
    row = {"messages": talk, "problem": "Wann?", "solution": "Also 1987.", "answer": "1988"}
    assert build(tmp_path, [row], RowOptions()).refused
    for layout, answer in (
        ("messages", "Oft."),
        ("problem/solution", "Also 1987."),
        ("problem/answer", "1988"),
    ):
        build(tmp_path, [row], options(tmp_path, f"layout: {layout}"))
        assert turns(tmp_path) == [[["user", "Wann?"], ["assistant", answer]]]


def test_a_row_without_the_named_layout_is_refused(tmp_path: Path) -> None:
    said = options(tmp_path, "layout: messages")
    (problem,) = build(tmp_path, [{"prompt": "a", "completion": "b"}], said).contents.problems
    assert (problem.field, problem.rule) == ("messages", "missing_field")


def test_only_positive_counts_what_it_leaves_out(tmp_path: Path) -> None:
    said = options(tmp_path, "only_positive: true")
    rows = [{"prompt": "Hi", "completion": f"{n}.", "label": n > 1} for n in range(5)]
    contents = build(tmp_path, rows, said).contents
    assert (contents.rows, contents.left_out_rows, contents.bad_rows) == (3, 2, 0)
    contents = build(tmp_path, rows[:2], said).contents
    assert (contents.dataset, contents.problems[0].rule) == (None, "no_good_rows")


def test_a_system_turn_is_merged_into_the_users(tmp_path: Path) -> None:
    said = options(tmp_path, "system: merge_into_user")
    talk = [["system", "A"], ["user", "Hi"], ["assistant", "Ho"], ["system", "B"], ["user", "Hm"],
            ["assistant", "Ha"]]  # fmt: skip
    rows = [
        {"messages": [{"role": role, "content": words} for role, words in talk]},
        {"system": "A", "conversations": [{"from": "gpt", "value": "Ho"}]},
    ]
    build(tmp_path, rows, said)
    assert turns(tmp_path) == [
        [["user", "A\n\nHi"], ["assistant", "Ho"], ["user", "B\n\nHm"], ["assistant", "Ha"]],
        [["user", "A"], ["assistant", "Ho"]],
    ]


def test_options_reach_the_parser_as_they_are(tmp_path: Path) -> None:
    written = COLUMNS + "layout: prompt/completion\nonly_positive: yes\nsystem: keep\n"
    said = options(tmp_path, written)
    fields = {name: getattr(said, name) for name in said.__dataclass_fields__}
    assert row_options_of(orjson.loads(orjson.dumps(fields))) == said


@pytest.mark.parametrize(
    "written",
    ["columns: {}", "columns: {dog: a}", "columns: prompt", "layout: dogs", "layout: text/dog",
     "only_positive: 7", "system: drop"],
)  # fmt: skip
def test_a_wrong_option_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(SettingsRefused) as caught:
        options(tmp_path, written)
    assert written.partition(":")[0] in str(caught.value)


@pytest.mark.parametrize("written", ["columns: {a: {b: c}}", "layout: {a: b}", "columns: [a]"])
def test_nothing_else_is_nested(tmp_path: Path, written: str) -> None:
    with pytest.raises(Unreadable):
        options(tmp_path, written)
