"""The names of sidecars: `data.yaml` beside `data.jsonl`, as the inbox and `duramen submit` see it.

A Mac writes ä as two characters and Linux as one, so names are compared in Unicode's form NFC. The
suffix may be written in any case; the stem may not, since `Data.jsonl` and `data.jsonl` are two
files.
"""

import unicodedata
from collections.abc import Iterable, Sequence

SIDECAR_SUFFIXES = (".yaml", ".yml")
DATA_SUFFIXES = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md"),
    *(".parquet", ".arrow", ".feather"),
)
PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2", ".zip")


def is_sidecar(name: str) -> bool:
    """Return whether a name ends as a sidecar's does."""
    return name.lower().endswith(SIDECAR_SUFFIXES)


def stem_of(name: str) -> str:
    """Return a data file's name without what says how it is packed: `data` of `data.jsonl.gz`."""
    plain = without_suffix(name, PACKED_SUFFIXES)
    stem = without_suffix(plain, DATA_SUFFIXES)
    return stem if stem != plain or name.lower().endswith(".zip") else name


def without_suffix(name: str, suffixes: Sequence[str]) -> str:
    found = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(found)]


def stem_of_sidecar(name: str) -> str:
    """Return the name without its suffix, in NFC: what a data file has to be called."""
    return normal(name[: name.rindex(".")])


def sidecars_among(names: Iterable[str], stems: Sequence[str]) -> list[str]:
    """Return which of `names` are sidecars of a file with these stems, the one that counts first.

    An earlier stem goes before a later one, `.yaml` before `.yml`, lower case before upper case.
    """
    wanted = [normal(stem) for stem in stems]

    def rank(name: str) -> tuple[int, int, bool, str]:
        suffix = name[name.rindex(".") :]
        at = wanted.index(stem_of_sidecar(name))
        return at, SIDECAR_SUFFIXES.index(suffix.lower()), suffix != suffix.lower(), name

    return sorted((n for n in names if is_sidecar(n) and stem_of_sidecar(n) in wanted), key=rank)


def normal(name: str) -> str:
    """Return a name in NFC, so that two ways to write the same characters are equal."""
    return unicodedata.normalize("NFC", name)
