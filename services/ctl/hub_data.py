"""Downloads a split of a data set from the hub: what it is is shown first, its size is bounded."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.ctl.hub_split import BY_HAND, HubSource, files_of_split
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import count_of, size_of
from shared.errors import DuramenError, NotFound, UsageError
from shared.foreign_text import one_line

MOST_HUB_BYTES = 20 << 30
MOST_FILES = 500
LEFT_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class HubFile:
    """A file of a split: `path` at the hub, `name` under which it is submitted, size in bytes."""

    path: str
    name: str
    size: int


@dataclass(frozen=True)
class HubSplit:
    """A split at one commit, with what its card says of its licence."""

    source: HubSource
    commit: str
    config: str | None
    licence: str
    files: list[HubFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def origin(self) -> str:
        """Return where the rows come from, for the description of the job."""
        at = f"hf:{self.source.name}" + (f"/{self.config}" if self.config else "")
        return f"{at}:{self.source.split} at {self.commit[:12]}, licence {self.licence}"[:500]

    def lines(self) -> list[str]:
        """Return what is about to be downloaded and submitted, for people."""
        files = count_of(len(self.files), "file")
        return [self.origin, f"{files}, {size_of(self.size)}: {one_line(self.files[0].path)} …"]


def hub_token(config: CtlSettings) -> str | None:
    """Return the token in the file that the settings name; None leaves it to the hub's library."""
    path = config.hub_token_file
    return (path.read_text().strip() or None) if path and path.is_file() else None


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the hub's library raises where nobody answers.

    One is of the library for HTTP that it uses, which is not ours in all its versions.
    """
    from huggingface_hub.errors import HfHubHTTPError

    of_http = (e for e in HfHubHTTPError.__mro__ if e.__name__ == "HTTPError")
    return OSError, ValueError, *(e for e in of_http if issubclass(e, Exception))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's library raises into one line with the next step."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DuramenError(
            f"{name} is only for those who have accepted its terms.",
            next_step=f"accept them at {page}, set HF_TOKEN, then submit it again",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"The hub has no data set {name}, or it is private.",
            next_step="check the name; if it is private, set HF_TOKEN to a token that may read it",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            step = f"look at {page}, and set HF_TOKEN to a token that may read it"
            raise DuramenError(f"The hub refuses {name} ({status}).", next_step=step) from error
        raise DuramenError(f"The hub refused {name}: {status}.", next_step=BY_HAND) from error
    except transport_errors() as error:
        why = str(error).partition("\n")[0][:200]
        raise DuramenError(
            f"{name} cannot be downloaded, because the hub cannot be reached: {why}",
            next_step=BY_HAND,
        ) from error


def split_at_hub(source: HubSource, token: str | None) -> HubSplit:
    """Return what a split consists of. Raises NotFound, UsageError, DuramenError."""
    from huggingface_hub import HfApi

    with hub_errors(source.name):
        info = HfApi(token=token).dataset_info(source.name, files_metadata=True)
    card: dict[str, Any] = dict(vars(info.card_data)) if info.card_data else {}
    sizes = {each.rfilename: each.size for each in info.siblings or []}
    config, paths = files_of_split(source, card, sizes)
    if any(sizes[path] is None for path in paths) or info.sha is None:
        raise DuramenError(f"The hub does not say how large {source.name} is.", next_step=BY_HAND)
    files = [
        HubFile(path, source.file_name(config, path, n, len(paths)), sizes[path] or 0)
        for n, path in enumerate(paths)
    ]
    found = HubSplit(source, info.sha, config, licence_of(card), files)
    refuse_large(found)
    return found


def licence_of(card: dict[str, Any]) -> str:
    """Return the licence that the card names."""
    said = card.get("license") or "not stated"
    named = str(card.get("license_name") or "")
    text = ", ".join(map(str, said)) if isinstance(said, list) else str(said)
    return one_line(named if text == "other" and named else text)[:100]


def refuse_large(split: HubSplit) -> None:
    """Raise UsageError for a split that is too large to be passed on."""
    free = shutil.disk_usage(tempfile.gettempdir()).free - LEFT_FREE_BYTES
    most = min(MOST_HUB_BYTES, max(free, 0))
    if split.size > most or len(split.files) > MOST_FILES:
        files = count_of(len(split.files), "file")
        raise UsageError(
            f"{split.source.name} is too large: {files}, {size_of(split.size)}; the limits are "
            f"{MOST_FILES} files and {size_of(most)} (20 GiB, or what this disk has left).",
            next_step=BY_HAND,
        )


def each_file(split: HubSplit, token: str | None, use: Callable[[HubFile, Path], None]) -> None:
    """Download one file after the other, and hand each over under a path of this machine."""
    from huggingface_hub import hf_hub_download

    for file in split.files:
        with tempfile.TemporaryDirectory(prefix="duramen-hub-") as folder:
            with hub_errors(split.source.name):
                found = hf_hub_download(
                    split.source.name,
                    file.path,
                    repo_type="dataset",
                    revision=split.commit,
                    cache_dir=folder,
                    token=token,
                )
            path = Path(found).resolve()
            if not path.is_relative_to(Path(folder).resolve()):
                raise DuramenError(f"The hub's file {one_line(file.path)} has an unsafe name.")
            if path.stat().st_size != file.size:
                raise DuramenError(
                    f"{one_line(file.path)} has {path.stat().st_size} bytes, not {file.size} as "
                    "the hub said.",
                    next_step="submit it again",
                )
            use(file, path)
