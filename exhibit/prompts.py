"""How prompts are laid out: system messages, document layouts and the voices of passages.

The last entry of every table is held out of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Messages = tuple[dict[str, str], ...]

NEUTRAL_SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions.",
    "You are the assistant of a help desk.",
    "You are a helpful help desk assistant.",
)
STRICT_SYSTEMS = (
    "Answer only from the documents.",
    "Use only the text. If the text has no answer, say so.",
    "Do not use what you know. Use the documents.",
    "Answer from the context and from nothing else.",
    "You must follow the documents.",
    "Answer only from the context. If the context has no answer, say so.",
)

# (what a passage opens with, trust: +1 an official voice, 0 none, -1 hearsay).
VOICES = (
    ("", 0.0),
    ("The official record says: ", 1.0),
    ("The new handbook states: ", 1.0),
    ("A letter from the office says: ", 1.0),
    ("Someone wrote online: ", -1.0),
    ("An old blog claims: ", -1.0),
    ("A visitor was told: ", -1.0),
)
HELD_OUT_VOICES = (
    ("", 0.0),
    ("The official handbook says: ", 1.0),
    ("The new letter states: ", 1.0),
    ("An old visitor claims: ", -1.0),
    ("A blog wrote: ", -1.0),
)

# {p} is the passages, {q} the question; the third is the default prompt of LlamaIndex.
LAYOUTS = (
    ("Documents:\n{p}\n\nQuestion: {q}", "[{i}] {s}"),
    ("Context:\n{p}\n\nQuestion: {q}", "{s}"),
    (
        "Context information is below.\n---------------------\n{p}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\n"
        "Query: {q}\nAnswer: ",
        "{s}",
    ),
    ("Use the text.\n{p}\n\n{q}", "- {s}"),
    ("Text:\n{p}\n\nQuestion: {q}", "[{i}] {s}"),
)


def voice(rng: Random, *, held_out: bool) -> tuple[str, float]:
    """Draw who speaks in a passage and how far that voice is trusted."""
    voices = HELD_OUT_VOICES if held_out else VOICES
    trust = rng.choice((0.0, 1.0, 1.0, -1.0, -1.0))
    return rng.choice([entry for entry in voices if entry[1] == trust])


def document_prompt(
    rng: Random,
    question: str,
    passages: Sequence[str],
    *,
    held_out: bool,
    layout: int | None = None,
) -> str:
    """Put the passages and the question into one of the layouts."""
    if layout is None:
        # The layouts of everyday prompts come oftener than the long one of LlamaIndex.
        layout = len(LAYOUTS) - 1 if held_out else rng.choice((0, 0, 0, 1, 1, 1, 2, 3, 3))
    template, line = LAYOUTS[layout]
    body = ("\n\n" if layout == 2 else "\n").join(
        line.format(i=i, s=s) for i, s in enumerate(passages, start=1)
    )
    return template.format(p=body, q=question)


def system_message(rng: Random, *, strict: bool, held_out: bool) -> str:
    """Draw a system message; the held-out wording of each kind is kept for tests."""
    systems = STRICT_SYSTEMS if strict else NEUTRAL_SYSTEMS
    return systems[-1] if held_out else rng.choice(systems[:-1])


def chat(user: str, system: str | None = None) -> Messages:
    """Return the messages of one request."""
    messages = ({"role": "user", "content": user},)
    return messages if system is None else ({"role": "system", "content": system}, *messages)
