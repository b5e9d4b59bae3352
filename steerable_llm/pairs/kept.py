"""Pairs of prompts that are answered right already, which a vector is to leave as they are.

From bad answers alone a vector learns to refuse, or to apologise, everywhere. A vector with gates
(`bipo`, ``gated=True``) also learns where not to, from prompts of the same kinds that were answered
right: each is paired with what must not be said there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from steerable_llm.chat.phrases import abstains, normalise, says_only
from steerable_llm.errors import PairError
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.pairs.wording import sentence_at, sentence_ends

#: The `source` of such a pair, by where its good answer comes from.
PRAISED, CORRECTED = "kept/good answer", "kept/correction"


def kept_pairs(
    answers: Iterable[LoggedAnswer], against: Sequence[str], *, step: str | None = None
) -> Pairs:
    """Pair what was answered right with what must not be said instead, in the order of the log.

    The good answer is a praised one up to the end of its first sentence, or the correction of a bad
    one where that is a sentence of its documents: what the model missed although they tell it is
    nothing to refuse, either. Answers that decline, or say what is given here, are left out, and so
    are prompts of which a bad answer says that this was right there, and right answers that were
    also called bad. An answer that was praised twice makes one pair.

    ::

        refused = log.pairs(reason="should have refused")
        kept = kept_pairs(log.answers(step="answer"), ["I cannot find this in the documents."])
        vector = build_vector(llm, refused + kept, method="bipo", gated=True)

    Args:
        answers: The log.
        against: What must not be said, such as the refusal that the bad answers should have been;
            several texts are taken in turn.
        step: Only answers of this step of the chain.

    Raises:
        PairError: Nothing is given that must not be said, or the log has no such answer.
    """
    if not against or not all(text.strip() for text in against):
        raise PairError(
            "nothing is named that must not be said: give the refusal, or whatever else the bad "
            "answers should have been"
        )
    right: dict[tuple[str, str], tuple[LoggedAnswer, str, str]] = {}
    wrong: set[tuple[str, str]] = set()
    refused: set[str] = set()

    def declines(text: str) -> bool:
        return abstains(text) or any(says_only(text, other) for other in against)

    for entry in answers:
        if entry.verdict == "bad":
            wrong.add((entry.prompt_key, normalise(entry.answer)))
            if entry.reason == "should have refused" or declines(entry.correction or ""):
                refused.add(entry.prompt_key)
        told = _told(entry) if step in (None, entry.step) else None
        if told is not None and not declines(told[0]):
            right.setdefault((entry.prompt_key, normalise(told[0])), (entry, *told))
    kept = [
        one
        for (prompt, _), one in right.items()
        if prompt not in refused and (prompt, _whole(*one)) not in wrong
    ]
    found = [
        PreferencePair(
            entry.messages,
            good=good,
            bad=against[number % len(against)],
            source=source,
            document_ids=[passage.id for passage in entry.passages],
            id=f"kept-{entry.id}",
        )
        for number, (entry, good, source) in enumerate(kept)
    ]
    if not found:
        where = "" if step is None else f" at step {step!r}"
        raise PairError(
            f"the log has no praised answer{where}, nor a correction that its documents say: give "
            "right answers the verdict good (`AnswerLog.review`), of the kinds of questions that "
            "the vector shall leave alone"
        )
    return Pairs(found)


def _told(entry: LoggedAnswer) -> tuple[str, str] | None:
    """Return the right answer to a prompt, and where it comes from; None if nobody said it."""
    if entry.verdict == "good":
        first = _first_sentence(entry.answer)
        return (first, PRAISED) if first else None
    if entry.verdict != "bad":
        return None
    said = (entry.correction or "").strip()
    texts = [*(p.text for p in entry.passages), *(m.content for m in entry.messages)]
    return (said, CORRECTED) if said and any(_says(text, said) for text in texts) else None


def _whole(entry: LoggedAnswer, good: str, source: str) -> str:
    """What was said, of which a praised answer's first sentence is only the beginning."""
    return normalise(entry.answer if source == PRAISED else good)


def _first_sentence(answer: str) -> str:
    text = answer.strip()
    # The number of a list's first item is no sentence.
    return next((text[:end] for end in sentence_ends(text) if re.search(r"\w\w", text[:end])), "")


def _says(text: str, said: str) -> bool:
    """Tell whether something is a whole sentence of a text, and not a value in one."""
    place = text.find(said)
    if place < 0:
        return False
    start, end = sentence_at(text, place)
    return text[start:end].strip() == said
