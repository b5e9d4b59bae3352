"""A LoRA folder as the peft library writes it, merged into its base: one model, with plain layers.

The model that a team has fine-tuned often is such a folder, without the weights of the base. A LoRA
that is compared with vectors, and that comes and goes on one model, is `runtime.lora`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from steerable_llm.errors import InvalidInputError, from_extra
from steerable_llm.json_records import plainly_parsed

_CONFIG = "adapter_config.json"
# What is downloaded of a repository that may hold checkpoints of its training as well.
_QUIETLY = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
_FILES = ("adapter_*", "*.jinja", "*token*", "vocab*", "merges*")


@dataclass(frozen=True)
class LoraFolder:
    """A folder with a LoRA, and what its configuration says of the base.

    Attributes:
        path: The folder.
        base: Hub id or path of the base model; None if it is not told.
        base_revision: Of the base.
    """

    path: Path
    base: str | None
    base_revision: str | None

    def base_model(self, given: str | os.PathLike[str] | None) -> str:
        """Return the base model: the one given, or the one that the configuration names.

        Raises:
            InvalidInputError: There is neither.
        """
        base = self.base if given is None else os.fspath(given)
        if not base or Path(base).resolve() == self.path.resolve():
            raise InvalidInputError(
                f"{self.path / _CONFIG} does not say which model the LoRA belongs to: give base="
            )
        return base

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer that was saved beside the LoRA; None if there is none."""
        if not (self.path / "tokenizer_config.json").is_file():
            return None
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.path)
        return tokenizer

    def merged_into(self, model: Any, vocabulary: int) -> Any:
        """Return the model with the LoRA's weights added to its own.

        A model in a quantised form keeps them beside its own, which could not hold them.

        Args:
            model: The base; it is changed.
            vocabulary: Tokens of the LoRA's own tokenizer; the embedding grows to them.

        Raises:
            InvalidInputError: The LoRA does not fit the model, or is of a kind without weights to
                add.
            MissingExtraError: The package peft is not installed.
        """
        peft = require_peft()
        if vocabulary > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        try:
            with quiet_peft():
                warnings.filterwarnings("error", "Found missing adapter keys")
                wrapped = peft.PeftModel.from_pretrained(model, str(self.path))
            if getattr(model, "is_quantized", False):
                return wrapped.get_base_model()
            if hasattr(wrapped, "merge_and_unload"):
                return wrapped.merge_and_unload(safe_merge=True)
        except (OSError, ValueError, KeyError, RuntimeError, UserWarning, SafetensorError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InvalidInputError(
                f"the LoRA in {self.path} does not fit its base ({'; '.join(lines[:2])}): give the "
                "model that it was trained on as base="
            ) from error
        raise InvalidInputError(
            f"{self.path} holds no LoRA but {wrapped.active_peft_config.peft_type.value}, which "
            "cannot be merged into a model: give a LoRA"
        )


def find_lora(source: str, hub: Mapping[str, Any]) -> LoraFolder | None:
    """Return the LoRA that a folder or repository holds in place of a model, if it does.

    Args:
        source: Folder or Hub id.
        hub: Revision, subfolder and the like.

    Raises:
        InvalidInputError: Its configuration cannot be read.
    """
    try:
        found = find_adapter_config_file(source, **hub)
    except (OSError, ValueError):  # whatever is wrong shows when the model is loaded
        return None
    if found is None:
        return None
    folder = Path(found).parent
    # A model in full has weights of its own; transformers adds what lies beside them.
    if cached_file(source, "config.json", **hub, **_QUIETLY) is not None:
        return None
    if not Path(source).is_dir():
        places = {
            name: hub[name] for name in ("revision", "token", "cache_dir", "local_files_only")
        }
        within = f"{hub['subfolder']}/" if hub["subfolder"] else ""
        patterns = [f"{within}{pattern}" for pattern in _FILES]
        folder = Path(snapshot_download(source, allow_patterns=patterns, **places)) / within
    try:
        config = plainly_parsed((folder / _CONFIG).read_bytes())
        return LoraFolder(folder, config["base_model_name_or_path"], config.get("revision"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{folder / _CONFIG} is no configuration of peft ({error}): save the LoRA again"
        ) from error


def require_peft() -> ModuleType:
    """Return the peft package.

    Raises:
        MissingExtraError: It is not installed.
    """
    with from_extra("lora", "LoRA needs a package that is not installed"):
        import peft
    return peft


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep back what peft warns of and nobody can mend: it asks for an attribute by an old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
