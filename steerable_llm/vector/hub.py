"""Vectors on the Hugging Face Hub, named like paths: `hub:organisation/name@revision`.

A repository holds one vector, always under the same file name, so that a vector that was loaded
once is found in the local cache without a network. The revision is a commit, tag or branch; a
commit pins the vector for good. Beside the vector lie its card, as README, and the card's pictures.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from steerable_llm.errors import HubError, InvalidInputError, SteerableError
from steerable_llm.files import read_text

if TYPE_CHECKING:
    from steerable_llm.vector.vector import SteeringVector

PREFIX = "hub:"
VECTOR_FILE = "vector.safetensors"
_TOKEN = re.compile(r"hf_\w+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)")


def local_file(path: str | os.PathLike[str], token: str | None = None) -> Path:
    """Return a path as it is, or where a vector on the Hub lies after its download.

    Args:
        path: A path, or `hub:organisation/name`, with `@revision` or without.
        token: Of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

    Raises:
        InvalidInputError: What follows `hub:` is no repository.
        HubError: It cannot be downloaded.
    """
    if not is_on_hub(path):
        return Path(path)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    text = _text(path)
    repo, _, revision = text.removeprefix(PREFIX).partition("@")
    if repo.count("/") != 1 or text.endswith("@"):
        raise InvalidInputError(
            f"{text!r} names no vector on the Hub: write hub:organisation/name, or "
            "hub:organisation/name@revision"
        )
    with hub_errors(f"load {text}"):
        # A commit is never another one later.
        pinned = _COMMIT.fullmatch(revision) is not None
        kept = pinned and isinstance(
            try_to_load_from_cache(repo, VECTOR_FILE, revision=revision), str
        )
        return Path(
            hf_hub_download(
                repo,
                VECTOR_FILE,
                revision=revision or None,
                token=token,
                library_name="steerable-llm",
                local_files_only=kept or not hub_answers(),
            )
        )


def hub_answers() -> bool:
    """Whether the Hub answers at all; its library tries for a minute before it says so."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return True  # the library says at once that it may not ask
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        if not _unreached(error):
            raise
        return False
    return True


