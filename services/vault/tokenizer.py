"""The tokenizer in a version whose lineage has a chat template of its own.

It consists of the base's files with that template, so that transformers applies what the adapter
was trained with. It is a pure function of the ledger, which names the base by its root and holds
the template.
"""

from services.vault import bases
from services.vault.copies import Copies, Source
from shared.store import layout

FOLDER = "tokenizer/"
TEMPLATE = f"{FOLDER}chat_template.jinja"
FILES = {  # a base's files that AutoTokenizer reads, without its own template
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
}


def sources(copies: Copies, base_root: str) -> dict[str, Source]:
    """Return where each tokenizer file of the base is copied from, by its path in the version.

    Raises ObjectMissing.
    """
    found = {}
    for path, sha256 in bases.read_sums(copies, base_root)[1].items():
        if path in FILES:
            origins = copies.precious(layout.base_file(base_root, path))
            found[FOLDER + path] = Source(sha256, bases.origin_size(origins), *origins)
    return found
