"""What a checkpoint's own `generation_config.json` says of answers, in this package's words."""

from __future__ import annotations

import warnings
from typing import Any, cast

from steerable_llm.answer.request import GenerationRequest, GenerationSettings
from steerable_llm.errors import InvalidInputError

FROM_CHECKPOINT = "checkpoint"
"""What `generation_defaults` is given to honour the checkpoint's own."""

_AS_THEY_ARE = ("max_new_tokens", "top_p", "top_k", "min_p", "repetition_penalty")
_READ = {*_AS_THEY_ARE, "do_sample", "temperature", "stop_strings"}
# Tokens are told by the tokenizer; the others say how transformers runs, and not what it answers.
_WITHOUT_EFFECT = {
    "use_cache", "cache_implementation", "cache_config", "transformers_version", "disable_compile",
    "return_dict_in_generate", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
}  # fmt: skip
_NO_LENGTH = 20  # what transformers writes where nobody chose a length


def defaults_of(config: Any, window: int) -> GenerationSettings:
    """Return what a checkpoint's generation configuration says, where it says something.

    As in transformers, tokens are drawn only where it says `do_sample`. A length is held to half
    of the window, so that a prompt has room.

    Args:
        config: A `GenerationConfig` of transformers, or None.
        window: Tokens that the model holds.

    Raises:
        InvalidInputError: A value cannot be used.
    """
    given = {} if config is None else {k: v for k, v in config.to_dict().items() if v is not None}
    settings: dict[str, Any] = {name: given[name] for name in _AS_THEY_ARE if name in given}
    if "max_new_tokens" in settings:
        settings["max_new_tokens"] = min(settings["max_new_tokens"], max(1, window // 2))
    if given.get("do_sample"):
        settings["temperature"] = given.get("temperature", 1.0)
    if given.get("stop_strings"):
        settings["stop"] = given["stop_strings"]
    try:
        GenerationRequest("", **cast(GenerationSettings, settings))
    except InvalidInputError as error:
        raise InvalidInputError(
            f"the checkpoint's generation_config.json cannot be honoured: {error}; mend the file, "
            "or leave generation_defaults out"
        ) from error
    if left := sorted(name for name, value in given.items() if _is_left_out(name, value)):
        warnings.warn(
            "settings of the checkpoint's generation_config.json that are not honoured here: "
            + ", ".join(f"{name}={given[name]!r}" for name in left),
            UserWarning,
            stacklevel=4,
        )
    return cast(GenerationSettings, settings)


def _is_left_out(name: str, value: Any) -> bool:
    known = name in _READ or name in _WITHOUT_EFFECT or name.startswith(("_", "output_"))
    off = not value or value == 1 or (name == "max_length" and value == _NO_LENGTH)
    return not (known or off or name.endswith("_token_id"))
