"""Many requests at once on one model: each gets what it gets alone, and nothing stays behind."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import build_tiny_model
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from steerable_llm.answer.batch import Batch
from steerable_llm.answer.batching import BatchingEngine
from steerable_llm.answer.constraint import Constraint
from steerable_llm.answer.encode import asked, encode
from steerable_llm.answer.engine import Limits
from steerable_llm.answer.job import Job
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import Generation, GenerationRequest
from steerable_llm.errors import DeadlineError, EngineError, ModelMismatchError, SteerableError
from steerable_llm.runtime.joined import Reading
from steerable_llm.runtime.prefix_cache import PrefixCache
from steerable_llm.runtime.row_cache import RowCache
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import SCOPES, Steering, WeighedVectors

PASSAGE = "The shop in Lyon opens at nine. The refund period is thirty days. "
FAMILIES = ["llama", "mistral", "gemma2", "gpt2", "opt", "bloom", "phi3"]


def engine_of(llm: SteerableHFLLM, **limits: Any) -> SteerableHFLLM:
    """The same model with an engine, and so with prompts' states, of its own."""
    made = SteerableHFLLM(llm.model, llm.tokenizer, model_id=llm.model_id)
    made.engine.limits = Limits(**limits)
    return made


def steerings(llm: SteerableHFLLM, make_vector: Any) -> list[Steering]:
    """Eight of them: none, every scope, and two that meet."""
    vectors = [replace(make_vector(llm, seed), decision_tokens=2) for seed in range(3)]
    scoped = [vectors[i % 3].steer(0.3 + 0.1 * i, scope=x) for i, x in enumerate(SCOPES)]
    both = vectors[0].steer(-0.4, layers=(1,), scope="all") + vectors[1].steer(0.3)
    return [Steering.none(), *scoped, both, vectors[2].steer(-0.5, renormalise=False)]


def drawn_requests(
    llm: SteerableHFLLM, make_vector: Any, count: int, seed: int = 0
) -> list[GenerationRequest]:
    """Requests that begin alike or not, of all lengths, each with one of the steerings."""
    source, found = random.Random(seed), steerings(llm, make_vector)
    return [
        GenerationRequest(
            f"{PASSAGE * source.choice([0, 0, 1, 2])}Question {source.randrange(20)}?",
            found[i % len(found)],
            max_new_tokens=source.randint(1, 24),
        )
        for i in range(count)
    ]


def alone(llm: SteerableHFLLM, requests: list[GenerationRequest]) -> list[Generation]:
    """What each of them gets with nothing beside it and nothing before it."""
    return [llm.generate_batch([request])[0] for request in requests]


@pytest.mark.parametrize("family", FAMILIES)
def test_64_that_join_at_any_time_and_are_cancelled_at_any_time_get_what_they_get_alone(
    make_llm: Any, make_vector: Any, family: str
) -> None:
    llm = engine_of(make_llm(family), rows=16, prefill=48)
    requests = drawn_requests(llm, make_vector, 64)
    expected = alone(llm, requests)
    source = random.Random(1)
    cancelled = set(source.sample(range(64), 12))
    made: dict[int, Generation] = {}

    def ask(number: int) -> None:
        pending = llm.submit(requests[number])
        if number not in cancelled:
            made[number] = pending.result(timeout=120)
            return
        for _ in zip(range(source.randrange(4)), pending, strict=False):
            pass
        pending.cancel()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {i: answer for i, answer in enumerate(expected) if i not in cancelled}
    come_to_rest(llm)


LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], "factor": 4.0,
}  # fmt: skip


