"""Token streaming: the model works in a thread, the caller iterates."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from steerable_llm.answer.calls import CallStream, joined
from steerable_llm.answer.constraint import GrammarMask, GrammarState
from steerable_llm.answer.request import (
    AppliedVector,
    FinishReason,
    Generation,
    GenerationChunk,
    GenerationRequest,
    Usage,
)
from steerable_llm.chat.answer_text import AnswerText
from steerable_llm.chat.template import ChatFormat
from steerable_llm.chat.tools import ParsedAnswer, ToolFormat, ToolText, call_id, with_ids
from steerable_llm.chat.vision import on_device
from steerable_llm.errors import InvalidInputError, not_numbers
from steerable_llm.policy.decision import SteeringDecision
from steerable_llm.runtime.contrast import ContextContrast, bare_prompt
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Steering

# How the next token of each row is chosen from its scores.


def probabilities(logits: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """What tokens are drawn from.

    Args:
        logits: Scores of one row ``[V]``.
        temperature: Above 0; divides the scores first.
        top_p: Then only the likeliest tokens that together reach this probability are kept.
        top_k: Before that, only so many likeliest tokens are kept; 0 keeps all.

    Returns:
        Probabilities ``[V]`` in float32, zero for what was not kept, the sum 1.
    """
    # Subtracting the largest first keeps a very small temperature from overflowing, and one that
    # float32 would round to zero from making 0 / 0 of the largest.
    divisor = max(temperature, torch.finfo(torch.float32).tiny)
    scores = (logits.float() - logits.float().max()) / divisor
    if 0 < top_k < scores.numel():
        kept = torch.topk(scores, top_k).indices
        only = torch.full_like(scores, -torch.inf)
        scores = only.index_copy(0, kept, scores[kept])
    chances = torch.softmax(scores, dim=-1)
    if top_p < 1.0:
        ordered, places = torch.sort(chances, descending=True, stable=True)
        # A token stays if those before it have not reached top_p yet: at least one always stays.
        stays = ordered.cumsum(0) - ordered < top_p
        chances = torch.zeros_like(chances).index_copy(0, places, ordered * stays)
        chances = chances / chances.sum()
    return chances


class RowSampler(LogitsProcessor):
    """Draws for the rows that ask for it; greedy decoding then takes the drawn token.

    Every row has its own random numbers, so a seed gives the same draws alone and in any batch.
    """

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        """Set up one source of random numbers per row that draws."""
        self._requests = requests
        self._sources: dict[int, torch.Generator] = {}
        for row, request in enumerate(requests):
            if request.temperature > 0:
                # On the CPU whatever the device is: one seed, one answer.
                source = torch.Generator(device="cpu")
                if request.seed is None:
                    source.seed()
                else:
                    source.manual_seed(request.seed)
                self._sources[row] = source

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave only the drawn token of each drawing row (scores ``[B, V]``).

        Raises:
            SteerableError: The model's scores are not numbers.
        """
        if bool(torch.isnan(scores).any()):
            raise not_numbers()
        for row, source in self._sources.items():
            request = self._requests[row]
            chances = probabilities(scores[row], request.temperature, request.top_p, request.top_k)
            drawn = int(torch.multinomial(chances.cpu(), 1, generator=source))
            scores[row] = -torch.inf
            scores[row, drawn] = 0.0
        return scores


# Running a batch of requests through the model, token by token.

OnChunk = Callable[[int, GenerationChunk], None]


@dataclass(frozen=True)
class Prompt:
    """A request that is ready to run.

    Attributes:
        request: As it was asked.
        tokens: The prompt.
        steering: What the policy decided.
        grammar: What the answer must follow; it keeps count of the answer, so it serves one.
        tool_format: How calls are read; None where no tool was offered.
        decision: How the policy came to the steering.
        vision: What the model takes beside the tokens; empty for text alone.
    """

    request: GenerationRequest
    tokens: list[int]
    steering: Steering
    grammar: GrammarState | None = None
    tool_format: ToolFormat | None = None
    decision: SteeringDecision | None = None
    vision: Mapping[str, Tensor] = field(default_factory=dict)


