"""Vectors on the Hugging Face Hub: the file, its card as README, and the card's pictures."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from steerable_llm.errors import HubError, InvalidInputError
from steerable_llm.files import read_text
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.hub_file import PREFIX, VECTOR_FILE, hub_errors, local_file
from steerable_llm.vector.vector import HasFingerprint, SteeringVector

_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)")
_TAGS = ["steering-vector", "activation-steering"]


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
        vector: what to upload.
        repo_id: "organisation/name".
        card: the report of an evaluation (.md), whose pictures lie beside it; without one the
            README says what the vector knows of itself.
        private: whether the repository is to be private. An existing public one is refused then.
        message: of the commit.
        token: of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

    Returns:
        `hub:organisation/name@commit`, which `SteeringVector.load` and every command read.

    Raises:
        InvalidInputError: the name has no organisation, the card is missing, or a picture of it.
        HubError: the Hub cannot be reached, or refuses; nothing was committed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if repo_id.count("/") != 1:
        raise InvalidInputError(
            f"{repo_id!r} names no repository: write organisation/name (or your user name)"
        )
    text, pictures = _card(vector, repo_id, card)
    files: dict[str, bytes] = {
        VECTOR_FILE: _content(vector),
        "README.md": text.encode(),
        **pictures,
    }
    api = HfApi(library_name="steerable-llm")
    with hub_errors(f"push to {repo_id}"):
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


def from_hub(
    repo_id: str,
    model: ModelFingerprint | HasFingerprint | None = None,
    *,
    revision: str | None = None,
    force: bool = False,
    token: str | None = None,
) -> SteeringVector:
    """Load a vector from the Hub; `SteeringVector.load("hub:organisation/name")` does the same.

    Args:
        repo_id: "organisation/name".
        model: when given, the vector must fit it.
        revision: a commit, tag or branch; a commit pins the vector for good.
        force: accept another model of the same shape.
        token: of the Hub; default is the one that `hf auth login` or HF_TOKEN has set.

    Raises:
        HubError: it cannot be downloaded.
        VectorFileError: what was downloaded is no whole and unchanged vector file.
        ModelMismatchError: the vector belongs to another model.
    """
    pinned = f"@{revision}" if revision else ""
    return SteeringVector.load(local_file(f"{PREFIX}{repo_id}{pinned}", token), model, force)


def _content(vector: SteeringVector) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return vector.save(Path(folder) / VECTOR_FILE).read_bytes()


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
        tags=list(_TAGS),
        base_model=model_id if on_the_hub else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


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
| Method | {vector.provenance.method or "unknown"} |
| Strength | {strength} |

```python
from steerable_llm import SteeringVector

vector = SteeringVector.load("{PREFIX}{repo_id}")
```
"""
