"""The engine of steerable-llm that has a vLLM server make the tokens.

It talks to vLLM over HTTP and not in one process: vLLM pins transformers and llguidance to other
versions than steerable-llm is tested with, it may stand on another machine, and what ends it does
not end the policies. Prompts go as tokens and answers come back as tokens, so that templates, tool
calls, stop texts and the record of what was applied stay those of every other engine.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Event, Thread
from typing import TYPE_CHECKING, Any

import httpx

from steerable_llm.answer.answer import Answer
from steerable_llm.answer.engine import Limits, Prompt
from steerable_llm.answer.pending import Pending
from steerable_llm.answer.request import AppliedVector, Generation, GenerationChunk, Likelihood
from steerable_llm.errors import (
    DeadlineError,
    EngineError,
    InvalidInputError,
    ModelMismatchError,
    OverloadedError,
    SteerableError,
    SteeringNotAppliedError,
    UnknownVectorError,
    unknown,
)
from steerable_vllm.terms import ARGUMENT, MARK, sent, steered_count

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
        """
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._llm, self._url, self._model = llm, url.rstrip("/"), model
        self._pending: set[Pending] = set()
        # What runs together is vLLM's to decide; here it is threads that wait.
        self.limits = Limits(rows=_ROWS)
        self._http = httpx.Client(
            base_url=self._url,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_ROWS),
            trust_env=False,
        )
        self._facts: dict[str, Any] | None = None

    @property
    def limits(self) -> Limits:
        """How much is asked of the server at once; its own limits hold beside them."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits, self._rows = limits, BoundedSemaphore(limits.rows)

    @property
    def running(self) -> int:
        """How many prompts the server has."""
        return sum(each.times.begun is not None for each in tuple(self._pending))

    @property
    def waiting(self) -> int:
        """How many wait until it has fewer."""
        return len(self._pending) - self.running

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
        queue = self._limits.queue
        if queue is not None and self.waiting >= queue:
            raise OverloadedError(f"{queue} prompts wait already: try again later", retry_after=1)
        pending, work = self._begun(prompt, self._body(prompt), cancelled, timeout)
        rows = self._rows

        def in_turn() -> None:
            with rows:
                work()

        _thread(in_turn)
        return pending

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
        begun = [
            self._begun(prompt, body, cancelled)
            for prompt, body in zip(prompts, bodies, strict=True)
        ]
        left = SimpleQueue[Callable[[], None]]()
        for _, work in begun:
            left.put(work)

        def take_turns() -> None:
            with contextlib.suppress(Empty):
                while True:
                    left.get_nowait()()

        for _ in range(min(batch_size, self._limits.rows, len(begun))):
            _thread(take_turns)
        try:
            return [pending.result() for pending, _ in begun]
        except CancelledError:
            return []
        finally:
            for pending, _ in begun:
                pending.cancel()

    def stream(self, prompt: Prompt, cancelled: Event | None = None) -> Iterator[GenerationChunk]:
        """Answer one prompt token by token; closing the iterator has the server stop.

        Raises:
            InvalidInputError: What this engine cannot do.
        """
        # In the reader's own thread: nothing is made ahead of one that takes its time.
        return self._chunks(prompt, self._body(prompt), (cancelled or Event()).is_set)

    def _begun(
        self,
        prompt: Prompt,
        body: Mapping[str, Any],
        cancelled: Event | None,
        timeout: float | None = None,
    ) -> tuple[Pending, Callable[[], None]]:
        """Put an answer into the queue; the second is what makes it."""
        pending = Pending(prompt.decision, len(prompt.tokens), cancelled)
        self._pending.add(pending)

        def work() -> None:
            try:
                pending.times.begun = time.monotonic()
                for chunk in self._chunks(prompt, body, lambda: pending.unwanted):
                    if chunk.final is not None:
                        pending.end(chunk.final)
                    elif timeout is None or time.monotonic() < pending.times.asked + timeout:
                        pending.put(chunk)
                    else:
                        pending.end(DeadlineError(f"the answer took longer than {timeout} s"))
            except BaseException as error:  # handed over, raised again where it is asked for
                pending.end(error)
            finally:
                self._pending.discard(pending)

        return pending, work

    def _chunks(
        self, prompt: Prompt, body: Mapping[str, Any], unwanted: Callable[[], bool]
    ) -> Iterator[GenerationChunk]:
        """Yield chunks as they come, and one with the whole answer unless nobody wants it."""
        answer = Answer(prompt, self._llm.chat_format, self._llm.end_ids)
        if unwanted():
            return
        with contextlib.closing(self._tokens(body, prompt)) as tokens:
            for token, likely in tokens:
                if likely:
                    answer.logprobs.append(likely)
                yield answer.push(token)
                if unwanted():
                    return
                if answer.finish_reason is not None:
                    break
        if answer.finish_reason is None:
            raise EngineError(
                f"vLLM at {self._url} ended an answer after {len(answer.tokens)} tokens, before "
                "its end: see its log"
            )
        length = len(prompt.tokens), len(answer.tokens)
        applied = tuple(
            AppliedVector.of(term, steered_count(term, *length))
            for term in prompt.steering.active_terms
        )
        yield GenerationChunk("", None, answer.generation(applied))

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
        if self._model is not None:
            body["model"] = self._model
        if request.logit_bias:
            body["logit_bias"] = {str(token): add for token, add in request.logit_bias.items()}
        if request.seed is not None:  # vLLM takes signed ones
            body["seed"] = request.seed - 2**64 if request.seed >= 2**63 else request.seed
        if request.logprobs:
            body |= {"logprobs": request.top_logprobs, "return_tokens_as_token_ids": True}
        if prompt.grammar is not None and self._follows_grammars:
            body["structured_outputs"] = {"grammar": prompt.grammar.text}
        if prompt.steering.is_active:
            self._check_vectors(prompt)
            body["vllm_xargs"] = {ARGUMENT: sent(prompt.steering)}
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
                held and not self._follows_grammars,
                "constraints and sure tool calls",
                'start vLLM with --structured-outputs-config \'{"backend": "guidance"}\'',
            ),
            (
                held and self._llm.chat_format.reading(prompt.tokens).thinking,
                "a constraint behind reasoning",
                "switch the reasoning off (chat_template_kwargs)",
            ),
        ):
            if wrong:
                raise InvalidInputError(
                    f"the vLLM engine cannot do {what}: {mend}, or use the local engine"
                )

    def _check_vectors(self, prompt: Prompt) -> None:
        served = self._served["vectors"]
        for term in prompt.steering.active_terms:
            name = term.vector.name
            if name not in served:
                raise UnknownVectorError(
                    f"{unknown('vector', name, served)}: give the vLLM at {self._url} its file"
                )
            if served[name] != term.vector.fingerprint_id:
                raise ModelMismatchError(
                    f"the vLLM at {self._url} has another vector {name!r} "
                    f"({served[name]}, here {term.vector.fingerprint_id}): give both the same file"
                )

    @property
    def _follows_grammars(self) -> bool:
        """Whether constraints can be handed on: the server's backend reads the same grammars."""
        return bool(self._served["structured_outputs"] == "guidance")

    @property
    def _served(self) -> dict[str, Any]:
        """What the server says of its steering; asked once.

        Raises:
            SteeringNotAppliedError: It has no plug-in.
            EngineError: It cannot be reached.
        """
        if self._facts is None:
            with self._told():
                response = self._http.get("/v1/steering")
            if response.status_code == httpx.codes.NOT_FOUND:
                raise SteeringNotAppliedError(_unmarked(self._url))
            self._refuse(response)
            self._facts = response.json()
        return self._facts

    def _tokens(
        self, body: Mapping[str, Any], prompt: Prompt
    ) -> Iterator[tuple[int, tuple[Likelihood, ...]]]:
        """Yield tokens as they come, each with the likelihoods that were asked for."""
        with self._told(), self._http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                self._refuse(response)
            if prompt.steering.is_active and MARK not in response.headers:
                raise SteeringNotAppliedError(_unmarked(self._url))
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue
                if (data := line.removeprefix("data: ")) == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise self._fault(event["error"].get("code"), event["error"]["message"])
                for choice in event["choices"]:
                    tokens = choice.get("token_ids") or ()
                    noted = self._likelihoods(choice.get("logprobs"), tokens)
                    yield from zip(tokens, noted, strict=True)

    def _likelihoods(
        self, told: Mapping[str, Any] | None, tokens: Sequence[int]
    ) -> list[tuple[Likelihood, ...]]:
        if told is None:
            return [()] * len(tokens)
        return [
            tuple(
                Likelihood(number, str(self._llm.tokenizer.decode([number])), value)
                for number, value in [(token, own), *_ranked(best or {})]
            )
            for token, own, best in zip(
                tokens, told["token_logprobs"], told["top_logprobs"], strict=True
            )
        ]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what goes wrong on the way as an error of ours."""
        try:
            yield
        except httpx.HTTPError as error:
            raise EngineError(
                f"vLLM at {self._url} does not answer ({type(error).__name__}: {error}): start it, "
                "or check the address"
            ) from error

    def _refuse(self, response: httpx.Response) -> None:
        """Raise what a server says that does not answer.

        Raises:
            InvalidInputError: The request is at fault.
            EngineError: The server is.
        """
        if response.is_success:
            return
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:200] or response.reason_phrase
        raise self._fault(response.status_code, message)

    def _fault(self, code: object, message: str) -> SteerableError:
        """Return what a server says, before an answer or within it, as an error of ours."""
        told = f"vLLM at {self._url} refuses ({code}): {message}"
        if code in (429, 503):
            return OverloadedError(told, retry_after=1)
        return InvalidInputError(told) if code in (400, 404, 422) else EngineError(told)


def _thread(work: Callable[[], None]) -> None:
    """Work in a thread that keeps no program from ending."""
    Thread(target=work, name="vllm", daemon=True).start()


def _ranked(best: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return the likeliest tokens, told as `token_id:number`, likeliest first."""
    found = [(int(name.removeprefix("token_id:")), value) for name, value in best.items()]
    return sorted(found, key=lambda each: -each[1])


def _unmarked(url: str) -> str:
    return (
        f"the vLLM at {url} does not steer: install steerable-vllm where it runs, and start it "
        "with VLLM_PLUGINS=steerable"
    )
