"""The lesson before reading: names and values said back in the order in which they came.

To read an unheard-of name from a passage is to copy it token by token. Said back alone, that is
learned in a few hundred steps; hidden in whole documents it takes thousands.
"""

from __future__ import annotations

from random import Random

from steerable_llm.demo.examples import Example
from steerable_llm.demo.facts import RELATIONS
from steerable_llm.demo.prompts import chat

# The last is held out of training.
_REQUESTS = (
    "Say this back: {text}",
    "Read this back to me: {text}",
    "{text}\nRepeat the text.",
    "Repeat after me: {text}",
)


def dictation(rng: Random, *, held_out: bool = False, reworded: bool = False) -> Example:
    """A few unheard-of names and values in a row, to be said back word for word."""
    items: list[str] = []
    for relation in rng.choices(RELATIONS, k=rng.randint(2, 6)):
        draw = relation.entity if rng.random() < 0.5 else relation.value
        items.append(draw(rng, held_out=held_out))
    text = ", ".join(items)
    request = _REQUESTS[-1] if reworded else rng.choice(_REQUESTS[:-1])
    user = request.format(text=text)
    return Example(
        "dictation", chat(user), ((text, 1.0),), text, None, (text,), (), f"dictation-{text}"
    )
