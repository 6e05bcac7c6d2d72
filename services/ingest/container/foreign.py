"""Files that are something else than their name says, or than training data: what, and what to do.

Only the beginning of a file is looked at.
"""

from pathlib import Path

from services.ingest.container.encoding import MARKS
from services.ingest.container.names import OTHERS, TO_JSONL, Container
from services.ingest.reading import repair
from services.ingest.reading.row_error import BOM, RowError

HEAD_BYTES = 4096
ARROW_STREAM = b"\xff\xff\xff\xff"
BEGINNINGS = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "xz": (b"\xfd7zXZ\0",),
    "bzip2": (b"BZh",),
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "parquet": (b"PAR1",),
    "arrow": (b"ARROW1", ARROW_STREAM),
}
PACKED_NAMES = {"gzip": ".jsonl.gz", "zstd": ".jsonl.zst", "xz": ".jsonl.xz", "bzip2": ".jsonl.bz2"}
MARKUP = "a page of markup (HTML or XML), perhaps an error page that was saved instead of the file"
# What a file begins with, the rule, what it is, and what to do.
MAGIC: list[tuple[bytes, str, str, str]] = [
    *(
        (BEGINNINGS[how][0], "compressed", f"compressed with {how}", f"name it so ({suffix})")
        for how, suffix in PACKED_NAMES.items()
    ),
    (b"PK\x03\x04", "compressed", "a zip archive or an Office file", "if a zip, name it .zip"),
    (b"\x04\x22\x4d\x18", "compressed", "compressed with lz4", "pack it as .gz or .zst"),
    (b"PAR1", "parquet", "Parquet", "name it so (.parquet)"),
    (b"ARROW1", "arrow", "an Arrow file", "name it so (.arrow)"),
    (ARROW_STREAM, "arrow", "an Arrow stream", "name it so (.arrow)"),
    (b"FEA1", "feather", "Feather of version 1", "write it again as .parquet"),
    (b"%PDF", "pdf", *OTHERS[".pdf .doc .docx .odt .rtf .epub .ppt .pptx"]),
    (b"{\\rtf", "rtf", *OTHERS[".pdf .doc .docx .odt .rtf .epub .ppt .pptx"]),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office", "an old Excel or Word file", "save it as CSV"),
    (b"SQLite format 3\0", "sqlite", *OTHERS[".db .sqlite .sqlite3"]),
    (b"GGUF", "weights", *OTHERS[".safetensors .gguf .onnx"]),
    (b"7z\xbc\xaf\x27\x1c", "archive", "a 7z archive", "unpack it"),
    (b"Rar!", "archive", "a RAR archive", "unpack it"),
    (b"\x93NUMPY", "numpy", "a NumPy array", TO_JSONL),
    (b"\x89HDF", "hdf5", "an HDF5 file", TO_JSONL),
    (b"Obj\x01", "avro", "an Avro file", TO_JSONL),
    (b"ORC", "orc", "an ORC file", TO_JSONL),
    (b"\x89PNG", "picture", "a picture", "put training data here"),
    (b"\xff\xd8\xff", "picture", "a picture", "put training data here"),
    (b"\x7fELF", "program", "a program", "put training data here"),
    (
        b"version https://git-lfs.github.com/spec/",
        "git_lfs",
        "a pointer of Git LFS, not the data themselves",
        "fetch them with: git lfs pull",
    ),
]
PICKLE = next(how for names, how in OTHERS.items() if ".pkl" in names)


def by_name(path: Path, container: Container) -> RowError | None:
    """Return the error for a file that does not begin as its name demands, or None."""
    named = container.packing or container.layout
    if named not in BEGINNINGS:
        return None
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head or head.startswith(BEGINNINGS[named]):
        return None
    message = f"The file is named {container.suffix}, but does not begin like a {named} file."
    wrong = by_beginning(head, container)
    if wrong is not None and wrong.rule != "nul":
        message += f" {wrong.message}"
    return RowError("file", "wrong_name", message)


def by_beginning(head: bytes, container: Container) -> RowError | None:
    """Return the error for the first bytes of a text that is something else, or None."""
    head = head[:HEAD_BYTES]
    for magic, rule, what, how in MAGIC:
        if head.startswith(magic):
            return something_else(rule, what, how)
    if head[257:262] == b"ustar":
        return something_else("archive", "a tar archive", "unpack it, then put the data files here")
    if head[8:10] == b'{"' and not head[3:8].strip(b"\0") and head[:1] != b"{":
        return something_else("weights", *OTHERS[".safetensors .gguf .onnx"])
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return something_else("pickle", *PICKLE)
    if head and not head.strip(b"\0"):
        message = "The file begins with zero bytes: its copy was cut off. Copy it again."
        return RowError("file", "nul", message)
    if head.startswith(tuple(MARKS)) or container.layout == "text":
        return None
    start = head.removeprefix(BOM).lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return something_else("markup", MARKUP, "look into it; download the file itself again")
    if container.layout == "json" and repair.is_repr(start.decode(errors="replace")):
        return RowError("file", "python_repr", repair.REPR_TOLD)
    return None


def something_else(rule: str, what: str, how: str) -> RowError:
    return RowError("file", rule, f"The file is {what}: {how}.")
