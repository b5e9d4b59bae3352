"""What is said to a vLLM server and back; what goes wrong there is raised as an error of ours."""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ValidationError

from steerable_llm.errors import (
    EngineError,
    InvalidInputError,
    OverloadedError,
    SteerableError,
    SteeringNotAppliedError,
    first_problem,
)
from steerable_llm.forked import renew_in_forks
from steerable_vllm.facts import ServerFacts
from steerable_vllm.terms import MARK

#: Seconds: what a server says of itself it says at once.
_FACTS_TIMEOUT = 10.0
_LONGEST_MESSAGE = 500


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        number: Its id.
        logprob: How likely it was, if that was asked for.
        best: The same of the likeliest tokens, by their ids.
    """

    number: int
    logprob: float | None
    best: Mapping[int, float]


class _Noted(BaseModel):
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    logprobs: _Noted | None = None

    def tokens(self) -> Iterator[Token]:
        """Yield what this piece of the answer holds, each token with its likelihoods.

        Raises:
            ValueError: It has not as many likelihoods as tokens.
        """
        numbers = self.token_ids or []
        if self.logprobs is None:
            yield from (Token(number, None, {}) for number in numbers)
            return
        ranked = self.logprobs.top_logprobs or [None] * len(numbers)
        for number, own, best in zip(numbers, self.logprobs.token_logprobs, ranked, strict=True):
            named = (best or {}).items()
            ids = {int(name.removeprefix("token_id:")): value for name, value in named}
            yield Token(number, own, ids)


class _Fault(BaseModel):
    message: str
    code: int | str | None = None


class _Event(BaseModel):
    choices: list[_Choice] = []
    error: _Fault | str | None = None


class Connection:
    """A vLLM server that is asked over HTTP, by many threads at once.

    Attributes:
        url: Where it listens.
    """

    def __init__(
        self, url: str, *, model: str | None, api_key: str | None, timeout: float, most: int
    ) -> None:
        """Remember where to ask; nothing is asked yet.

        Args:
            url: Of the server; `/v1` at its end is left out.
            model: The name that the model is served by; default is the only one that is.
            api_key: Of the server.
            timeout: Seconds that it may let pass between two tokens.
            most: Connections that are kept open for the next request.

        Raises:
            InvalidInputError: It is no address.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            told = httpx.URL(self.url)
        except httpx.InvalidURL:
            told = httpx.URL("")
        if told.scheme not in ("http", "https") or not told.host:
            raise InvalidInputError(
                f"url is {url!r}: give the address of a vLLM server, such as http://127.0.0.1:8000"
            )
        self._model = model
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._timeout, self._most = timeout, most
        self._closing: weakref.finalize[..., Connection] | None = None
        self.renew()
        renew_in_forks(self)

    def renew(self) -> None:
        """Begin anew, with no connection; a forked process must not write into its parent's."""
        if self._closing is not None:
            self._closing.detach()
        self._http = httpx.Client(
            base_url=self.url,
            headers=self._headers,
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._most),
            trust_env=False,
        )
        self._facts: ServerFacts | None = None
        self._closing = weakref.finalize(self, self._http.close)

    @property
    def known(self) -> ServerFacts | None:
        """What the server has said of its steering, if it was asked."""
        return self._facts

    def facts(self, anew: bool = False) -> ServerFacts:
        """Return what the server says of its steering; it is asked once, or again.

        Raises:
            SteeringNotAppliedError: It has no plug-in.
            EngineError: It cannot be reached, or fails.
        """
        if self._facts is None or anew:
            with self._told():
                response = self._http.get("/v1/steering", timeout=_FACTS_TIMEOUT)
            if response.status_code == httpx.codes.NOT_FOUND:
                raise self.unmarked()
            if not response.is_success:
                raise self._refusal(response)
            try:
                self._facts = ServerFacts.model_validate_json(response.content)
            except ValidationError as error:
                raise self.unmarked() from error
        return self._facts

    def tokens(
        self,
        body: Mapping[str, Any],
        steered: bool,
        opened: Callable[[Callable[[], None]], None],
    ) -> Iterator[Token]:
        """Ask for an answer, and yield its tokens as they come; closing ends the work there.

        Args:
            body: As vLLM's completions API takes it, but for the model's name.
            steered: Whether the server must be one that steers.
            opened: Told how to hang up, from whichever thread, while the server says nothing.

        Raises:
            InvalidInputError: The server refuses the request.
            OverloadedError: It has too much to do.
            SteeringNotAppliedError: It does not steer.
            EngineError: It cannot be reached, fails, or says what cannot be read.
        """
        named = {} if self._model is None else {"model": self._model}
        with (
            self._told(),
            self._http.stream("POST", "/v1/completions", json={**body, **named}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                response.read()
                raise self._refusal(response)
            if steered and MARK not in response.headers:
                raise self.unmarked()
            call = _Call(response)
            opened(call.hang_up)
            try:
                yield from self._read(response)
            finally:
                call.over()

    def _read(self, response: httpx.Response) -> Iterator[Token]:
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            try:
                event = _Event.model_validate_json(data)
                tokens = [token for choice in event.choices for token in choice.tokens()]
            except ValueError as error:
                why = first_problem(error) if isinstance(error, ValidationError) else error
                raise EngineError(
                    f"vLLM at {self.url} says what cannot be read ({why}): see whether a vLLM "
                    "answers there, of the release that steerable-vllm names"
                ) from error
            if isinstance(event.error, str):
                raise self._fault(None, event.error)
            if event.error is not None:
                raise self._fault(event.error.code, event.error.message)
            yield from tokens

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what goes wrong on the way as an error of ours."""
        try:
            yield
        except httpx.HTTPError as error:
            raise EngineError(
                f"vLLM at {self.url} does not answer ({type(error).__name__}: {error}): start it, "
                "or check the address"
            ) from error

    def _refusal(self, response: httpx.Response) -> SteerableError:
        """Return what a server says that does not answer."""
        try:
            told = _Event.model_validate_json(response.content).error
        except ValidationError:
            told = None
        message = told.message if isinstance(told, _Fault) else told
        message = message or response.text or response.reason_phrase
        wait = response.headers.get("retry-after", "")  # seconds, or a date
        return self._fault(response.status_code, message, int(wait) if wait.isdecimal() else 1)

    def _fault(self, code: object, message: object, wait: float = 1) -> SteerableError:
        """Return what a server says, before an answer or within it, as an error of ours."""
        line = " ".join(str(message).split())[:_LONGEST_MESSAGE]
        told = f"vLLM at {self.url} refuses ({code}): {line}"
        if code in (429, 503):
            return OverloadedError(told, retry_after=wait)
        if code in (401, 403):
            return EngineError(f"{told}; give its api_key")
        return InvalidInputError(told) if code in (400, 404, 413, 422) else EngineError(told)

    def unmarked(self) -> SteeringNotAppliedError:
        """Return the error for a server without the plug-in."""
        return SteeringNotAppliedError(
            f"the vLLM at {self.url} does not steer: install steerable-vllm where it runs, and "
            "start it with VLLM_PLUGINS=steerable"
        )


class _Call:
    """A response that is being read, and how to end it while its reader waits for more."""

    def __init__(self, response: httpx.Response) -> None:
        stream = response.extensions.get("network_stream")
        self._socket: socket.socket | None = stream and stream.get_extra_info("socket")
        self._lock = Lock()

    def hang_up(self) -> None:
        """Wake the reader up, which finds that nothing more will come."""
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def over(self) -> None:
        """Leave the connection alone from here on: the next request may have it."""
        with self._lock:
            self._socket = None
