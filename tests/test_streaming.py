import threading
from itertools import chain

import pytest

from steerable_llm.answer import decode as decoding
from steerable_llm.answer import decode as streaming
from steerable_llm.answer.decode import stream_chunks
from steerable_llm.answer.places import Places
from steerable_llm.answer.request import GenerationChunk
from steerable_llm.chat.answer_text import INCOMPLETE
from steerable_llm.errors import InvalidInputError, PromptTooLongError

PROMPT = "The capital of France is what?"
PLACES = Places(2, "stream")


def workers():
    """Threads that are still at work; those without any end by themselves."""
    threads = [thread for thread in threading.enumerate() if thread.name == "stream"]
    for thread in threads:
        thread.join(10)
    return [thread for thread in threads if thread.is_alive()]


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


def test_closing_the_stream_stops_the_work_within_one_token(tiny_llm, monkeypatch):
    passes = []
    allowed = threading.Semaphore(2)

    class Opening(threading.Event):
        def set(self):
            super().set()
            allowed.release(1000)  # from here on only the cancellation can stop the model

    def count(module, inputs):
        allowed.acquire()
        passes.append(1)

    monkeypatch.setattr(streaming, "Event", Opening)
    with tiny_llm.blocks[0].register_forward_pre_hook(count):
        stream = tiny_llm.stream(PROMPT, max_new_tokens=200)
        first, second = next(stream), next(stream)  # the third token is not allowed yet
        stream.close()
    assert None not in (first.token_id, second.token_id)
    assert len(passes) <= 3
    assert workers() == []


def test_dropping_the_stream_ends_its_thread(tiny_llm):
    stream = tiny_llm.stream(PROMPT, max_new_tokens=200)
    next(stream)
    del stream
    assert workers() == []


def test_an_unused_stream_starts_nothing(tiny_llm):
    stream = tiny_llm.stream(PROMPT)
    assert workers() == []
    stream.close()


def test_an_exception_in_the_worker_reaches_the_caller(tiny_llm):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    with tiny_llm.blocks[1].register_forward_pre_hook(fail):
        stream = tiny_llm.stream(PROMPT)
        with pytest.raises(RuntimeError, match="out of memory"):
            next(stream)
    assert workers() == []
    assert list(tiny_llm.stream(PROMPT, max_new_tokens=2))[-1].final is not None


def test_an_exception_in_the_loop_stops_the_work(tiny_llm, tiny_vector):
    def consume():
        for _ in tiny_llm.stream(PROMPT, tiny_vector.steer(0.3), max_new_tokens=200):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        consume()
    assert workers() == []
    assert all(not block._forward_hooks for block in tiny_llm.blocks)


def test_bad_input_raises_before_the_first_chunk_is_asked_for(tiny_llm):
    with pytest.raises(PromptTooLongError):
        tiny_llm.stream("word " * 400)
    with pytest.raises(InvalidInputError):
        tiny_llm.stream(PROMPT, temperature=-1)


def test_no_chunk_has_half_a_character(tiny_llm, tiny_tokenizer, monkeypatch):
    text = "Grüße 👋🌍 你好"
    script = [*tiny_tokenizer(text, add_special_tokens=False).input_ids, 2]
    force(tiny_llm, monkeypatch, script)
    chunks = list(tiny_llm.stream(PROMPT, max_new_tokens=60))
    assert "".join(chunk.text for chunk in chunks) == text
    assert not any(INCOMPLETE in chunk.text for chunk in chunks)
    assert len(chunks) == len(script) + 1
    assert any(chunk.text == "" for chunk in chunks[:-1])


def test_a_stop_text_across_tokens_never_shows(tiny_llm, tiny_tokenizer, monkeypatch):
    parts = [
        tiny_tokenizer(part, add_special_tokens=False).input_ids
        for part in ("Paris", " E", "N", "D", " more")
    ]
    script = list(chain.from_iterable(parts))
    force(tiny_llm, monkeypatch, script)
    chunks = list(tiny_llm.stream(PROMPT, max_new_tokens=len(script), stop=["END"]))
    assert "".join(chunk.text for chunk in chunks) == "Paris "
    assert chunks[-1].final.finish_reason == "stop"
    assert chunks[-1].final.token_ids == tuple(chain.from_iterable(parts[:-1]))


def force(llm, monkeypatch, script):
    """Make the model say the scripted tokens: each is by far the likeliest in its turn."""

    class Scripted(decoding.RowSampler):
        turn = 0

        def __call__(self, scores):
            scores = super().__call__(scores)
            scores[:, script[min(self.turn, len(script) - 1)]] = 1e9
            self.turn += 1
            return scores

    monkeypatch.setattr(decoding, "RowSampler", Scripted)


def test_chunks_come_in_order_and_the_answer_last():
    def work(put, cancelled):
        for i in range(5):
            put(GenerationChunk(str(i), i))
        return "the answer"

    chunks = list(stream_chunks(PLACES, work))
    assert [chunk.text for chunk in chunks] == ["0", "1", "2", "3", "4", ""]
    assert chunks[-1].final == "the answer"


def test_work_that_ends_by_itself_leaves_the_callers_event_for_other_work():
    shared = threading.Event()

    def fail(put, cancelled):
        raise ValueError("no")

    assert list(stream_chunks(PLACES, lambda *_: "the answer", shared))
    with pytest.raises(ValueError, match="no"):
        list(stream_chunks(PLACES, fail, shared))
    assert not shared.is_set()

    def wait(put, cancelled):
        put(GenerationChunk("a", 1))
        cancelled.wait(timeout=60)

    stream = stream_chunks(PLACES, wait, shared)
    next(stream)
    stream.close()
    assert shared.is_set()


def test_cancelled_work_is_told_so():
    told = []

    def work(put, cancelled):
        put(GenerationChunk("a", 1))
        told.append(cancelled.wait(timeout=60))

    stream = stream_chunks(PLACES, work)
    next(stream)
    stream.close()
    assert told == [True]
