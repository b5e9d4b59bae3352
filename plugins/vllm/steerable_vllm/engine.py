"""The engine of steerable-llm that has a vLLM server make the tokens.

It talks to vLLM over HTTP and not in one process: vLLM pins transformers and llguidance to other
versions than steerable-llm is tested with, it may stand on another machine, and what ends it does
not end the policies. Prompts go as tokens and answers come back as tokens, so that templates, tool
calls, stop texts and the record of what was applied stay those of every other engine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.engine import Limits, Prompt
from steerable_llm.answer.logprobs import likelihood
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import AppliedVector, Generation, GenerationChunk, Likelihood
from steerable_llm.errors import (
    EngineError,
    InvalidInputError,
    ModelMismatchError,
    OverloadedError,
    PromptTooLongError,
    SteeringNotAppliedError,
    UnknownVectorError,
    unknown,
)
from steerable_llm.forked import renew_in_forks
from steerable_vllm.connection import Connection, Token
from steerable_vllm.deadlines import Deadlines
from steerable_vllm.terms import ARGUMENT, sent, steered_count
from steerable_vllm.workers import Workers

if TYPE_CHECKING:
    from steerable_llm import SteerableHFLLM

#: vLLM clamps what is further from zero.
_LARGEST_BIAS = 100.0
_ROWS = 256


class VLLMEngine:
    """Answers through a vLLM server that has the plug-in.

    Attributes:
        alive: A server that has ended may come back, so that this engine never dies.
    """

    alive = True

    def __init__(
        self,
        llm: SteerableHFLLM,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
    ) -> None:
        """Remember where to ask; nothing is asked yet.

        Args:
            llm: Whose prompts are answered: its template, tokenizer and end tokens are used.
            url: Of the server, such as `http://127.0.0.1:8000`.
            model: The name that the model is served by; default is the only one that is.
            api_key: Of the server.
            timeout: Seconds that it may let pass between two tokens.

        Raises:
            InvalidInputError: It is no address.
        """
        self._llm = llm
        self._server = Connection(url, model=model, api_key=api_key, timeout=timeout, most=_ROWS)
        # What runs together is vLLM's to decide; here it is threads that wait.
        self._limits = Limits(rows=_ROWS)
        self.renew()
        renew_in_forks(self)

    def renew(self) -> None:
        """Begin anew, with nothing under way: a forked process has none of the threads."""
        self._lock = Lock()
        self._pending: set[Pending] = set()
        self._workers = Workers(self._limits.rows)
        self._deadlines = Deadlines()

    @property
    def limits(self) -> Limits:
        """How much is asked of the server at once (rows) and waits here (queue).

        The server's own limits hold beside them, and in place of the others.
        """
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._workers.most = limits.rows

    @property
    def running(self) -> int:
        """How many prompts the server has."""
        return sum(each.times.begun is not None for each in tuple(self._pending))

    @property
    def waiting(self) -> int:
        """How many wait until it has fewer."""
        return len(self._pending) - self.running

    def context_window(self, model: int) -> int:
        """Return how many tokens prompt and answer may have together: the server may hold fewer.

        Args:
            model: What the model can hold.
        """
        try:
            served = self._server.facts().max_model_len
        except (EngineError, SteeringNotAppliedError):  # told when something is asked of it
            served = None
        return min(model, served or model)

    def submit(
        self, prompt: Prompt, cancelled: Event | None = None, timeout: float | None = None
    ) -> Pending:
        """Have one prompt answered, beside all others.

        Raises:
            InvalidInputError: What this engine cannot do.
            OverloadedError: The queue is full.
            SteeringNotAppliedError: The server does not steer.
            EngineError: The server cannot be reached.
        """
        return self._begun(prompt, self._body(prompt), cancelled, timeout)

    def run(
        self, prompts: Sequence[Prompt], batch_size: int, cancelled: Event | None = None
    ) -> list[Generation]:
        """Answer prompts, up to `batch_size` at once; the server decides which run together.

        Raises:
            InvalidInputError: A batch of no prompts, or what this engine cannot do.
            SteeringNotAppliedError: The server does not steer.
            EngineError: The server cannot be reached, or fails.
        """
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is {batch_size}: give at least 1")
        bodies = [self._body(prompt) for prompt in prompts]
        workers = Workers(min(batch_size, self._limits.rows))
        begun: list[Pending] = []
        try:
            for prompt, body in zip(prompts, bodies, strict=True):
                pending = Pending(prompt.decision, len(prompt.tokens), cancelled)
                begun.append(pending)
                self._answer(pending, prompt, body, workers)
            return [pending.result() for pending in begun]
        except CancelledError:
            return []
        finally:
            for pending in begun:
                pending.cancel()

    def stream(self, prompt: Prompt, cancelled: Event | None = None) -> Iterator[GenerationChunk]:
        """Answer one prompt token by token; closing the iterator has the server stop.

        Raises:
            InvalidInputError: What this engine cannot do.
        """
        body = self._body(prompt)
        return self._streamed(prompt, body, cancelled)

    def _streamed(
        self, prompt: Prompt, body: Mapping[str, Any], cancelled: Event | None
    ) -> Iterator[GenerationChunk]:
        yield from self._begun(prompt, body, cancelled, None)

    def _begun(
        self,
        prompt: Prompt,
        body: Mapping[str, Any],
        cancelled: Event | None,
        timeout: float | None,
    ) -> Pending:
        """Put an answer into the queue, if there is room."""
        pending = Pending(prompt.decision, len(prompt.tokens), cancelled)
        rows, queue = self._limits.rows, self._limits.queue
        with self._lock:
            if queue is not None and len(self._pending) >= rows + queue:
                raise OverloadedError(
                    f"vLLM at {self._server.url} was given {self.running} prompts and "
                    f"{self.waiting} wait, of which the limits allow {queue}: try again later",
                    retry_after=1,
                )
            self._pending.add(pending)
        pending.future.add_done_callback(lambda _: self._pending.discard(pending))
        try:
            if timeout is not None:
                self._deadlines.watch(pending, timeout)
            self._answer(pending, prompt, body, self._workers)
        except BaseException:
            pending.cancel()
            raise
        return pending

    def _answer(
        self, pending: Pending, prompt: Prompt, body: Mapping[str, Any], workers: Workers
    ) -> None:
        """Have an answer made by the next worker that is free."""

        def work() -> None:
            if pending.unwanted:
                return
            pending.times.begun = time.monotonic()
            try:
                for chunk in self._chunks(pending, prompt, body):
                    if chunk.final is not None:
                        pending.end(chunk.final)
                    else:
                        pending.put(chunk)
            except BaseException as error:  # handed over, raised again where it is asked for
                pending.end(error)

        workers.put(work)

    def _chunks(
        self, pending: Pending, prompt: Prompt, body: Mapping[str, Any]
    ) -> Iterator[GenerationChunk]:
        """Yield chunks as they come, and one with the whole answer unless nobody wants it."""
        answer = Answer(prompt, self._llm.chat_format, self._llm.end_ids)
        top = prompt.request.top_logprobs

        def until_done(hang_up: Callable[[], None]) -> None:
            pending.future.add_done_callback(lambda _: hang_up())

        steered = prompt.steering.is_active
        with contextlib.closing(self._server.tokens(body, steered, until_done)) as tokens:
            for token in tokens:
                if pending.unwanted:
                    return
                if token.logprob is not None:
                    answer.logprobs.append(self._likelihoods(token, top))
                yield answer.push(token.number)
                if answer.finish_reason is not None:
                    break
        if answer.finish_reason is None:
            raise EngineError(
                f"vLLM at {self._server.url} ended an answer after {len(answer.tokens)} tokens, "
                "before its end: see its log"
            )
        length = len(prompt.tokens), len(answer.tokens)
        applied = tuple(
            AppliedVector.of(term, steered_count(term, *length))
            for term in prompt.steering.active_terms
        )
        yield GenerationChunk("", None, answer.generation(applied))

    def _likelihoods(self, token: Token, top: int) -> tuple[Likelihood, ...]:
        """Return those of a token and of the likeliest at its place: vLLM may tell one more."""
        best = sorted(token.best.items(), key=lambda each: -each[1])[:top]
        noted = [(token.number, token.logprob or 0.0), *best]
        return tuple(likelihood(self._llm.tokenizer, number, value) for number, value in noted)

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        """Return a prompt as vLLM's completions API takes it.

        Raises:
            InvalidInputError: It asks for what this engine cannot do.
            SteeringNotAppliedError: The server does not steer.
        """
        request = prompt.request
        self._check(prompt)
        body: dict[str, Any] = {
            "prompt": prompt.tokens,
            "max_tokens": request.length(),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
            "stop_token_ids": sorted(self._llm.end_ids),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "stream": True,
            "return_token_ids": True,
        }
        if request.logit_bias:
            body["logit_bias"] = {str(token): add for token, add in request.logit_bias.items()}
        if request.seed is not None:  # vLLM takes signed ones
            body["seed"] = request.seed - 2**64 if request.seed >= 2**63 else request.seed
        if request.logprobs:
            body |= {"logprobs": request.top_logprobs, "return_tokens_as_token_ids": True}
        if prompt.grammar is not None and self._hands_on_grammar(prompt):
            body["structured_outputs"] = {"grammar": prompt.grammar.text}
        if prompt.steering.is_active:
            body["vllm_xargs"] = {ARGUMENT: sent(prompt.steering)}
            self._check_vectors(prompt)
        self._check_length(prompt)
        return body

    def _check(self, prompt: Prompt) -> None:
        biases = (prompt.request.logit_bias or {}).values()
        held = prompt.grammar is not None and not prompt.grammar.free
        for wrong, what, mend in (
            (prompt.vision, "images", "send text alone"),
            (prompt.contrast, "contrast (context-aware decoding)", "name a step without it"),
            (
                any(abs(bias) > _LARGEST_BIAS for bias in biases),
                f"a logit_bias beyond {_LARGEST_BIAS:g}",
                "give a smaller one",
            ),
            (
                held and self._is_thinking(prompt),
                "a constraint behind reasoning",
                "switch the reasoning off (chat_template_kwargs)",
            ),
            (
                held and not self._follows_grammars,
                "constraints and sure tool calls",
                "start vLLM with the plug-in and --structured-outputs-config "
                '\'{"backend": "guidance"}\'',
            ),
        ):
            if wrong:
                raise InvalidInputError(
                    f"the vLLM engine cannot do {what}: {mend}, or use the local engine"
                )

    def _check_vectors(self, prompt: Prompt) -> None:
        """Refuse vectors that the server has not, as it says by now."""
        terms = prompt.steering.active_terms
        wanted = {term.vector.name: term.vector.fingerprint_id for term in terms}
        served = self._server.facts().vectors
        if not wanted.items() <= served.items():  # it may have begun anew with other ones
            served = self._server.facts(anew=True).vectors
        for name, vector in wanted.items():
            if name not in served:
                raise UnknownVectorError(
                    f"{unknown('vector', name, served)}: give the vLLM at {self._server.url} its "
                    "file"
                )
            if served[name] != vector:
                raise ModelMismatchError(
                    f"the vLLM at {self._server.url} has another vector {name!r} "
                    f"({served[name]}, here {vector}): give both the same file"
                )

    def _check_length(self, prompt: Prompt) -> None:
        """Refuse what the server cannot hold, as far as is known; it would refuse it, too."""
        known = self._server.known
        if known is None or known.max_model_len is None:
            return
        length = len(prompt.tokens), prompt.request.length()
        if sum(length) > known.max_model_len:
            raise PromptTooLongError(*length, known.max_model_len)

    def _hands_on_grammar(self, prompt: Prompt) -> bool:
        """Tell whether the server is to follow a prompt's grammar.

        One that is free only helps to write calls, and must not hold reasoning that names one.
        """
        return not self._is_thinking(prompt) and self._follows_grammars

    def _is_thinking(self, prompt: Prompt) -> bool:
        return self._llm.chat_format.reading(prompt.tokens).thinking

    @property
    def _follows_grammars(self) -> bool:
        try:
            return self._server.facts().follows_grammars
        except SteeringNotAppliedError:  # what a server without the plug-in does is not known
            return False
