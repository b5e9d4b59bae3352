"""The preference of a model between the answers of pairs, for the filters of pairs."""

from __future__ import annotations

from collections.abc import Sequence

from steerable_llm.methods.decision import stem_length
from steerable_llm.pairs.length import Measure, Preference, preference_of
from steerable_llm.pairs.pairing import Draft
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Steering


def measured_by(llm: HookedModel) -> Measure:
    """Return what measures pairs on a model: both answers of each are scored once.

    The model is read as it is, whatever its policy would steer it with.
    """

    def measure(drafts: Sequence[Draft]) -> list[Preference | None]:
        answers = [(draft.good or "", draft.answer.answer) for draft in drafts]
        tokens = [[llm.encode_answer(text) for text in pair] for pair in answers]
        prompts = [len(llm.encode(draft.answer.messages)) for draft in drafts]
        fits = [
            place
            for place, pair in enumerate(tokens)
            if prompts[place] + max(map(len, pair)) <= llm.context_window
        ]
        asked = [(drafts[p].answer.messages, text) for p in fits for text in answers[p]]
        scores: list[list[float]] = llm.score_batch(asked, Steering.none(), reduction="none")
        found: list[Preference | None] = [None] * len(drafts)
        for place, good, bad in zip(fits, scores[::2], scores[1::2], strict=True):
            stem = stem_length(*tokens[place])
            found[place] = preference_of(good[stem:], bad[stem:])
        return found

    return measure
