"""Where a request comes into vLLM: its steering is checked, or the request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_vllm.shelf import SECTION, shelf_of
from steerable_vllm.terms import ARGUMENT, CHECKED, Term, sent_terms, written

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from steerable_vllm.shelf import Shelf


def admitted(config: VllmConfig, params: Any, arguments: Mapping[str, Any]) -> Any:
    """Return a request's parameters with its steering checked.

    Args:
        config: Of this vLLM.
        params: As they came.
        arguments: What else came with the request.

    Raises:
        VLLMValidationError: It cannot be steered so; vLLM answers with 400.
    """
    extra = getattr(params, "extra_args", None)
    _check_draw(params)
    if not extra or not {ARGUMENT, CHECKED} & extra.keys():
        return params
    try:
        if CHECKED in extra:
            raise InvalidInputError(f"{CHECKED!r} is no argument of a request: leave it out")
        if arguments.get("resumable"):
            raise InvalidInputError("a prompt that comes in pieces cannot be steered")
        terms = _checked(_steerable(config), extra[ARGUMENT])
    except SteerableError as error:
        raise _refused(f"steering: {error}") from error
    params = params.clone()
    params.extra_args = {name: value for name, value in extra.items() if name != ARGUMENT}
    if terms:
        params.extra_args[CHECKED] = written(terms)
    return params


def check_beam_search(extra: Mapping[str, Any] | None) -> None:
    """Refuse a beam search that is to be steered: vLLM makes its requests without extra arguments.

    Raises:
        VLLMValidationError: It asks for steering.
    """
    if ARGUMENT in (extra or {}):
        raise _refused("steering: a beam search cannot be steered; leave use_beam_search out")


def _check_draw(params: Any) -> None:
    """Refuse what ends vLLM 0.32 on a CPU, with all that is under way, whoever asks for it."""
    from vllm.platforms import current_platform

    seeded = getattr(params, "seed", None) is not None and params.temperature > 0
    if seeded and current_platform.is_cpu():
        raise _refused("vLLM cannot draw by a seed on a CPU: leave the seed or temperature out")


def _refused(message: str) -> Exception:
    """Return the error that vLLM answers with 400."""
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError(message)


def _checked(shelf: Shelf, text: object) -> list[Term]:
    return [Term.of(term) for term in shelf.steering(sent_terms(text)).active_terms]


def _steerable(config: VllmConfig) -> Shelf:
    """Return the vectors of a vLLM whose model can be steered.

    Raises:
        InvalidInputError: It has none, or the model is of another family.
    """
    from steerable_vllm.plugin import FAMILIES

    shelf = shelf_of(config)
    if shelf is None:
        raise InvalidInputError(
            "this vLLM has no vectors: start it with --additional-config '{\""
            f'{SECTION}": {{"vectors": "folder"}}}}\''
        )
    kind = config.model_config.architecture
    if kind not in FAMILIES:
        raise InvalidInputError(f"{kind} is not among what is steered: {', '.join(FAMILIES)}")
    return shelf
