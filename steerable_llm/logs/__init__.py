"""Logged answers and how they become preference pairs."""

from steerable_llm.logs.answers import LoggedAnswer, Passage, read_answers, write_answers
from steerable_llm.logs.pairing import Draft, PairingReport, pair_answers

__all__ = [
    "Draft",
    "LoggedAnswer",
    "PairingReport",
    "Passage",
    "pair_answers",
    "read_answers",
    "write_answers",
]
