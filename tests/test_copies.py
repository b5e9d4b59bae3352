"""Copies of an adapted model: in this process they share its weights, in another it is loaded."""

import copy
import dataclasses
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from adapter_models import TOKENS, random_vector
from langchain_core.runnables import RunnableLambda

from steerable_llm.answer import origin
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError

ADAPTERS = ["as_langchain", "as_llama_index"]


@dataclasses.dataclass
class Application:
    name: str
    model: Any


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda model: model.model_copy(),
    "model_copy, deep": lambda model: model.model_copy(deep=True),
    "asdict": lambda model: dataclasses.asdict(Application("shop", model))["model"],
    "in a list": lambda model: copy.deepcopy([{"model": model}])[0]["model"],
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_shares_weights_and_vectors_and_nothing_else(
    tiny_llm: SteerableHFLLM, adapter: str, how: str
) -> None:
    steering = random_vector(tiny_llm, "a", 1).steer(0.5)
    model = getattr(tiny_llm, adapter)(step="s", max_tokens=TOKENS, steering=steering)
    made = COPIES[how](model)
    assert made is not model
    assert made.llm is model.llm
    assert (made.step, made.max_tokens, made.steering) == ("s", TOKENS, steering)
    made.max_tokens = 3
    assert model.max_tokens == TOKENS


def test_a_chain_with_what_is_bound_can_be_copied(tiny_llm: SteerableHFLLM) -> None:
    chain = RunnableLambda(str) | tiny_llm.as_langchain(max_tokens=TOKENS).bind(seed=1)
    twin = copy.deepcopy(chain)
    assert twin.invoke("Hello").content == chain.invoke("Hello").content
    assert twin.last.bound.llm is tiny_llm  # type: ignore[attr-defined]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_pickled_model_is_the_one_of_this_process_or_loaded_anew(
    adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = SteerableHFLLM.demo()
    written = pickle.dumps(getattr(llm, adapter)(step=None, max_tokens=7))
    assert len(written) < 10_000
    here = pickle.loads(written)
    assert (here.llm, here.max_tokens) == (llm, 7)

    monkeypatch.setattr(origin._OPEN, "data", {})  # as in another process
    there, another = pickle.loads(written), pickle.loads(written)
    assert there.llm is not llm
    assert there.llm is another.llm
    assert there.llm.fingerprint == llm.fingerprint
    # A twin of a twin that was never used still knows.
    assert pickle.loads(pickle.dumps(pickle.loads(written))).llm is there.llm


def test_a_pickled_binding_keeps_its_step() -> None:
    llm = SteerableHFLLM.demo()
    made = pickle.loads(pickle.dumps(llm.as_langchain().with_config(tags=["steer:x"])))
    assert (made.bound.llm, made.config["tags"]) == (llm, ["steer:x"])
    assert made.bound._around["tags"] == ["steer:x"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_model_that_was_made_here_says_that_it_does_not_travel(
    tiny_llm: SteerableHFLLM, adapter: str
) -> None:
    made = pickle.loads(pickle.dumps(getattr(tiny_llm, adapter)()))
    with pytest.raises(InvalidInputError, match="weights do not travel") as caught:
        _ = made.llm
    assert "\n" not in str(caught.value)
    with pytest.raises(AttributeError):
        _ = made.no_such_thing


def test_remembering_where_a_model_came_from_does_not_keep_it_alive() -> None:
    key = repr(SteerableHFLLM.demo(context_window=99).origin)
    gc.collect()
    assert key not in origin._OPEN
