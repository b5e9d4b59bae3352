import threading
import time
from itertools import chain

import pytest

from steerable_llm.chat.answer_text import INCOMPLETE
from steerable_llm.errors import InvalidInputError, PromptTooLongError

PROMPT = "The capital of France is what?"


def at_work(llm):
    """What the engine is still at work on, when it has had the time to notice."""
    for _ in range(1000):
        if not llm.engine.running + llm.engine.waiting:
            break
        time.sleep(0.01)
    return llm.engine.running + llm.engine.waiting


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [None, ["e", "o"]])
def test_the_stream_joined_is_what_generate_gives(tiny_llm, tiny_vector, seed, stop):
    settings = {
        "steering": tiny_vector.steer(0.3), "max_new_tokens": 30, "temperature": 1.5,
        "top_k": 50, "seed": seed, "stop": stop,
    }  # fmt: skip
    whole = tiny_llm.generate(PROMPT, **settings)
    chunks = list(tiny_llm.stream(PROMPT, **settings))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].final == whole
    assert [chunk.token_id for chunk in chunks[:-1]] == list(whole.token_ids)
    assert all(chunk.final is None for chunk in chunks[:-1])


def test_closing_the_stream_stops_the_work_within_one_token(tiny_llm):
    passes = []
    allowed = threading.Semaphore(2)

    def count(module, inputs):
        allowed.acquire()
        passes.append(1)

    with tiny_llm.blocks[0].register_forward_pre_hook(count):
        stream = tiny_llm.stream(PROMPT, max_new_tokens=200)
        first, second = next(stream), next(stream)  # the third token is not allowed yet
        stream.close()
        allowed.release(1000)  # from here on only the cancellation can stop the model
        assert at_work(tiny_llm) == 0
    assert None not in (first.token_id, second.token_id)
    assert len(passes) <= 3


def test_dropping_the_stream_ends_its_thread(tiny_llm):
    stream = tiny_llm.stream(PROMPT, max_new_tokens=200)
    next(stream)
    del stream
    assert at_work(tiny_llm) == 0


def test_an_unused_stream_starts_nothing(tiny_llm):
    stream = tiny_llm.stream(PROMPT)
    assert at_work(tiny_llm) == 0
    stream.close()


def test_an_exception_in_the_worker_reaches_the_caller(tiny_llm):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    with tiny_llm.blocks[1].register_forward_pre_hook(fail):
        stream = tiny_llm.stream(PROMPT)
        with pytest.raises(RuntimeError, match="out of memory"):
            next(stream)
    assert at_work(tiny_llm) == 0
    assert list(tiny_llm.stream(PROMPT, max_new_tokens=2))[-1].final is not None


def test_an_exception_in_the_loop_stops_the_work(tiny_llm, tiny_vector):
    def consume():
        for _ in tiny_llm.stream(PROMPT, tiny_vector.steer(0.3), max_new_tokens=200):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        consume()
    assert at_work(tiny_llm) == 0
    assert all(not block._forward_hooks for block in tiny_llm.blocks)


def test_bad_input_raises_before_the_first_chunk_is_asked_for(tiny_llm):
    with pytest.raises(PromptTooLongError):
        tiny_llm.stream("word " * 400)
    with pytest.raises(InvalidInputError):
        tiny_llm.stream(PROMPT, temperature=-1)


def test_no_chunk_has_half_a_character(tiny_llm, tiny_tokenizer, force):
    text = "Grüße 👋🌍 你好"
    script = [*tiny_tokenizer(text, add_special_tokens=False).input_ids, 2]
    force(script)
    chunks = list(tiny_llm.stream(PROMPT, max_new_tokens=60))
    assert "".join(chunk.text for chunk in chunks) == text
    assert not any(INCOMPLETE in chunk.text for chunk in chunks)
    assert len(chunks) == len(script) + 1
    assert any(chunk.text == "" for chunk in chunks[:-1])


def test_a_stop_text_across_tokens_never_shows(tiny_llm, tiny_tokenizer, force):
    parts = [
        tiny_tokenizer(part, add_special_tokens=False).input_ids
        for part in ("Paris", " E", "N", "D", " more")
    ]
    script = list(chain.from_iterable(parts))
    force(script)
    chunks = list(tiny_llm.stream(PROMPT, max_new_tokens=len(script), stop=["END"]))
    assert "".join(chunk.text for chunk in chunks) == "Paris "
    assert chunks[-1].final.finish_reason == "stop"
    assert chunks[-1].final.token_ids == tuple(chain.from_iterable(parts[:-1]))


@pytest.fixture
def force(tiny_llm):
    """Makes the model say given tokens: each is by far the likeliest in its turn."""
    hooks = []

    def follow(script):
        left = iter([*script, *[script[-1]] * 100])

        def say(module, inputs, scores):
            scores = scores.clone()
            scores[..., next(left)] = 1e9
            return scores

        hooks.append(tiny_llm.model.get_output_embeddings().register_forward_hook(say))

    yield follow
    for hook in hooks:
        hook.remove()