def is_on_hub(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the name of a vector on the Hub."""
    return _text(path).startswith(PREFIX)


def refuse_to_write(path: str | os.PathLike[str]) -> None:
    """Make sure that a path that is to be written is one of this machine.

    Raises:
        InvalidInputError: It names a vector on the Hub.
    """
    if is_on_hub(path):
        raise InvalidInputError(
            f"{_text(path)} lies on the Hub and is not written in place: name a local file (--out) "
            "and upload it with `steerable push`"
        )


def push_to_hub(
    vector: SteeringVector,
    repo_id: str,
    *,
    card: str | os.PathLike[str] | None = None,
    private: bool = True,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a vector with its card and the card's pictures, in one commit.

    The repository is made if it is not there. It is private unless asked otherwise, since a card
    quotes questions of the evaluation, which may be a customer's.

    Args:
        vector: What to upload.
        repo_id: "organisation/name".
        card: The report of an evaluation (.md), whose pictures lie beside it; without one the
            README says what the vector knows of itself.
        private: Whether the repository is to be private. An existing public one is refused then.
        message: Of the commit.
        token: Of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

    Returns:
        `hub:organisation/name@commit`, which `SteeringVector.load` and every command read.

    Raises:
        InvalidInputError: The name has no organisation, the card is missing, or a picture of it.
        HubError: The Hub cannot be reached, or refuses; nothing was committed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if repo_id.count("/") != 1:
        raise InvalidInputError(
            f"{repo_id!r} names no repository: write organisation/name (or your user name)"
        )
    text, pictures = _card(vector, repo_id, card)
    with tempfile.TemporaryDirectory() as folder:
        content = vector.save(Path(folder) / VECTOR_FILE).read_bytes()
    files = {VECTOR_FILE: content, "README.md": text.encode(), **pictures}
    api = HfApi(library_name="steerable-llm")
    with hub_errors(f"push to {repo_id}"):
        if not hub_answers():
            raise HubError(
                f"cannot push to {repo_id}: the Hub cannot be reached; check the network and "
                "HF_ENDPOINT"
            )
        api.create_repo(repo_id, private=private, exist_ok=True, token=token)
        if private and not api.repo_info(repo_id, token=token).private:
            raise HubError(
                f"cannot push to {repo_id}: the repository is public already; pass private=False "
                "(--public) to publish the vector, or name another repository"
            )
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message=message or f"Steering vector {vector.name}",
            token=token,
        )
    return f"{PREFIX}{repo_id}@{commit.oid}"


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the Hub's library raises into one line. The line never has a token in it.

    Args:
        what: What was tried, such as "load hub:a/b".

    Raises:
        HubError: In place of an error of the Hub or of the network.
    """
    try:
        yield
    except SteerableError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise HubError(f"cannot {what}: {reason}") from error


def _reason(error: Exception) -> str | None:
    """Why the Hub did not do what it was asked; None for an error of another kind."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it; unset it, or use a local file"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            return _reason(error.__cause__)
        return (
            "the Hub cannot be reached, and the vector is not in the local cache; check the "
            "network, HF_ENDPOINT and HF_HUB_OFFLINE"
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token; run `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated; ask for access on its page, then log in (`hf auth login`)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; name a commit, a tag or a branch of it"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {VECTOR_FILE}; `steerable push` makes such repositories"
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            return (
                f"the Hub refuses ({status}): there is no such repository, or the token has no "
                "right to this; run `hf auth login` or set HF_TOKEN to one that has"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                "there is no such repository, or it is private and you are not logged in; check "
                "the name, or run `hf auth login`"
            )
        return f"the Hub answers with status {status}; try again later"
    if isinstance(error, ValueError | RuntimeError | OSError):
        # No message is known to have a token in it; none that ever does is to be printed.
        return _TOKEN.sub("hf_***", " ".join(str(error).split()))[:300]
    if _unreached(error):
        return (
            f"the Hub cannot be reached ({type(error).__name__}); check the network and HF_ENDPOINT"
        )
    return None


def _text(path: str | os.PathLike[str]) -> str:
    return path.as_posix() if isinstance(path, PurePath) else os.fspath(path)


def _card(
    vector: SteeringVector, repo_id: str, card: str | os.PathLike[str] | None
) -> tuple[str, dict[str, bytes]]:
    """The README with the Hub's metadata in front, and the pictures that it shows."""
    if card is None:
        return _front_matter(vector) + _short_card(vector, repo_id), {}
    path = Path(card)
    if not path.is_file():
        raise InvalidInputError(
            f"there is no card {path}: name the report of an evaluation, or leave it out"
        )
    text = read_text(path)
    pictures = {}
    for link in dict.fromkeys(_PICTURE.findall(text)):
        if "://" in link:
            continue
        name = unquote(link)
        if name in (VECTOR_FILE, "README.md"):
            raise InvalidInputError(
                f"the card {path} shows {name!r} as a picture, which would take the place of the "
                "vector or of the card: name another file"
            )
        # Only files beside the card: a card may not draw others along with it.
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InvalidInputError(
                f"the card {path} shows {name!r}, which does not lie beside it: put it there"
            )
        pictures[name] = (path.parent / name).read_bytes()
    if not text.startswith("---\n"):
        text = _front_matter(vector) + text
    return text, pictures


def _front_matter(vector: SteeringVector) -> str:
    from huggingface_hub import ModelCardData

    model_id = vector.fingerprint.model_id
    # A folder is no id, and the bundled model is in this package alone.
    on_the_hub = (
        re.fullmatch(r"[\w.-]+/[\w.-]+", model_id)
        and not Path(model_id).exists()
        and not model_id.startswith("steerable-llm/")
    )
    data = ModelCardData(
        library_name="steerable-llm",
        tags=["steering-vector", "activation-steering"],
        base_model=model_id if on_the_hub else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _images(vector: SteeringVector) -> str:
    """Tell, of a vector that was built from images, which share of what was selected they are."""
    share = vector.provenance.facts.get("image_share")
    if not isinstance(share, float):
        return ""
    return f"\n| Selected positions in images | {100 * share:.0f} % |"


def _short_card(vector: SteeringVector, repo_id: str) -> str:
    calibration = vector.calibration
    strength = (
        "none: the vector is not calibrated"
        if calibration is None
        else f"{calibration.strength:+g} ({calibration.unit}), scope {calibration.scope}"
    )
    return f"""# Steering vector `{vector.name}`

No evaluation came with this vector, so nothing here says what it does or what it costs.

| | |
|---|---|
| Model | `{vector.fingerprint.short}` |
| Vector fingerprint | `{vector.fingerprint_id}` |
| Blocks | {", ".join(map(str, vector.layers))} |
| Method | {vector.provenance.method or "unknown"} |{_images(vector)}
| Strength | {strength} |

```python
from steerable_llm import SteeringVector

vector = SteeringVector.load("{PREFIX}{repo_id}")
```
"""


def _unreached(error: Exception) -> bool:
    # The library's HTTP client differs between its releases; its errors share this name.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
