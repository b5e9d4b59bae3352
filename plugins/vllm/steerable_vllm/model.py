"""vLLM's models with steered layers, and how they learn what a pass steers.

The layers of these families return `(hidden, residual)`, and the residual stream is their sum. A
steered token leaves with all of it in the residual and nothing in the hidden part, which the next
norm adds up to the same; any other token leaves as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.model_executor.models.gemma import GemmaForCausalLM
from vllm.model_executor.models.gemma2 import Gemma2ForCausalLM
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.utils import PPMissingLayer
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.steering import steer_hidden
from steerable_vllm.passes import Scheduled, SteeringTables
from steerable_vllm.shelf import SECTION, shelf_of
from steerable_vllm.terms import Term, checked_terms

if TYPE_CHECKING:
    from vllm.config import VllmConfig

#: What a pass may have beside the tokens that are scheduled: padding to a graph's size.
_PADDING = 1024


class SteeredLayer:
    """What a layer's class is mixed with."""

    steering_tables: SteeringTables
    steering_index: int

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run the layer, then the steering equation on the residual stream."""
        hidden, residual = super().forward(*args, **kwargs)  # type: ignore[misc]
        stream = hidden + residual
        delta, on, keep = self.steering_tables.delta(self.steering_index, stream)
        steered = steer_hidden(stream[None], delta[None], keep[None])[0]
        return (
            torch.where(on[:, None], torch.zeros_like(hidden), hidden),
            torch.where(on[:, None], steered, residual),
        )


class SteeredState(DefaultModelState):
    """Tells the tables of each pass: V2 of the model runner asks the model for this class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Know no request yet."""
        super().__init__(*args, **kwargs)
        self._requests: dict[str, tuple[tuple[Term, ...], int]] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Take down what a request is steered with."""
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        terms = checked_terms(params.extra_args if params else None)
        self._requests[new_req_data.req_id] = terms, new_req_data.prompt_len

    def remove_request(self, req_id: str) -> None:
        """Forget it."""
        super().remove_request(req_id)
        self._requests.pop(req_id, None)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Lay out the pass, then do what any model does."""
        lay_out(
            self.model,
            (
                (*self._requests.get(name, ((), 1)), int(start), int(count))
                for name, start, count in zip(
                    input_batch.req_ids,
                    input_batch.num_computed_tokens_np,
                    input_batch.num_scheduled_tokens,
                    strict=False,
                )
            ),
        )
        prepared: dict[str, Any] = super().prepare_inputs(input_batch, req_states)
        return prepared


def lay_out(model: nn.Module, requests: Iterable[tuple[tuple[Term, ...], int, int, int]]) -> None:
    """Tell a model's tables of the next pass.

    Args:
        model: One of this module's, or any other, which is left alone.
        requests: Terms, prompt length, first position and number of positions of each.
    """
    tables = getattr(model, "steering_tables", None)
    if tables is not None:
        tables.lay_out([Scheduled(*request) for request in requests])


class Steered:
    """What a model's class is mixed with."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> None:
        """Build the model, and steer its layers if there are vectors.

        Raises:
            InvalidInputError: vLLM is set up in a way in which tokens could not be told apart.
        """
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]
        shelf = shelf_of(vllm_config)
        if shelf is None:
            return
        _check_setup(vllm_config)
        layers = self.model.layers  # type: ignore[attr-defined]
        scheduler = vllm_config.scheduler_config
        tables = SteeringTables(
            shelf,
            len(layers),
            vllm_config.model_config.get_hidden_size(),
            scheduler.max_num_batched_tokens + _PADDING,
            scheduler.max_num_seqs,
        )
        # Compiled graphs are kept on disk by a hash of the configuration.
        vllm_config.additional_config[f"{SECTION}_tables"] = tables.form
        self.steering_tables = tables
        for index, layer in enumerate(layers):
            if not isinstance(layer, PPMissingLayer):
                kind = type(layer)
                layer.__class__ = type(f"Steered{kind.__name__}", (SteeredLayer, kind), {})
                # Not as a submodule: the tables have one owner.
                object.__setattr__(layer, "steering_tables", tables)
                layer.steering_index = index

    def get_model_state_cls(self) -> type[SteeredState]:
        """Return what the V2 model runner keeps of the requests."""
        return SteeredState


def _check_setup(config: VllmConfig) -> None:
    parallel = config.parallel_config
    for wrong, what in (
        (config.speculative_config is not None, "speculative decoding"),
        (parallel.use_ubatching, "batches that are cut in two (ubatches)"),
        (parallel.prefill_context_parallel_size > 1, "prompts that are cut among devices"),
    ):
        if wrong:
            raise InvalidInputError(
                f"steering does not go with {what}: turn that off, or leave "
                f"{SECTION!r} out of --additional-config"
            )


class SteeredLlama(Steered, LlamaForCausalLM):
    """Llama, and what is built like it."""


class SteeredMistral(Steered, MistralForCausalLM):
    """Mistral."""


class SteeredQwen2(Steered, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5."""


class SteeredQwen3(Steered, Qwen3ForCausalLM):
    """Qwen3, dense."""


class SteeredGemma(Steered, GemmaForCausalLM):
    """The first Gemma."""


class SteeredGemma2(Steered, Gemma2ForCausalLM):
    """Gemma 2."""


class SteeredGemma3(Steered, Gemma3ForCausalLM):
    """Gemma 3, text alone."""