class Answer:
    """One row's answer while it grows."""

    def __init__(self, prompt: Prompt, chat: ChatFormat, end_ids: frozenset[int]) -> None:
        """Start empty.

        Args:
            prompt: What is answered.
            chat: For the text, and to know special tokens.
            end_ids: Tokens that end the answer.
        """
        self.prompt = prompt
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        # A stop text that is itself a special token never shows up in the text. Under a grammar
        # none counts: an answer that it cut short would not follow the grammar.
        held = prompt.grammar is not None and not prompt.grammar.free
        stops = () if held else prompt.request.stops
        tokens = {stop: chat.special_id(stop) for stop in stops}
        self._end_ids = end_ids.union(x for x in tokens.values() if x is not None)
        hidden = None
        if prompt.tool_format is not None:
            hidden = chat.special_ids - {chat.special_id(mark) for mark in prompt.tool_format.marks}
        self._raw = AnswerText(
            chat.tokenizer, [stop for stop in stops if tokens[stop] is None], hidden
        )
        self._readable = ToolText(prompt.tool_format) if prompt.tool_format else None
        self._parsed = ParsedAnswer("")
        self._calls: CallStream | None = None
        if prompt.tool_format is not None:
            self._calls = CallStream(
                prompt.tool_format,
                lambda number, name: call_id(prompt.tokens, number, name),
                self._most_calls,
            )

    @property
    def _most_calls(self) -> int | None:
        return None if self.prompt.request.parallel_tool_calls else 1

    def push(self, token: int) -> GenerationChunk:
        """Take one token, decide whether the answer ends, and return what is new for the reader."""
        self.tokens.append(token)
        released = "" if token in self._end_ids else self._raw.push(token)
        self.finish_reason = self._ending(token)
        if self.finish_reason is not None and not self._raw.stopped:
            released += self._raw.finish()
            if self._raw.stopped:  # a stop text that was complete all along, and held back
                self.finish_reason = "stop"
        if self._readable is None or self._calls is None:
            return GenerationChunk(released, token)
        released = self._readable.push(released)
        calls = self._calls.push(self._readable.raw)
        if self.finish_reason is not None:
            rest, self._parsed = self._readable.finish()
            released += rest
            calls += self._calls.finish(self._parsed)
        return GenerationChunk(released, token, calls=joined(calls))

    def _ending(self, token: int) -> FinishReason | None:
        if token in self._end_ids or self._raw.stopped:
            return "stop"
        if self.prompt.grammar is not None:
            self.prompt.grammar.take(token)
            if self.prompt.grammar.complete:
                return "stop"
        return "length" if len(self.tokens) >= self.prompt.request.max_new_tokens else None

    def generation(self, plan: SteeringPlan, row: int) -> Generation:
        """The finished answer, with what the hooks counted.

        Raises:
            SteeringNotAppliedError: A steering reached no layer.
        """
        terms = self.prompt.steering.active_terms
        calls = self._parsed.calls[: self._most_calls]
        return Generation(
            text=self._raw.text if self._readable is None else self._readable.text,
            token_ids=tuple(self.tokens),
            finish_reason=self.finish_reason or "length",
            usage=Usage(len(self.prompt.tokens), len(self.tokens)),
            steered=tuple(AppliedVector.of(term, plan.steered_tokens(row, term)) for term in terms),
            step=self.prompt.request.step,
            tool_calls=with_ids(calls, self.prompt.tokens),
            invalid_tool_calls=self._parsed.invalid,
            decision=self.prompt.decision,
        )


class _Progress(StoppingCriteria):
    """Sees every new token of every row; says which rows are done."""

    def __init__(
        self,
        answers: Sequence[Answer],
        plan: SteeringPlan,
        on_chunk: OnChunk | None,
        cancelled: threading.Event,
    ) -> None:
        self._answers = answers
        self._plan = plan
        self._on_chunk = on_chunk
        self._cancelled = cancelled

    def __call__(self, input_ids: Tensor, _scores: Any, **_options: Any) -> Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            answer = self._answers[row]
            if answer.finish_reason is not None or self._cancelled.is_set():
                continue
            chunk = answer.push(token)
            if answer.finish_reason is not None:
                self._plan.finish(row)
            if self._on_chunk is not None:
                self._on_chunk(row, chunk)
        done = [
            self._cancelled.is_set() or answer.finish_reason is not None for answer in self._answers
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[int]]:
    """Places of the prompts that run together, shortest first.

    Models lay out the pixels of several prompts each in their own way, so a prompt with images
    runs by itself.

    Raises:
        InvalidInputError: A batch of no prompts was asked for.
    """
    if batch_size < 1:
        raise InvalidInputError(f"batch_size is {batch_size}: give at least 1")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    texts = [index for index in order if not prompts[index].vision]
    for start in range(0, len(texts), batch_size):
        yield texts[start : start + batch_size]
    yield from ([index] for index in order if prompts[index].vision)