def test_a_row_for_which_rotary_embeddings_change_leaves_those_of_others_as_they_are(
    tiny_tokenizer: Any, make_vector: Any
) -> None:
    config = transformers.Phi3Config(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=3, pad_token_id=0,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=256,
        original_max_position_embeddings=64, rope_parameters=LONG_ROPE,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Phi3ForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    llm = SteerableHFLLM(model, tiny_tokenizer, model_id="long")
    llm.end_ids = frozenset()
    found = steerings(llm, make_vector)
    requests = [
        GenerationRequest(text, found[i], max_new_tokens=12, logprobs=True)
        for i, text in enumerate(["Hi", PASSAGE * 2, "When?", PASSAGE * 2 + "When?", "Why?"])
    ]
    lengths = [len(llm.encode(request.messages)) + 12 for request in requests]
    assert min(lengths) < 64 < max(lengths)
    pending = [llm.submit(request) for request in requests]
    for each, expected in zip(pending, alone(llm, requests), strict=True):
        made = each.result(timeout=60)
        assert made == expected
        for (one, *_), (other, *_) in zip(made.logprobs, expected.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_each_row_has_its_own_draws_stops_grammar_penalty_and_contrast(
    make_llm: Any, make_vector: Any
) -> None:
    llm = engine_of(make_llm("llama"))
    prompt = f"Documents:\n[1] {PASSAGE}\n\nQuestion: When does the shop open?"
    asked: list[dict[str, Any]] = [
        {"temperature": 1.2, "seed": 3},
        {"temperature": 0.7, "top_p": 0.9, "seed": 4},
        {"stop": ["e", "o"]},
        {"constraint": Constraint.json_object()},
        {"constraint": Constraint.choice(["thirty days", "nine"])},
        {"contrast": Contrast("cad", 0.8), "context": True},
        {"contrast": Contrast("adacad", 1.0), "context": True, "temperature": 1.0, "seed": 1},
        {"repetition_penalty": 1.4, "logprobs": True, "top_logprobs": 2},
        {"logit_bias": {30: 5.0}},
    ]
    steered = steerings(llm, make_vector)
    requests = [
        GenerationRequest(prompt, steered[(i + n) % 8], max_new_tokens=14, **settings)
        for i, settings in enumerate(asked)
        for n in range(2)
    ]
    expected = alone(llm, requests)
    assert [each.result() for each in [llm.submit(request) for request in requests]] == expected
    # In a batch in the calling thread as well, and where rows make room for others.
    assert llm.generate_batch(requests, batch_size=4) == expected


# Prompts' states serve later prompts, but never one that is steered otherwise.


@pytest.mark.parametrize("scope", SCOPES)
def test_states_of_a_prompt_never_reach_one_that_is_steered_otherwise(
    make_llm: Any, make_vector: Any, scope: Any
) -> None:
    llm = engine_of(make_llm("llama"))
    first, second = make_vector(llm, 1), make_vector(llm, 2)
    found = [
        first.steer(0.9, scope=scope),
        second.steer(0.9, scope=scope),
        first.steer(-0.9, scope=scope),
        first.steer(0.9, scope=scope, layers=(0,)),
        first.steer(0.9, scope=scope, renormalise=False),
        Steering.none(),
    ]
    requests = [
        GenerationRequest(f"{PASSAGE}{words}", steering, max_new_tokens=8)
        for words in ("When?", "How long?")
        for steering in [*found, *found]
    ]
    expected = alone(llm, requests)
    assert [llm.submit(request).result() for request in requests] == expected


def test_what_is_asked_again_is_read_once_and_unsteered_passages_serve_all_steps(
    make_llm: Any, make_vector: Any
) -> None:
    llm = engine_of(make_llm("llama"))
    vectors = [make_vector(llm, seed) for seed in range(3)]
    read: list[int] = []
    hook = llm.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: read.append(given[0].shape[1])
    )

    def tokens_read(steering: Steering, words: str) -> int:
        read.clear()
        llm.generate(f"{PASSAGE * 2}{words}", steering, max_new_tokens=1)
        return sum(read)

    try:
        whole = tokens_read(Steering.none(), "When?")
        assert whole == len(llm.encode(f"{PASSAGE * 2}When?"))
        rest = tokens_read(vectors[0].steer(0.5), "How long?")
        assert rest < whole / 2
        assert tokens_read(vectors[1].steer(0.5, scope="last_prompt"), "How long?") <= rest
        # This one changes the passages' states, so that it shares with its like alone.
        everywhere = vectors[2].steer(0.5, scope="all")
        assert tokens_read(everywhere, "When?") == whole
        assert tokens_read(everywhere, "How long?") < whole / 2
    finally:
        hook.remove()


def test_states_of_prompts_take_no_more_memory_than_they_may(make_llm: Any) -> None:
    llm = engine_of(make_llm("llama"), prefixes=50_000)
    kept = llm.engine._prefixes  # type: ignore[attr-defined]
    for number in range(30):
        llm.generate(f"{number} {PASSAGE}", max_new_tokens=1)
        assert kept.size == sum(each.size for each in kept._kept.values()) <= 50_000
    assert kept.size > 0


def test_states_of_prompts_are_those_of_the_weights_and_limits_at_hand(make_llm: Any) -> None:
    llm = engine_of(make_llm("llama"))
    request = GenerationRequest(PASSAGE * 2, max_new_tokens=8)
    before = llm.submit(request).result()
    weight = llm.blocks[0].mlp.down_proj.weight
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(-3.0)
        trained = llm.submit(request).result()
        assert trained == alone(llm, [request])[0] != before
        llm.engine.limits = Limits(prefixes=0)
        llm.submit(GenerationRequest("Hi", max_new_tokens=1)).result()
        assert llm.engine._prefixes.size == 0  # type: ignore[attr-defined]
    finally:
        with torch.no_grad():
            weight.copy_(old)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_states_of_prompts_are_those_of_the_adapters_at_hand(tiny_tokenizer: Any) -> None:
    model = build_tiny_model("llama", tiny_tokenizer)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=4)
    adapted = get_peft_model(model, config)
    llm = SteerableHFLLM(model, tiny_tokenizer, model_id="adapted")
    request = GenerationRequest(PASSAGE * 2, max_new_tokens=8)

    def is_as_read_anew() -> Generation:
        made = llm.submit(request).result()
        assert made == alone(llm, [request])[0]
        return made

    for parameter in model.parameters():  # as where an adapter is loaded to be used
        parameter.requires_grad_(False)
    first = is_as_read_anew()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] *= 8
    assert is_as_read_anew() != first
    adapted.base_model.disable_adapter_layers()
    assert is_as_read_anew() != first


