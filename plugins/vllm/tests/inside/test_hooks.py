"""What hangs on vLLM's insides: run by vLLM's own Python."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.registry import ModelRegistry
from vllm.v1.core import kv_cache_utils
from vllm.v1.worker.gpu.model_states import init_model_state
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.vector.steering import steer_hidden
from steerable_vllm import plugin
from steerable_vllm.passes import SteeringTables
from steerable_vllm.shelf import Shelf
from steerable_vllm.terms import written
from tests.test_terms import LAYERS, WIDTH, V, terms

plugin.register()
from steerable_vllm.model import (  # noqa: E402
    Steered,
    SteeredLayer,
    SteeredState,
    _check_setup,
)


class Plain(nn.Module):
    """A layer as vLLM has it."""

    def forward(self, hidden, residual):
        return hidden * 2, residual + 1


class SteeredPlain(SteeredLayer, Plain):
    pass


def tables() -> SteeringTables:
    return SteeringTables(Shelf([V]), LAYERS, WIDTH, 16, 4)


def extra(steering) -> SimpleNamespace:
    return SimpleNamespace(extra_args={"steering.checked": written(terms(steering))})


def test_a_layer_steers_the_sum_and_leaves_other_tokens_bit_for_bit() -> None:
    layer = SteeredPlain()
    layer.steering_tables, layer.steering_index = tables(), 1
    model = SimpleNamespace(steering_tables=layer.steering_tables)
    from steerable_vllm.model import lay_out

    lay_out(model, [((), 3, 0, 2), (terms(V.steer(0.5, scope="all")), 3, 0, 3)])
    hidden, residual = torch.randn(5, WIDTH), torch.randn(5, WIDTH)
    plain = Plain()(hidden, residual)
    found = layer(hidden, residual)
    assert torch.equal(found[0][:2], plain[0][:2])
    assert torch.equal(found[1][:2], plain[1][:2])
    [term] = V.steer(0.5).terms
    wanted = steer_hidden((plain[0] + plain[1])[None], term.delta(1))[0]
    torch.testing.assert_close((found[0] + found[1])[2:], wanted[2:])


def test_the_v2_runner_is_given_the_state_that_fills_the_tables(monkeypatch) -> None:
    """By the hook that it has for this: the class that the model names."""
    made = []
    monkeypatch.setattr(SteeredState, "__init__", lambda _, *given: made.append(given))
    model = Steered.__new__(Steered)
    config = SimpleNamespace(model_config=SimpleNamespace(enable_prompt_embeds=False))
    state = init_model_state(config, model, None, "cpu")
    assert isinstance(state, SteeredState)
    assert made[0][1] is model


def test_the_v2_state_lays_out_each_pass_and_forgets_what_ended(monkeypatch) -> None:
    monkeypatch.setattr(DefaultModelState, "add_request", lambda *_: None)
    monkeypatch.setattr(DefaultModelState, "remove_request", lambda *_: None)
    monkeypatch.setattr(DefaultModelState, "prepare_inputs", lambda *_: {"positions": 1})
    state = SteeredState.__new__(SteeredState)
    state._requests, state.model = {}, SimpleNamespace(steering_tables=tables())
    new = SimpleNamespace(
        req_id="a", prompt_len=4, sampling_params=extra(V.steer(0.5, scope="generated"))
    )
    state.add_request(0, new)
    batch = SimpleNamespace(
        req_ids=["b", "a"],
        num_computed_tokens_np=np.array([0, 2]),
        num_scheduled_tokens=np.array([2, 4]),
    )
    assert state.prepare_inputs(batch, None) == {"positions": 1}
    assert (state.model.steering_tables.row[:6] > 0).tolist() == [False] * 3 + [True] * 3
    state.remove_request("a")
    state.prepare_inputs(batch, None)
    assert not state.model.steering_tables.row.any()


def test_a_name_that_is_used_again_is_steered_as_its_new_request(monkeypatch) -> None:
    monkeypatch.setattr(DefaultModelState, "add_request", lambda *_: None)
    monkeypatch.setattr(DefaultModelState, "prepare_inputs", lambda *_: {})
    state = SteeredState.__new__(SteeredState)
    state._requests, state.model = {}, SimpleNamespace(steering_tables=tables())
    for params in (extra(V.steer(0.5, scope="all")), SimpleNamespace(extra_args=None)):
        state.add_request(0, SimpleNamespace(req_id="a", prompt_len=4, sampling_params=params))
    counts = {"num_computed_tokens_np": np.array([0]), "num_scheduled_tokens": np.array([4])}
    state.prepare_inputs(SimpleNamespace(req_ids=["a"], **counts), None)
    assert not state.model.steering_tables.row.any()


def test_a_beam_search_that_is_to_be_steered_is_refused() -> None:
    """vLLM would make its requests without the argument, and answer unsteered."""
    plugin.wrap_requests()
    asked = CompletionRequest(prompt="Hello", use_beam_search=True)
    assert asked.to_beam_search_params(4, {}).max_tokens == 4
    asked.vllm_xargs = {"steering": "v"}
    with pytest.raises(VLLMValidationError, match="beam search"):
        asked.to_beam_search_params(4, {})


def test_blocks_that_are_steered_are_hashed_apart() -> None:
    def hashes(params) -> list[bytes]:
        request = SimpleNamespace(
            block_hashes=[], num_tokens=12, mm_features=[], lora_request=None, cache_salt=None,
            prompt_embeds=None, sampling_params=params, num_prompt_tokens=9,
            all_token_ids=list(range(12)),
        )  # fmt: skip
        hasher = kv_cache_utils.get_request_block_hasher(4, lambda x: repr(x).encode())
        kv_cache_utils.NONE_HASH = b"none"
        return hasher(request)

    plain = hashes(SimpleNamespace(extra_args=None))
    generated, steered = hashes(extra(V.steer(1.0))), hashes(extra(V.steer(1.0, scope="all")))
    assert [a == b for a, b in zip(plain, generated, strict=True)] == [True, True, False]
    assert not set(plain) & set(steered)


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"speculative_config": "ngram"}, "speculative decoding"),
        ({"use_ubatching": True}, "ubatches"),
        ({"prefill_context_parallel_size": 2}, "cut among devices"),
        ({}, None),
    ],
)
def test_what_would_make_tokens_indistinct_is_refused_at_start(told, what) -> None:
    plain = {"speculative_config": None, "use_ubatching": False, "prefill_context_parallel_size": 1}
    config = SimpleNamespace(**{**plain, **told})
    config.parallel_config = config
    with pytest.raises(InvalidInputError, match=what) if what else nullcontext():
        _check_setup(config)


def test_the_models_of_all_families_are_ours() -> None:
    for architecture, name in plugin.FAMILIES.items():
        assert ModelRegistry.models[architecture].class_name == name


@pytest.mark.parametrize("other", [None, lambda _self, _output: None])
def test_a_release_with_other_insides_is_refused(other) -> None:
    owner = type("Runner", (), {"_prepare_inputs": other} if other else {})
    with pytest.raises(SteerableError, match="install the release"):
        plugin._wrap(owner, "_prepare_inputs", ("scheduler_output", "tokens"), lambda f: f)