def decode(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    end_ids: frozenset[int],
    device: torch.device,
    on_chunk: OnChunk | None = None,
    cancelled: threading.Event | None = None,
) -> list[Generation]:
    """Answer several prompts in one left-padded batch, each with its own settings.

    Args:
        model: A Hugging Face causal language model.
        blocks: Its decoder blocks.
        chat: Its chat format.
        prompts: One per row; one alone where it has images.
        end_ids: Tokens that end an answer.
        device: Where the input goes.
        on_chunk: Called with row and chunk after every token of an unfinished row.
        cancelled: Once set, the work stops after the token at hand.

    Returns:
        One answer per prompt, in order. Empty after a cancellation.

    Raises:
        SteeringNotAppliedError: A steering reached no layer.
    """
    cancelled = cancelled or threading.Event()
    if cancelled.is_set():
        return []
    width = max(len(prompt.tokens) for prompt in prompts)
    # Never attended to, so any token of the vocabulary will do.
    padding = chat.tokenizer.pad_token_id or 0
    ids = torch.full((len(prompts), width), padding, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[row, width - len(prompt.tokens) :] = 1
    ids, mask = ids.to(device), mask.to(device)

    answers = [Answer(prompt, chat, end_ids) for prompt in prompts]
    plan = SteeringPlan([prompt.steering for prompt in prompts], mask, last_prompt=width - 1)
    config = GenerationConfig(
        max_new_tokens=max(prompt.request.max_new_tokens for prompt in prompts),
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding,
        disable_compile=True,
    )
    contrasts = [prompt.request.contrast for prompt in prompts]
    bare = [
        bare_prompt(chat, asked.messages, asked.context) if asked.contrast else None
        for asked in (prompt.request for prompt in prompts)
    ]
    with steering_hooks(blocks, plan):
        _without_defaults(model).generate(
            ids,
            attention_mask=mask,
            **on_device(prompts[0].vision, model, device),
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [
                    ContextContrast(model, blocks, bare, contrasts),
                    GrammarMask([prompt.grammar for prompt in prompts]),
                    RowSampler([prompt.request for prompt in prompts]),
                ]
            ),
            stopping_criteria=StoppingCriteriaList([_Progress(answers, plan, on_chunk, cancelled)]),
        )
    if cancelled.is_set():
        return []
    return [answer.generation(plan, row) for row, answer in enumerate(answers)]


def _without_defaults(model: nn.Module) -> Any:
    """The same model, weights and hooks shared, without a generation config of its own.

    A checkpoint's generation config fills in whatever a call leaves open (a repetition penalty,
    say), so that greedy decoding would silently be something else. A shallow copy with an empty
    config keeps that out without changing the caller's model, also for concurrent calls.
    """
    twin: Any = copy.copy(model)
    twin.generation_config = GenerationConfig()
    return twin


Work = Callable[[Callable[[GenerationChunk], None], Event], Generation | None]


def stream_chunks(work: Work, cancelled: Event | None = None) -> Iterator[GenerationChunk]:
    """Run the work in a thread and yield its chunks as they come, the whole answer last.

    Nothing runs before the first chunk is asked for. Closing the iterator (or dropping it, or an
    exception in the loop over it) stops the work after the token at hand and waits for the thread.

    Args:
        work: Called with where to put chunks and the event that tells it to stop; returns the
            whole answer, or None if it was stopped.
        cancelled: Set by whoever wants to stop the work from outside of the loop.

    Yields:
        One chunk per token, then one with ``final`` set.

    Raises:
        Exception: Whatever the work raised, as it was raised.
    """
    arrived: SimpleQueue[GenerationChunk | BaseException | None] = SimpleQueue()
    stopped = Event() if cancelled is None else cancelled

    def run() -> None:
        try:
            final = work(arrived.put, stopped)
            arrived.put(None if final is None else GenerationChunk("", None, final))
        except BaseException as error:  # handed over, raised again in the caller's thread
            arrived.put(error)

    # The caller's context variables (tracing and the like) are in force in the worker too.
    context = contextvars.copy_context()
    thread = Thread(target=context.run, args=(run,), name="stream", daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            item = arrived.get()
            ended = item is None or isinstance(item, BaseException) or item.final is not None
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                yield item
    finally:
        # Work that has ended needs no telling, and the caller's event may stop other work, too.
        if not ended:
            stopped.set()
        thread.join()