# What goes wrong with one goes wrong with one.


def test_a_row_at_fault_fails_alone_whenever_it_fails(make_llm: Any, make_vector: Any) -> None:
    llm = engine_of(make_llm("llama"))
    requests = drawn_requests(llm, make_vector, 12)
    expected = alone(llm, requests)
    vector = make_vector(llm)
    narrow = SomebodyElses(vector, directions={layer: torch.ones(7) for layer in range(3)})
    bad = [
        # Found while its prompt is read, while a token is chosen, and in a pass of all rows.
        (GenerationRequest(PASSAGE, Steering.of(narrow, 1)), "width"),
        (GenerationRequest("Hi", logit_bias={10_000: 1.0}), "logit_bias"),
        (GenerationRequest("Hi", Faulty(vector, 4).steer(), max_new_tokens=20), "at fault"),
        # What is no number stays in its row, also when others take its place.
        (GenerationRequest("Hi", Poison(vector, 4).steer(), max_new_tokens=20), "not numbers"),
    ]
    pending = [llm.submit(request) for request in requests[:6]]
    failing = [llm.submit(request) for request, _ in bad]
    pending += [llm.submit(request) for request in requests[6:]]
    for each, (_, why) in zip(failing, bad, strict=True):
        with pytest.raises(SteerableError, match=why):
            each.result(timeout=60)
    assert [each.result(timeout=60) for each in pending] == expected
    assert llm.engine.alive


def jobs_of(llm: SteerableHFLLM, requests: list[GenerationRequest], **options: Any) -> list[Job]:
    prompts = encode(llm, requests, llm.decide(asked(requests)))
    return [Job(llm, x, Pending(x.decision, len(x.tokens)), **options) for x in prompts]


