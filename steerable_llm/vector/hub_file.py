"""Vector files on the Hugging Face Hub, named like paths: `hub:organisation/name@revision`.

A repository holds one vector, always under the same file name, so that a vector that was loaded
once is found in the local cache without a network. The revision is a commit, tag or branch; a
commit pins the vector for good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from steerable_llm.errors import HubError, InvalidInputError, SteerableError

PREFIX = "hub:"
VECTOR_FILE = "vector.safetensors"
_TOKEN = re.compile(r"hf_\w+")


def local_file(path: str | os.PathLike[str], token: str | None = None) -> Path:
    """Return a path as it is, or where a vector on the Hub lies after its download.

    Args:
        path: a path, or `hub:organisation/name`, with `@revision` or without.
        token: of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

    Raises:
        InvalidInputError: what follows `hub:` is no repository.
        HubError: it cannot be downloaded.
    """
    if not is_on_hub(path):
        return Path(path)
    from huggingface_hub import hf_hub_download

    text = _text(path)
    repo, _, revision = text.removeprefix(PREFIX).partition("@")
    if repo.count("/") != 1 or text.endswith("@"):
        raise InvalidInputError(
            f"{text!r} names no vector on the Hub: write hub:organisation/name, or "
            "hub:organisation/name@revision"
        )
    with hub_errors(f"load {text}"):
        return Path(
            hf_hub_download(
                repo,
                VECTOR_FILE,
                revision=revision or None,
                token=token,
                library_name="steerable-llm",
            )
        )


def is_on_hub(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the name of a vector on the Hub."""
    return _text(path).startswith(PREFIX)


def refuse_to_write(path: str | os.PathLike[str]) -> None:
    """Make sure that a path that is to be written is one of this machine.

    Raises:
        InvalidInputError: it names a vector on the Hub.
    """
    if is_on_hub(path):
        raise InvalidInputError(
            f"{_text(path)} lies on the Hub and is not written in place: name a local file (--out) "
            "and upload it with `steerable push`"
        )


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the Hub's library raises into one line. The line never has a token in it.

    Args:
        what: what was tried, such as "load hub:a/b".

    Raises:
        HubError: in place of an error of the Hub or of the network.
    """
    from huggingface_hub import errors

    try:
        yield
    except SteerableError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise HubError(
            f"cannot {what}: HF_HUB_OFFLINE forbids it; unset it, or use a local file"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        status = error.__cause__
        reason = (
            _refusal(status)
            if isinstance(status, errors.HfHubHTTPError)
            else "the Hub cannot be reached, and the vector is not in the local cache; check the "
            "network, HF_ENDPOINT and HF_HUB_OFFLINE"
        )
        raise HubError(f"cannot {what}: {reason}") from error
    except errors.LocalTokenNotFoundError as error:
        raise HubError(f"cannot {what}: no token; run `hf auth login` or set HF_TOKEN") from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"cannot {what}: {_refusal(error)}") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise HubError(f"cannot {what}: {_line(error)}") from error
    except Exception as error:
        # The library's HTTP client differs between its releases; its errors share this name.
        if not any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            raise
        raise HubError(
            f"cannot {what}: the Hub cannot be reached ({type(error).__name__}); check the network "
            "and HF_ENDPOINT"
        ) from error


def _refusal(error: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated; ask for access on its page, then log in (`hf auth login`)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; name a commit, a tag or a branch of it"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {VECTOR_FILE}; `steerable push` makes such repositories"
    if status in (401, 403):
        return (
            f"the Hub refuses ({status}): there is no such repository, or the token has no right "
            "to this; run `hf auth login` or set HF_TOKEN to one that has"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private and you are not logged in; check the "
            "name, or run `hf auth login`"
        )
    return f"the Hub answers with status {status}; try again later"


def _text(path: str | os.PathLike[str]) -> str:
    return path.as_posix() if isinstance(path, PurePath) else os.fspath(path)


def _line(error: Exception) -> str:
    # No message is known to have a token in it; none that ever does is to be printed.
    return _TOKEN.sub("hf_***", " ".join(str(error).split()))[:300]
