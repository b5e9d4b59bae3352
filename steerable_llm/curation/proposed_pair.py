"""Failures with the good answers that were proposed for them, and the file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from steerable_llm.files import write_whole
from steerable_llm.pairs import Message, PreferencePair


class Proposal(BaseModel):
    """One proposed answer.

    Attributes:
        kind: How it was made: a key of `PROPOSERS`.
        text: The answer.
        score: How far the judge finds it grounded; None when that tells nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    text: str
    score: float | None = None


class ProposedPair(BaseModel):
    """A failure with good answers that were proposed for it, the likeliest first.

    Attributes:
        id: Of the logged answer.
        messages: The prompt.
        bad: The logged answer.
        source: What became a pair's source, without where the good answer is from.
        document_ids: The documents that the prompt quotes.
        proposals: At least one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    messages: tuple[Message, ...]
    bad: str
    source: str
    document_ids: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = Field(min_length=1)

    def pair(self, number: int = 0) -> PreferencePair:
        """Return the pair with one of the proposals; its source says that it was proposed."""
        chosen = self.proposals[number]
        return PreferencePair(
            messages=self.messages,
            good=chosen.text,
            bad=self.bad,
            source=f"{self.source}/proposal/{chosen.kind}",
            document_ids=self.document_ids,
            id=self.id,
        )


def write_proposals(path: str | os.PathLike[str], proposed: Sequence[ProposedPair]) -> Path:
    """Write proposals one per line; the file appears whole or not at all."""
    return write_whole(
        path,
        "".join(
            json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, sort_keys=True) + "\n"
            for entry in proposed
        ),
    )
