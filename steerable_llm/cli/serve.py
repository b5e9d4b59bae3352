"""The verb that makes a server of a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from steerable_llm.cli.options import (
    ImageHosts,
    Model,
    Revision,
    TemplateArguments,
    check_hosts,
    load_model,
    open_log,
    say,
)
from steerable_llm.errors import InvalidInputError, from_extra
from steerable_llm.server.keys import ADMIN_KEYS, API_KEYS, read_keys

_MB = 2**20


def serve(
    model: Model = "smollm2",
    revision: Revision = None,
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Policy file; read anew when it changes."),
    ] = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; its own id unless given.")
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with the keys that let clients in, "
            f"one a line; or the environment variable {API_KEYS}, blanks between.",
        ),
    ] = None,
    admin_keys: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help=f"The same for policies; or {ADMIN_KEYS}."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may ask from a browser, as http://localhost:3000; "
            "may be repeated."
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(help="Answer log to record into: a SQLite file, or postgresql://..."),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Tell in the access log what was asked.")
    ] = False,
    max_running: Annotated[
        int, typer.Option(min=1, help="Answers that the model works on together.")
    ] = 64,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Answers that may wait; more are refused with 429.")
    ] = 128,
    max_cached_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that answers under way hold in memory together.")
    ] = 65536,
    prefix_cache_mb: Annotated[
        int,
        typer.Option(min=0, help="Memory for beginnings of prompts, for later ones."),
    ] = 256,
    max_choices: Annotated[
        int, typer.Option(min=1, help="Answers that one request may ask for.")
    ] = 8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens that a request may ask for.")
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest body of a request.")] = 16,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which an answer is given up.")
    ] = 600.0,
    drain_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds that answers get after SIGTERM.")
    ] = 30.0,
    metrics_prefix: Annotated[
        str, typer.Option(help="Before the metrics' names; 'vllm' fits dashboards made for vLLM.")
    ] = "steerable",
) -> None:
    """Serve a model over HTTP, with OpenAI's interface and a step of the policy per request.

    It listens at once, and answers 503 until the model is loaded. SIGTERM and Ctrl-C let answers
    end that are under way. Keys come from files or the environment, never from the command line.
    """
    with from_extra("server", "the server needs a package that is not installed"):
        from steerable_llm.server.process import serve as run
    from steerable_llm.policy.policy import Policy
    from steerable_llm.server.settings import ServerSettings

    keys, admins = read_keys(api_keys, API_KEYS), read_keys(admin_keys, ADMIN_KEYS)
    if not metrics_prefix.isidentifier():
        raise InvalidInputError(
            f"--metrics-prefix {metrics_prefix!r}: give a name of letters, digits and _"
        )
    if name is not None and not name.strip():
        raise InvalidInputError("--name is empty: say what clients call the model, or leave it out")
    for option, seconds in (
        ("--request-timeout", request_timeout),
        ("--drain-timeout", drain_timeout),
    ):
        if not math.isfinite(seconds):
            raise InvalidInputError(f"{option} {seconds}: give a number of seconds")
    check_hosts(image_host)
    if log is not None:
        open_log(log, make=True).close()  # and so is a log that cannot be opened
    if policy is not None:
        Policy.load(policy)  # what is wrong with it is told before the model loads
    if not keys and not _is_local(host):
        say(
            f"steerable: note: {host} lets everybody in who can reach it: give --api-keys",
            error=True,
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("steerable_llm.server").setLevel(logging.INFO)
    settings = ServerSettings(
        name=name,
        api_keys=keys,
        admin_keys=admins,
        allowed_origins=_origins(allow_origin or ()),
        policy_folder=policy.parent if policy else Path(),
        log=None if log is None else log if "://" in log else f"sqlite:///{log}",
        log_prompts=log_prompts,
        most_running=max_running,
        most_waiting=max_waiting,
        most_cached=max_cached_tokens,
        most_prefixes=prefix_cache_mb * _MB,
        most_choices=max_choices,
        most_tokens=max_tokens,
        most_bytes=max_body_mb * _MB,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        metrics_prefix=metrics_prefix,
    )
    run(
        lambda: load_model(model, revision, policy, template, True, image_host),
        settings,
        host,
        port,
        lambda line: say(f"steerable: {line}", error=True),
    )


def _origins(given: Iterable[str]) -> tuple[str, ...]:
    """Return origins as browsers send them.

    Raises:
        InvalidInputError: One of them is none.
    """
    found = []
    for origin in given:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise InvalidInputError(
                f"--allow-origin {origin!r}: give scheme and host of the page, such as "
                "http://localhost:3000, or '*'"
            )
        found.append(origin if origin == "*" else f"{parts.scheme}://{parts.netloc}".lower())
    return tuple(found)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
