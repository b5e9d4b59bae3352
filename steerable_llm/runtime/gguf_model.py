"""Language models in GGUF files, the format of llama.cpp, with their weights dequantised.

transformers reads the configuration, the tokenizer and the weights out of such a file. What it does
several times over, or leaves as it would be for a model that only answers, is put right here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import transformers
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from steerable_llm.errors import InvalidInputError, MissingExtraError

SUFFIX = ".gguf"

# Vocabularies learnt on digits that stand alone; the names are llama.cpp's `tokenizer.ggml.pre`.
# transformers (5.23) knows none of them and splits as GPT-2 does, which makes other tokens of the
# white space before a number: of "\n\n1" one for each line break, in place of one for both.
_LONE_DIGITS = frozenset(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
)
_PRE = "tokenizer.ggml.pre"
# Where a file says which tokens end an answer.
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
# Two models may be loaded at once, but what is put into place for it is the library's own.
_LOADING = threading.Lock()


def gguf_place(
    source: str | None, gguf_file: str | None, subfolder: str = ""
) -> tuple[str, str | None]:
    """Tell the folder or repository, and the file within it.

    Args:
        source: A folder, a Hub id, the path of a GGUF file, or `organisation/repository/FILE.gguf`.
        gguf_file: A file within it, or a path of its own; None where `source` says it all.
        subfolder: Where in the folder the file lies.

    Returns:
        The folder or Hub id, and the path of the GGUF file in it; None for another kind of model.

    Raises:
        InvalidInputError: Nothing to load, a file that is not there, or two that contradict.
    """
    if gguf_file is None:
        if source is None:
            raise InvalidInputError(
                "nothing to load: give a folder, a Hub id, or gguf_file='/path/to/model.gguf'"
            )
        if not source.lower().endswith(SUFFIX) or Path(source).is_dir():
            return source, None
        organisation, _, rest = source.partition("/")
        repository, _, file = rest.partition("/")
        if organisation and file and not Path(source).exists() and not Path(organisation).exists():
            return f"{organisation}/{repository}", file
        return gguf_place(None, source)
    path = Path(gguf_file)
    if source is None or path.is_absolute():
        if not path.is_file():
            raise InvalidInputError(f"there is no GGUF file {gguf_file}: check the path")
        if source is not None and Path(source).resolve() not in path.resolve().parents:
            raise InvalidInputError(
                f"gguf_file is {gguf_file}, which does not lie in {source!r}: a GGUF file holds "
                "configuration, weights and tokenizer, so give it alone"
            )
        return str(path.parent), path.name
    folder = Path(source)
    within = (Path(subfolder) / gguf_file).as_posix()
    if folder.is_dir() and not (folder / within).is_file():
        raise InvalidInputError(f"there is no {within} in {source}; {_files_in(folder)}")
    return source, within


def _files_in(folder: Path) -> str:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob(f"*{SUFFIX}"))
    return f"GGUF files there: {', '.join(files) or 'none'}"


def gguf_hint(source: str) -> str | None:
    """Return how to name the GGUF file of a folder that holds such files alone, if it does."""
    folder = Path(source)
    files = sorted(path.name for path in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return f"name one of its GGUF files, as in gguf_file={files[0]!r}" if files else None


def _require_packages() -> None:
    for name in ("gguf", "accelerate"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"models in GGUF files need the package {name}, which is not installed: "
                "pip install 'steerable-llm[gguf]'"
            )


def dequantised() -> Any:
    """Return the setting of transformers that turns every weight into floats; None before 5.20.

    Without it, newer versions keep the weights of some families packed where a kernel is to be had:
    no gradient goes through them, and nothing can be learnt from the model. What was unpacked would
    also pass for a quantised model, which can be neither saved nor moved.
    """
    setting = getattr(transformers, "GgufConfig", None)
    return None if setting is None else setting(dequantize=True)


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once while a model is loaded.

    It parses the file anew for the tokenizer, for the configuration, and for the weights, and makes
    the table of tensor names once per module, which together is most of the loading time.

    Raises:
        MissingExtraError: A package that transformers needs for it is not installed.
    """
    _require_packages()
    gguf = import_module("gguf")
    parsed: dict[str, dict[str, Any]] = {}

    class Once(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        def __init__(self, path: Any, mode: str = "r") -> None:
            if str(path) not in parsed:
                super().__init__(path, mode)
                parsed[str(path)] = self.__dict__
            self.__dict__.update(parsed[str(path)])

        def __setattr__(self, name: str, value: Any) -> None:
            # Slices of a mapped file are several times slower than those of the plain array.
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    with ExitStack() as stack:
        stack.enter_context(_LOADING)
        stack.enter_context(patch.object(gguf, "GGUFReader", Once))
        names = cache(gguf.get_tensor_name_map)
        stack.enter_context(patch.object(gguf, "get_tensor_name_map", names))
        # Its bar goes by no setting; that of transformers can be switched off.
        loader = import_module("transformers.modeling_gguf_pytorch_utils")
        stack.enter_context(patch.object(loader, "tqdm", logging.tqdm, create=True))
        yield


def finish(model: Any, tokenizer: PreTrainedTokenizerBase, path: str, name: str) -> None:
    """Make of a loaded model what its file says; to be called within `read_once`.

    The tokenizer has no tokens but those of the file and splits digits as its vocabulary was
    learnt, and every token that ends an answer is known to end it.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        path: The GGUF file.
        name: What the model is called.
    """
    fields = import_module("gguf").GGUFReader(path).fields
    told = {key: field.contents() for key, field in fields.items() if key in (_PRE, *_ENDS)}
    _drop_tokens_from(tokenizer, len(fields["tokenizer.ggml.tokens"].data))
    if told.get(_PRE) in _LONE_DIGITS:
        split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = split
    ends = sorted({int(told[key]) for key in _ENDS if key in told})
    if len(ends) > 1:
        model.generation_config.eos_token_id = ends
    # The whole of it, so that a LoRA trained on the model finds the model again.
    model.config.name_or_path = model.name_or_path = name


def _drop_tokens_from(tokenizer: Any, size: int) -> None:
    """Take back the tokens that transformers adds to vocabularies that lack them.

    It starts from a tokenizer of GPT-2 or Llama, which brings `<|endoftext|>` or `<unk>` along: a
    token beyond the embedding, on which a document that holds its text would break the model.
    """
    if len(tokenizer) > size:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def gguf_name(source: str, gguf_file: str) -> str:
    """Return what the model is called: the path of its file, or its place on the Hub."""
    return f"{source.rstrip('/')}/{gguf_file}"
