"""The server as a process: it listens at once, loads, answers, and lets answers end at its end."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.server.application import application
from steerable_llm.server.serving import Serving
from steerable_llm.server.settings import ServerSettings

_logger = logging.getLogger(__name__)


def serve(
    load: Callable[[], SteerableHFLLM],
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C, and let what is under way end then.

    Args:
        load: Makes the model; called in a thread, while the port listens already.
        settings: See `ServerSettings`.
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        say: Told where the server listens, and when it is ready.

    Raises:
        InvalidInputError: The address cannot be listened at.
        Exception: Whatever loading the model raised.
    """
    failed: list[BaseException] = []
    serving = Serving(settings)

    def bring() -> None:
        try:
            serving.take(load())
            say(f"ready: {serving.name}")
        except BaseException as error:
            failed.append(error)
            server.should_exit = True

    config = uvicorn.Config(
        application(serving),
        host=host,
        port=port,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,  # the program around decides what is logged where
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.drain_timeout) + 5,
    )
    listening = _listening(host, port, settings.send_timeout)

    def begin() -> None:
        say(f"listening on http://{_shown(listening)}, while the model loads")
        # Nobody waits for it: the port listens meanwhile, and may close before.
        threading.Thread(target=bring, name="steerable-load", daemon=True).start()

    server = _Server(config, serving, begin)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
    if failed:
        raise failed[0]


class _Server(uvicorn.Server):
    """A server that tells its application of the end when it begins, not when it is over."""

    def __init__(self, config: uvicorn.Config, serving: Serving, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and tell it: from here on signals are heard, too."""
        await super().startup(sockets)
        self._begun()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End; a second Ctrl-C ends at once. Unlike uvicorn's, the process then returns 0."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what is under way end."""
        self._serving.drain()
        await super().shutdown(sockets)


def _listening(host: str, port: int, patience: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What a connection that was given up still holds for its client goes after that, too.
        if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, int(patience * 1000) + 10_000)
        made.bind(address)
    except (OSError, OverflowError) as error:
        raise InvalidInputError(
            f"cannot listen on {host}:{port} ({error}): name another --host or --port"
        ) from error
    made.listen(2048)
    made.set_inheritable(True)
    return made


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
