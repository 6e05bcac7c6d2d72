"""What the name of a file says of it: how it is packed, and what it holds."""

from pathlib import PurePath
from typing import NamedTuple

PACKINGS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2", ".zip": "zip"}
SUFFIXES = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TABLES = ("parquet", "arrow")  # read at random places, so not while they are unpacked
TAKEN = (
    ".jsonl, .ndjson, .json, .csv, .tsv, .txt, .md, .parquet, .arrow, .feather; text also "
    "packed as .gz, .zst, .xz or .bz2, and one dataset in a .zip"
)


class Container(NamedTuple):
    """The form of a training file, as its name gives it.

    `layout`: json, csv, text, parquet or arrow; empty for a .zip, whose member has its own name.
    `packing`: one of PACKINGS, or none. `suffix`: as named.
    """

    layout: str
    packing: str
    suffix: str


JSONL = Container("json", "", ".jsonl")


def container_of(name: str) -> Container | None:
    """Return the container of a file by its name, or None if it is not a supported one."""
    lower = name.lower()
    packing = next((p for p in PACKINGS if lower.endswith(p)), "")
    inner = lower.removesuffix(packing)
    suffix = next((s for s in SUFFIXES if inner.endswith(s)), None)
    if packing == ".zip":
        return Container("", "zip", (suffix or "") + packing) if inner else None
    if suffix is None or (packing and SUFFIXES[suffix] in TABLES):
        return None
    return Container(SUFFIXES[suffix], PACKINGS.get(packing, ""), suffix + packing)


# ---- what is not taken ---------------------------------------------------------------------------

TO_JSONL = "export the rows as JSON Lines (.jsonl)"
OTHERS = {
    ".xlsx .xls .xlsm .ods .numbers": ("a spreadsheet", "save the sheet as CSV (UTF-8)"),
    ".pkl .pickle .joblib .pt .pth .bin .ckpt": (
        "a pickle, which can run code when it is opened",
        "load it where you trust it, and write df.to_json(path, orient='records', lines=True)",
    ),
    ".pdf .doc .docx .odt .rtf .epub .ppt .pptx": ("a document", "save its text as .txt or .md"),
    ".html .htm .xml": ("a page of markup", "save its text as .txt, or its rows as .jsonl"),
    ".db .sqlite .sqlite3": (
        "a database",
        "export the table: sqlite3 -csv -header FILE 'select * from …' > data.csv",
    ),
    ".safetensors .gguf .onnx": ("weights of a model, not training data", "put a dataset here"),
    ".tar .tgz .tbz .txz .tar.gz .tar.xz .tar.bz2 .tar.zst .7z .rar": (
        "an archive",
        "unpack it, then put the data files into the inbox",
    ),
    ".parquet.gz .parquet.zst .parquet.xz .parquet.bz2 .arrow.gz .arrow.zst": (
        "a table that was packed again",
        "unpack it once (it is compressed inside)",
    ),
    ".yaml .yml .toml .ini": ("settings", "put training data into a .jsonl file"),
    ".npy .npz .h5 .hdf5 .mat .avro .orc .tfrecord": ("binary data", TO_JSONL),
    ".py .ipynb .js": ("source code", "put training data into a .jsonl file"),
    ".jpg .jpeg .png .gif .webp .wav .mp3 .mp4": ("a picture or a recording", "text is trained"),
    ".lz4 .lzma .z .br .sz": ("packed in a way that is not read", "pack it as .gz or .zst"),
}


def other_type(name: str) -> str:
    """Return what a file is that is not taken, by its name, and how to convert it."""
    lower = name.lower()
    for suffixes, (what, how) in OTHERS.items():
        if lower.endswith(tuple(suffixes.split())):
            return f"{PurePath(lower).suffix} is {what}: {how}. Files are read as {TAKEN}."
    return f"Files of this type are not read. Types: {TAKEN}."
