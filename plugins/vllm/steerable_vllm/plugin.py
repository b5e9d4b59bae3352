"""What vLLM calls in each of its processes, before it looks for a model.

Two things have no supported hook in vLLM 0.32 and are wrapped: where a request comes in (to check
its steering, and to refuse it with 400), and what blocks of the prefix cache are keyed by. So is,
for the V1 model runner alone, where a pass is prepared; V2 has a hook for that; and in the API
server where a beam search begins, which takes no arguments of a request along. A release in which
one of them has moved is refused at start, as steering would else be left out in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from steerable_llm.errors import SteerableError

#: Architecture to the class that takes its place.
FAMILIES = {
    "LlamaForCausalLM": "SteeredLlama",
    "MistralForCausalLM": "SteeredMistral",
    "Qwen2ForCausalLM": "SteeredQwen2",
    "Qwen3ForCausalLM": "SteeredQwen3",
    "GemmaForCausalLM": "SteeredGemma",
    "Gemma2ForCausalLM": "SteeredGemma2",
    "Gemma3ForCausalLM": "SteeredGemma3",
}


def register() -> None:
    """Put steered models in the place of vLLM's, and wrap what has no hook; once per process.

    Raises:
        SteerableError: This release of vLLM has other insides.
    """
    from vllm import ModelRegistry
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.input_processor import InputProcessor

    for architecture, name in FAMILIES.items():
        ModelRegistry.register_model(architecture, f"steerable_vllm.model:{name}")
    _wrap(InputProcessor, "process_inputs", ("request_id", "prompt", "params"), _checked)
    _wrap(
        kv_cache_utils,
        "_gen_prompt_embeds_extra_hash_keys",
        ("request", "start_token_idx", "end_token_idx"),
        _keyed,
    )
    _wrap_v1_runner()


def wrap_requests() -> None:
    """Have beam searches refused that ask for steering; in the API server.

    Raises:
        SteerableError: This release of vLLM has other insides.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for request in (ChatCompletionRequest, CompletionRequest):
        _wrap(request, "to_beam_search_params", ("max_tokens",), _unsearched)


def _wrap_v1_runner() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    parameters = ("scheduler_output", "num_scheduled_tokens")
    _wrap(GPUModelRunner, "_prepare_inputs", parameters, _laid_out)


def _wrap(
    owner: Any,
    name: str,
    parameters: tuple[str, ...],
    around: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Wrap a function of a class or module, if it still takes what the wrapper knows."""
    original = getattr(owner, name, None)
    if getattr(original, "_steered", False):
        return
    known = () if original is None else inspect.signature(original).parameters
    taken = tuple(parameter for parameter in known if parameter != "self")
    if taken[: len(parameters)] != parameters:
        import vllm

        raise SteerableError(
            f"vLLM {vllm.__version__} has no {owner.__name__}.{name}({', '.join(parameters)}), "
            "which steering needs: install the release that steerable-vllm names"
        )
    made = wraps(original)(around(original))  # type: ignore[arg-type]
    made._steered = True  # type: ignore[attr-defined]
    setattr(owner, name, made)


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_inputs(
        self: Any, request_id: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        from steerable_vllm.admission import admitted

        params = admitted(self.vllm_config, params, kwargs)
        return original(self, request_id, prompt, params, *args, **kwargs)

    return process_inputs


def _unsearched(original: Callable[..., Any]) -> Callable[..., Any]:
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        from steerable_vllm.admission import check_beam_search

        check_beam_search(self.vllm_xargs)
        return original(self, *args, **kwargs)

    return to_beam_search_params


def _keyed(original: Callable[..., Any]) -> Callable[..., Any]:
    from steerable_vllm.terms import block_keys, checked_terms

    def extra_keys(request: Any, start_token_idx: int, end_token_idx: int) -> list[Any]:
        keys: list[Any] = original(request, start_token_idx, end_token_idx)
        params = request.sampling_params
        terms = checked_terms(params.extra_args if params else None)
        if not terms:
            return keys
        own = block_keys(terms, request.num_prompt_tokens, start_token_idx, end_token_idx)
        return [*keys, *own]

    return extra_keys


def _laid_out(original: Callable[..., Any]) -> Callable[..., Any]:
    from steerable_vllm.terms import checked_terms

    def prepare_inputs(
        self: Any, scheduler_output: Any, num_scheduled_tokens: Any, *args: Any, **kwargs: Any
    ) -> Any:
        prepared = original(self, scheduler_output, num_scheduled_tokens, *args, **kwargs)
        batch = self.input_batch
        scheduled = []
        for place, name in enumerate(batch.req_ids):
            state = self.requests[name]
            params = state.sampling_params
            scheduled.append(
                (
                    checked_terms(params.extra_args if params else None),
                    state.num_prompt_tokens,
                    int(batch.num_computed_tokens_cpu[place]),
                    int(num_scheduled_tokens[place]),
                )
            )
        from steerable_vllm.model import lay_out

        lay_out(self.get_model(), scheduled)
        return prepared

    return prepare_inputs
