"""The tokenizer in a version whose lineage has a chat template of its own: the base's files with
that template, so that transformers applies what the adapter was trained with.

A pure function of the ledger: the base is named by its root, the template stands in the lineage.
"""

from services.vault import bases
from services.vault.copies import Copies, Source
from shared.store import layout

FOLDER = "tokenizer/"
TEMPLATE = f"{FOLDER}chat_template.jinja"
FILES = {  # of a base: what AutoTokenizer reads, but its own template
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
}


def sources(copies: Copies, base_root: str) -> dict[str, Source]:
    """By path inside the version, where the base's files come from. Raises ObjectMissing."""
    found = {}
    for path, sha256 in bases.read_sums(copies, base_root)[1].items():
        if path in FILES:
            origins = copies.precious(layout.base_file(base_root, path))
            found[FOLDER + path] = Source(sha256, bases.origin_size(origins), *origins)
    return found