@pytest.fixture
def nothing_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with models whose states are not keys and values alone."""
    monkeypatch.setattr("steerable_llm.answer.batch.most_joined", lambda _: 0)


@pytest.mark.usefixtures("nothing_joins")
def test_a_row_at_fault_fails_alone_where_rows_cannot_join(make_llm: Any, make_vector: Any) -> None:
    llm = make_llm("llama")
    requests = drawn_requests(llm, make_vector, 4)
    requests.append(GenerationRequest("Hi", temperature=1.0, seed=3, max_new_tokens=20))
    expected = alone(llm, requests)
    faulty = Faulty(make_vector(llm), 4).steer()
    bad, *jobs = jobs_of(llm, [GenerationRequest("Hi", faulty, max_new_tokens=20), *requests])
    batch = Batch(llm, Limits(), PrefixCache(0))
    for job in (bad, *jobs):
        batch.add(job)
    while batch.jobs:
        batch.turn()
    with pytest.raises(SteerableError, match="at fault"):
        bad.pending.result()
    assert [job.pending.result() for job in jobs] == expected


@pytest.mark.usefixtures("nothing_joins")
def test_what_waits_for_its_turn_at_images_is_given_up_in_time(
    make_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(make_llm("llama"), Limits(), PrefixCache(0))
    [job] = jobs_of(make_llm("llama"), [GenerationRequest("Hi")], timeout=0)
    monkeypatch.setattr(batch, "_begin_apart", lambda: None)  # others have their turn
    batch.add(job)
    batch.turn()
    with pytest.raises(DeadlineError):
        job.pending.result(timeout=0)


class Memory:
    """Little room for keys and values: so many rows times columns at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.refused: list[str] = []
        zeros, grow = torch.Tensor.new_zeros, RowCache.prepare

        def short(tensor: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
            if len(size) == 4 and size[0] * size[2] > most:
                self.refused.append("join")
                raise MemoryError("no room")
            return zeros(tensor, *size, **options)

        def growing(cache: RowCache) -> None:
            try:
                grow(cache)
            except MemoryError:
                self.refused.append("growth")
                raise

        monkeypatch.setattr(torch.Tensor, "new_zeros", short)
        monkeypatch.setattr(RowCache, "prepare", growing)


@pytest.mark.parametrize("room", [330, 700])
def test_where_memory_is_short_some_wait_and_none_is_lost(
    make_llm: Any, make_vector: Any, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    llm = engine_of(make_llm("llama"))
    llm.end_ids = frozenset()
    prompt = f"Documents:\n[1] {PASSAGE}\n\nQuestion: When does the shop open?"
    requests = [
        replace(drawn, max_new_tokens=length)
        for drawn, length in zip(
            drawn_requests(llm, make_vector, 6), (120, 20, 64, 110, 10, 5), strict=True
        )
    ]
    contrast = Contrast("cad", 0.8)
    requests.insert(
        3, GenerationRequest(prompt, contrast=contrast, context=True, max_new_tokens=50)
    )
    requests.append(GenerationRequest("Hi", temperature=1.0, seed=3, max_new_tokens=64))
    expected = alone(llm, requests)
    jobs = jobs_of(llm, requests)
    # They are read and join little by little, so that some have no room in mid-answer.
    batch = Batch(llm, Limits(prefill=16), PrefixCache(2**20))
    memory = Memory(monkeypatch, room)
    for job in jobs:
        batch.add(job)
    while batch.jobs:
        batch.turn()
    assert [job.pending.result(timeout=0) for job in jobs] == expected
    assert {"join", "growth"} == set(memory.refused)
    assert all(not block._forward_hooks for block in llm.blocks)


def test_who_is_too_large_for_the_memory_alone_fails_alone(
    make_llm: Any, make_vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = engine_of(make_llm("llama"))
    llm.end_ids = frozenset()
    requests = [replace(r, max_new_tokens=20) for r in drawn_requests(llm, make_vector, 4)]
    expected = alone(llm, requests)
    Memory(monkeypatch, 230)
    pending = [llm.submit(request) for request in requests]
    large = llm.submit(GenerationRequest(PASSAGE, max_new_tokens=200))
    with pytest.raises(MemoryError):
        large.result(timeout=60)
    assert [each.result(timeout=60) for each in pending] == expected
    assert llm.engine.alive


def test_a_prompt_for_which_there_is_no_memory_is_read_when_another_has_ended(
    make_llm: Any, make_vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = engine_of(make_llm("llama"))
    llm.end_ids = frozenset()
    [first, *others] = drawn_requests(llm, make_vector, 4)
    requests = [replace(first, max_new_tokens=30), *others]
    expected = alone(llm, requests)
    read, refused = Reading.read, []

    def short(reading: Reading, columns: int) -> Any:
        if pending[0].times.first is not None and not pending[0].done:
            refused.append(reading)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return read(reading, columns)

    monkeypatch.setattr(Reading, "read", short)
    pending = [llm.submit(requests[0])]
    next(chunks := iter(pending[0]))
    pending += [llm.submit(request) for request in requests[1:]]
    list(chunks)
    assert [each.result(timeout=60) for each in pending] == expected
    assert refused


def test_a_long_row_takes_no_room_for_short_ones_that_have_left() -> None:
    cache = RowCache()

    def join(length: int) -> None:
        cache.join([(torch.ones(1, length, 8), torch.ones(1, length, 8))])

    for _ in range(64):
        join(4)
    for _ in range(63):
        cache.leave(0)
    join(1000)
    assert cache.size <= 2 * 2 * (1000 + 64) * 8 * 4  # keys and values, two rows, float32


def test_a_process_ends_in_order_while_answers_are_under_way() -> None:
    script = """
from steerable_llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest

llm = SteerableHFLLM.demo()
llm.end_ids = frozenset()
pending = [llm.submit(GenerationRequest("Hi", max_new_tokens=200)) for _ in range(8)]
next(iter(pending[0]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


class SomebodyElses:
    """A vector with some things of its own."""

    def __init__(self, vector: Any, **own: Any) -> None:
        self._vector = vector
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vector, name)


class Faulty(SomebodyElses):
    """A vector that looks at the states, and fails when it has looked a few times."""

    def __init__(self, vector: Any, times: int) -> None:
        super().__init__(vector, application=replace(vector.application, rule="weigh"))
        self.left = times

    def steer(self) -> Steering:
        return Steering.of(self, 0.5, layers=(1,))

    @property
    def weighed(self) -> Any:
        self.left -= 1
        return {1: self.added() if self.left < 0 else _weighed(0.0)}

    def added(self) -> WeighedVectors:
        raise ModelMismatchError("the vector is at fault")


class Poison(Faulty):
    """One that then adds what is no number."""

    def added(self) -> WeighedVectors:
        return _weighed(float("nan"))


def _weighed(value: float) -> WeighedVectors:
    return WeighedVectors(torch.zeros(1, 32), torch.zeros(1), torch.full((1, 32), value))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_death_of_the_engine_fails_all_that_is_under_way_and_is_told(
    make_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = engine_of(make_llm("llama"), rows=2)
    llm.end_ids = frozenset()
    death, turn, turns = MemoryError("no room"), Batch.turn, []

    def die_soon(batch: Batch) -> None:
        turns.append(1)
        if len(turns) > 3:
            raise death
        turn(batch)

    monkeypatch.setattr(Batch, "turn", die_soon)
    pending = [llm.submit(GenerationRequest(f"{i}?", max_new_tokens=200)) for i in range(4)]
    for each in pending:
        with pytest.raises(EngineError, match="no room") as told:
            each.result(timeout=60)
        assert told.value.__cause__ is death
    assert not llm.engine.alive
    assert llm.engine.running + llm.engine.waiting == 0
    with pytest.raises(EngineError):
        llm.submit(GenerationRequest("Hi"))
    assert all(not block._forward_hooks for block in llm.blocks)
    monkeypatch.undo()
    llm.engine = BatchingEngine(llm)
    assert llm.generate("Hi", max_new_tokens=2).usage.completion_tokens == 2


def test_not_more_runs_together_than_the_limits_allow(make_llm: Any) -> None:
    llm = engine_of(make_llm("llama"), rows=3, tokens=10_000)
    requests = [GenerationRequest(f"Question {i}?", max_new_tokens=12) for i in range(9)]
    rows: list[int] = []
    hook = llm.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: rows.append(len(given[0]))
    )
    try:
        for each in [llm.submit(request) for request in requests]:
            each.result(timeout=60)
        assert max(rows) == 3
        rows.clear()
        longest = len(llm.encode(requests[0].messages)) + 12
        llm.engine.limits = Limits(rows=9, tokens=2 * longest)
        for each in [llm.submit(request) for request in requests]:
            each.result(timeout=60)
        assert max(rows) == 2
        rows.clear()
        llm.generate_batch(requests)  # also those of the calling thread
        assert max(rows) == 2
    finally:
        hook.remove()


class Counted(TorchDispatchMode):
    """Counts what torch computes."""

    number = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def test_a_token_under_many_steerings_takes_the_operations_of_one(
    tiny_tokenizer: Any, make_vector: Any
) -> None:
    model = build_tiny_model("llama", tiny_tokenizer)
    llm = SteerableHFLLM(model, tiny_tokenizer, model_id="counted")
    llm.end_ids = frozenset()
    vectors = [make_vector(llm, seed) for seed in range(8)]
    forward, passes = model.forward, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        with Counted() as count:
            made = forward(*args, **kwargs)
        passes.append((*kwargs["input_ids"].shape, count.number))
        return made

    model.forward = counted

    def operations(steerings: list[Steering]) -> int:
        """Of the cheapest pass that makes a token for each of eight rows."""
        llm.engine = BatchingEngine(llm)
        passes.clear()
        asked = [
            llm.submit(GenerationRequest(f"Question {i}?", steering, max_new_tokens=40))
            for i, steering in enumerate(steerings)
        ]
        for each in asked:
            each.result(timeout=60)
        return min(count for rows, tokens, count in passes if (rows, tokens) == (8, 1))

    one = operations([vectors[0].steer(0.3)] * 8)
    assert operations([vector.steer(0.3) for vector in vectors]) == one
    # A length, a sum and a sum's length in each block, and nothing else.
    unsteered = operations([Steering.none()] * 8)
    assert one - unsteered == 3 * len(llm.blocks)


def test_a_long_prompt_does_not_stall_the_answers_under_way(make_llm: Any) -> None:
    llm = engine_of(make_llm("llama"), prefill=16, prefixes=0)
    llm.end_ids = frozenset()
    widths: list[tuple[int, int]] = []
    asked = threading.Event()

    def note(_: Any, given: Any) -> None:
        widths.append(tuple(given[0].shape))
        if widths[-1] == (1, 1):
            assert asked.wait(60)

    hook = llm.model.get_input_embeddings().register_forward_pre_hook(note)
    try:
        first = llm.submit(GenerationRequest("Hi", max_new_tokens=100))
        next(stream := iter(first))
        long = llm.submit(GenerationRequest(PASSAGE * 2, max_new_tokens=1))
        asked.set()
        long.result(timeout=60)
        list(stream)
    finally:
        hook.remove()
    pieces = [i for i, (_, width) in enumerate(widths) if width == 16]
    assert len(pieces) > 3
    # A token of the answer stands between each two pieces of the prompt.
    assert all(widths[i + 1] == (1, 1) for i in pieces[1:])


# Nothing stays behind.


# What other tests have left open is closed, and told, where garbage is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_left_of_two_thousand_requests(make_llm: Any, make_vector: Any) -> None:
    llm = engine_of(make_llm("llama"), prefixes=200_000)
    source = random.Random(2)
    requests = [replace(r, max_new_tokens=2) for r in drawn_requests(llm, make_vector, 50)]

    def ask(count: int) -> None:
        for _ in range(count // 50):
            pending = [llm.submit(request) for request in requests]
            for each in source.sample(pending, 5):
                each.cancel()
            for each in pending:
                try:
                    each.result(timeout=60)
                except CancelledError:
                    assert each.future.cancelled()

    def held() -> tuple[int, int, int]:
        come_to_rest(llm)
        gc.collect()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
        handles = sum(1 for _ in Path("/proc/self/fd").iterdir())
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules())
        return tensors, handles, hooks

    ask(200)
    before, threads = held(), threading.active_count()
    ask(1800)
    # What other tests have left may go meanwhile.
    assert all(now <= then for now, then in zip(held(), before, strict=True))
    assert threading.active_count() <= threads


def come_to_rest(llm: SteerableHFLLM) -> None:
    waited = threading.Event()
    for _ in range(3000):
        if not llm.engine.running + llm.engine.waiting:
            return
        waited.wait(0.01)
    raise AssertionError("the engine does not come to rest")
