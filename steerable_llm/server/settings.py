"""What a server is told when it starts: names, keys, limits, and where answers are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves; every limit has a value that suits one machine.

    Attributes:
        name: What clients call the model; None is the model's own id.
        api_keys: One of them must come with every request to `/v1`; empty lets everybody in.
        admin_keys: One of them must come with what changes or tries a policy; empty lets nobody.
        allowed_origins: Pages of these (`http://localhost:3000`, `*`) may ask from a browser.
        policy_folder: What the folders that a tried policy names are relative to.
        log: Address of the answer log that answers are recorded into; None records none.
        log_prompts: Whether the access log tells what was asked.
        most_running: Answers that the model works on together.
        most_waiting: Answers that may wait beside these; more are refused at once, with 429.
        most_cached: Tokens that prompts and answers under way may hold in caches together.
        most_prefixes: Bytes of prompts' states that are kept for prompts that begin alike.
        most_choices: Answers that one request may ask for.
        usual_tokens: Length of an answer of which a request says nothing.
        most_tokens: Most tokens that a request may ask for; None is what the window holds.
        most_bytes: Largest body of a request.
        body_timeout: Seconds in which a body must have come.
        request_timeout: Seconds after which an answer that is not done is given up.
        send_timeout: Seconds that a client may let a piece of a stream wait.
        log_timeout: Seconds that feedback waits for the answer log.
        drain_timeout: Seconds that answers under way get after SIGTERM.
        ping: Seconds between comments in a stream that has nothing to tell, for proxies.
        metrics_prefix: What stands before the names of the metrics, and a colon.
    """

    name: str | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_origins: tuple[str, ...] = ()
    policy_folder: Path = Path()
    log: str | None = field(default=None, repr=False)
    log_prompts: bool = False
    most_running: int = 64
    most_waiting: int = 128
    most_cached: int = 65536
    most_prefixes: int = 2**28
    most_choices: int = 8
    usual_tokens: int = 1024
    most_tokens: int | None = None
    most_bytes: int = 16 * 2**20
    body_timeout: float = 30.0
    request_timeout: float = 600.0
    send_timeout: float = 30.0
    log_timeout: float = 10.0
    drain_timeout: float = 30.0
    ping: float = 15.0
    metrics_prefix: str = "steerable"
