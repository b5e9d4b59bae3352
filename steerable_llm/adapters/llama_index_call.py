"""One call of a LlamaIndex LLM, on its way through the engine."""

from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from steerable_llm.adapters.recording import SteeringRecord, take_down
from steerable_llm.adapters.worker import stream_in_worker
from steerable_llm.model.generation import Generation, GenerationChunk
from steerable_llm.model.hooked_model import SteerableHFLLM


@dataclass(frozen=True)
class Piece:
    """Some of an answer.

    Attributes:
        text: the answer up to here.
        made: the chunk that was added last; the closing one has the whole answer.
    """

    text: str
    made: GenerationChunk


@dataclass(frozen=True)
class EngineCall:
    """Everything that decides an answer, settled when LlamaIndex calls and not when it reads.

    A stream may be read after the block, the thread or the task in which it was asked for has
    ended; by then the step that held there cannot be told any more.

    Attributes:
        engine: the hooked model.
        arguments: what it is asked with.
        records: where the answer is taken down.
    """

    engine: SteerableHFLLM
    arguments: dict[str, Any]
    records: Sequence[SteeringRecord] = ()

    def answer(self) -> Generation:
        """Return the whole answer."""
        return take_down(self.engine.generate(**self.arguments), self.records)

    async def aanswer(self) -> Generation:
        """Return the whole answer, and let the event loop turn while it is made."""
        # The streamed form of the same answer, since only that can be stopped half-way.
        answer: Generation | None = None
        async for piece in self._in_worker():
            answer = piece.made.final or answer
        assert answer is not None  # the engine's last chunk always carries the answer
        return answer

    def pieces(self) -> Generator[Piece, None, None]:
        """Yield what tells something new: half a character, or half a stop text, is held back."""
        return (piece for piece in self._all_pieces() if piece.made.text or piece.made.final)

    async def apieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the same, and let the event loop turn."""
        pieces = self._in_worker()
        try:
            async for piece in pieces:
                if piece.made.text or piece.made.final:
                    yield piece
        finally:
            # Closed with this generator, and not when it happens to be collected.
            await pieces.aclose()

    def _in_worker(self) -> AsyncGenerator[Piece, None]:
        # The model itself hears of it when nobody waits any more, and stops within one token.
        stopped = Event()
        return stream_in_worker(lambda: self._all_pieces(stopped), stopped)

    def _all_pieces(self, cancelled: Event | None = None) -> Generator[Piece, None, None]:
        text = ""
        for made in self.engine.stream(cancelled=cancelled, **self.arguments):
            text += made.text
            take_down(made.final, self.records)
            yield Piece(text, made)
