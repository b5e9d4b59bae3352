"""Pairs of prompts that are answered right already, which a vector is to leave as they are.

From bad answers alone a vector learns to refuse, or to apologise, everywhere. A vector with gates
(`bipo`, ``gated=True``) also learns where not to, from prompts of the same kinds that were answered
right: each is paired with what must not be said there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from steerable_llm.chat.phrases import abstains, says_only
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
    nothing to refuse, either. Answers that decline, or say what is given here, are left out.

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
    found: list[PreferencePair] = []
    for entry in answers:
        told = _told(entry) if step in (None, entry.step) else None
        if told is None or abstains(told[0]) or any(says_only(told[0], text) for text in against):
            continue
        found.append(
            PreferencePair(
                entry.messages,
                good=told[0],
                bad=against[len(found) % len(against)],
                source=told[1],
                document_ids=[passage.id for passage in entry.passages],
                id=f"kept-{entry.id}",
            )
        )
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
        text = entry.answer.strip()
        # The number of a list's first item is no sentence.
        first = next(
            (text[:end] for end in sentence_ends(text) if re.search(r"\w\w", text[:end])), ""
        )
        return (first, PRAISED) if first else None
    said = (entry.correction or "").strip()
    texts = [*(p.text for p in entry.passages), *(m.content for m in entry.messages)]
    return (said, CORRECTED) if said and any(_says(text, said) for text in texts) else None


def _says(text: str, said: str) -> bool:
    """Tell whether something is a whole sentence of a text, and not a value in one."""
    place = text.find(said)
    if place < 0:
        return False
    start, end = sentence_at(text, place)
    return text[start:end].strip() == said
