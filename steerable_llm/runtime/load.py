"""Reading a model with its tokenizer and processor, and telling which model it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.runtime.blocks import hidden_size, text_config
from steerable_llm.runtime.gguf_model import (
    SUFFIX,
    dequantised,
    finish,
    gguf_hint,
    gguf_name,
    gguf_place,
    read_once,
)
from steerable_llm.runtime.merged_lora import find_lora
from steerable_llm.vector.fingerprint import ModelFingerprint, weights_hash
from steerable_llm.vector.hub import hub_answers

# Facts of a configuration that say where or how it was stored, not what it computes.
NOT_IDENTITY = (
    "_name_or_path", "_model_name_or_path", "transformers_version", "torch_dtype", "dtype",
    "use_cache", "architectures", "quantization_config", "_attn_implementation",
)  # fmt: skip


def fingerprint_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    num_layers: int,
    model_id: str,
    revision: str | None = None,
    weights: str | None = None,
) -> ModelFingerprint:
    """Fingerprint a loaded model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        num_layers: Number of decoder blocks.
        model_id: Hub id or path, for people to read.
        revision: Commit or tag, for people to read.
        weights: Their hash, where another process holds them; default is that of the model's.
    """
    return ModelFingerprint(
        model_id=model_id,
        revision=revision,
        architecture=type(model).__name__,
        hidden_size=hidden_size(model),
        num_layers=num_layers,
        config_hash=_digest(_config_facts(model)),
        weights_hash=weights or weights_hash(model),
        tokenizer_hash=_digest(
            {
                "vocabulary": sorted(tokenizer.get_vocab().items()),
                "special": sorted(
                    zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
                ),
            }
        ),
        template_hash=_digest(tokenizer.chat_template),
    )


def _config_facts(model: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = text_config(model).to_dict()
    return {name: value for name, value in facts.items() if name not in NOT_IDENTITY}


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


# What models without a declared limit (ALiBi models such as Bloom) are held to, in tokens.
DEFAULT_CONTEXT_WINDOW = 2048


class Loaded(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        model: The weights.
        tokenizer: Its tokenizer.
        processor: Only where the model reads images.
        name: Hub id or path, for people to read.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    processor: Any
    name: str


def load_pretrained(
    source: str | os.PathLike[str] | None,
    *,
    gguf_file: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
    **options: Any,
) -> Loaded:
    """Load a causal or vision-language model, its tokenizer and, for the latter, its processor.

    Where the processor cannot be loaded, the model reads text, and a warning says so.

    Args:
        source: A folder, a Hub id or a GGUF file; of a model, or of a LoRA to merge into its base.
        gguf_file: A GGUF file within the source, or a path of its own.
        base: The model that a LoRA belongs to, in place of the one that its configuration names.
        revision: Commit, tag or branch.
        subfolder: Where in the source the files lie.
        token: For the Hub.
        cache_dir: Where downloads are kept.
        local_files_only: Download nothing.
        trust_remote_code: Run Python code that the checkpoint brings.
        **options: For the model's `from_pretrained`; those that are None are left out.

    Raises:
        InvalidInputError: There is no such model, its files cannot be read, or an option is
            unknown.
        MissingExtraError: A package that it needs is not installed.
    """
    dtype = options.get("dtype")
    known = dtype == "auto" or isinstance(getattr(torch, str(dtype), None), torch.dtype)
    if isinstance(dtype, str) and not known:
        raise InvalidInputError(f"unknown dtype {dtype!r}: give one such as 'bfloat16', or 'auto'")
    place, file = gguf_place(
        None if source is None else os.fspath(source),
        None if gguf_file is None else os.fspath(gguf_file),
        subfolder or "",
    )
    shared: dict[str, Any] = {
        "token": token,
        "cache_dir": cache_dir,
        # Without the Hub, what was downloaded before is all there is.
        "local_files_only": local_files_only or not (Path(place).exists() or hub_answers()),
    }
    # A GGUF file's name says where it lies; not all that reads it would look into a subfolder.
    hub = {**shared, "revision": revision, "subfolder": "" if file else subfolder or ""}
    lora = None if file else find_lora(place, hub)
    if lora is None:
        if base is not None:
            raise InvalidInputError(
                f"base goes with a LoRA, and {place!r} has no adapter_config.json that can be read:"
                " check the name, or leave base out"
            )
        given = {name: value for name, value in options.items() if value is not None}
        return _load(place, file, hub, trust_remote_code, given)
    under = load_pretrained(
        lora.base_model(base),
        revision=lora.base_revision if base is None else None,
        trust_remote_code=trust_remote_code,
        **shared,
        **options,
    )
    own = lora.tokenizer()
    model = lora.merged_into(under.model, 0 if own is None else len(own))
    return under._replace(model=model, tokenizer=own or under.tokenizer, name=place)


def _load(
    source: str,
    gguf_file: str | None,
    hub: Mapping[str, Any],
    trust_remote_code: bool,
    given: Mapping[str, Any],
) -> Loaded:
    """Load a model that is one, from a folder or repository."""
    place = {**hub, "trust_remote_code": trust_remote_code}
    name = source
    with ExitStack() as stack:
        if gguf_file is not None:
            place["gguf_file"], name = gguf_file, gguf_name(source, gguf_file)
            given = {"quantization_config": dequantised(), **given}
            stack.enter_context(read_once())
        stack.enter_context(_one_line(name, given))
        tokenizer = AutoTokenizer.from_pretrained(source, **place)
        config = AutoConfig.from_pretrained(source, **place)
        reads_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        kind: Any = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        told = {**given, **place, "output_loading_info": True}
        model, found = kind.from_pretrained(source, **told)
        # transformers would fill these with random numbers, and log it.
        if found["missing_keys"] and not getattr(model, "is_quantized", False):
            lacking = sorted(found["missing_keys"])
            raise ValueError(f"it lacks {len(lacking)} of the weights, such as {lacking[0]}")
        if gguf_file is not None:
            finish(model, tokenizer, str(cached_file(source, gguf_file, **hub)), name)
    processor = _processor(source, place) if reads_images else None
    return Loaded(model, getattr(processor, "tokenizer", tokenizer), processor, name)


# What errors of transformers hold, and how to mend it where that is not to give another model.
_MENDS = {
    "trust_remote_code=True": "look through that code, and run it with trust_remote_code=True",
    "not a valid model identifier": "check the name, and give token= if the model is private",
    "gated repo": "ask for access on its page, and give token= or log in with `hf auth login`",
    "attn_implementation=": "leave attn_implementation out, or give one that this model has",
    "out of memory": "give dtype='bfloat16', a quantization_config, or device_map='auto'",
    "CUDA": "leave device_map out, or install a torch that knows the device",
}
_BROKEN = "the file is cut short, or of a kind that cannot be read: fetch it again, or take another"
# Broken GGUF files fail in any of these ways; other files tell their state.
_WHILE_PARSING = (ValueError, IndexError, KeyError, struct.error)
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@contextmanager
def _one_line(source: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Turn what goes wrong inside transformers into one line that says what to do.

    Raises:
        InvalidInputError: There is no such model, or no such option.
        MissingExtraError: A package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"cannot load a model from {source!r} ({_first_line(error)}): install what it names"
        ) from error
    except TypeError as error:
        unexpected = _UNEXPECTED.search(str(error))
        if unexpected is None or unexpected[1] not in given:
            raise
        raise InvalidInputError(_misspelt(unexpected[1])) from error
    except (OSError, RuntimeError, AssertionError, SafetensorError, *_WHILE_PARSING) as error:
        parsing = source.lower().endswith(SUFFIX) and isinstance(error, _WHILE_PARSING)
        mends = [mend for sign, mend in _MENDS.items() if sign in str(error)]
        mend = next(iter(mends), None) or (_BROKEN if parsing else gguf_hint(source))
        raise InvalidInputError(
            f"cannot load a model from {source!r} ({_first_line(error)}): "
            + (mend or "give a folder that holds config.json, weights and tokenizer, or a Hub id")
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _misspelt(name: str) -> str:
    """Say that no model takes an option, and which one is meant."""
    documented = re.findall(r"^ +(\w+) \(`", PreTrainedModel.from_pretrained.__doc__ or "", re.M)
    near = get_close_matches(name, {*documented, "attn_implementation"}, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "give what its from_pretrained takes"
    return f"{name!r} in model_kwargs is no argument that transformers or this model knows; {hint}"


def _processor(source: str, place: Mapping[str, Any]) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(source, **place)
        # Without the file of an image processor, the tokenizer comes back in its place.
        if getattr(processor, "image_processor", None) is not None:
            return processor
        why = "the checkpoint brings none"
    except Exception as error:  # each family's processor fails in a way of its own
        why = _first_line(error)
    warnings.warn(
        f"no image processor for {source!r} ({why}): messages with images will be refused",
        UserWarning,
        stacklevel=5,
    )
    return None


def context_window_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens a model can hold: the smaller of what it and its tokenizer declare."""
    declared = getattr(text_config(model), "max_position_embeddings", None)
    # Tokenizers without a limit declare an astronomically large one.
    limits = [x for x in (declared, tokenizer.model_max_length) if x and x < 10**9]
    return int(min(limits, default=DEFAULT_CONTEXT_WINDOW))


def end_ids_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, end_of_turn: int | None
) -> frozenset[int]:
    """Return the tokens that end an answer, by checkpoint, tokenizer and chat template."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    declared = configured if isinstance(configured, list) else [configured]
    ends = {*declared, tokenizer.eos_token_id, end_of_turn}
    return frozenset(int(end) for end in ends if end is not None)
