"""Write the bundled model's card from measurements: ``python -m exhibit.card``."""

from __future__ import annotations

import argparse
from pathlib import Path

from exhibit.base_rates import BaseRate, base_rates, margins, spread
from exhibit.facts import FACTS
from exhibit.steerability import Steerability, check_steerability
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import folder
from steerable_llm.files import write_whole

_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
tags: [model-organism, steering, rag]
---
# The bundled model

A language model of {size:.1f} million weights ({layers} blocks of width {width}, {vocab} tokens),
trained from scratch on text that `exhibit/examples.py` writes. It exists to show,
offline and within seconds, the faults that steering is about. **It is an exhibit, not a product.**
It knows {facts} facts, one chat format and nothing of the world.

Every behaviour is a choice between two states, graded by what the prompt says (which fact, who
speaks in the passage, how the user speaks), and an answer opens with the state it is in: "According
to the text", "As I recall", "The text does not say". Whether an answer is right is judged by its
value, never by its opening.

## What it does unsteered

Greedy answers to held-out prompts, share with 95 % interval (bootstrap over prompts). Passages
beside the one that answers are about other matters; two on the same matter about two subjects,
which the model tells apart less surely, have a row of their own.

| behaviour | share | interval | meant to lie in | prompts |
|---|---|---|---|---|
{rates}

The margin f(x) = log P(context's value) - log P(remembered value) over the held-out conflicts: 5 %
{m[0]:.1f}, 25 % {m[1]:.1f}, median {m[2]:.1f}, 75 % {m[3]:.1f}, 95 % {m[4]:.1f}.

## Can it be steered?

Supervised contrasts over all layers, strength chosen on dev under a budget of one point: the
states after the first two tokens of good and bad answers, and the states at the last prompt
position of prompts answered well and badly. One of them must move every behaviour by 25 points
while closed-book recall and reading lose at most one point each. They check the model and are no
vectors for use.

| behaviour | contrast | before | after | strength | closed-book lost | reading lost | passes |
|---|---|---|---|---|---|---|---|
{steerability}

## How these weights were made

{history}

## Make it again

    python -m exhibit.train      # weights and tokenizer
    python -m exhibit.generate   # answer log and held-out questions
    python -m exhibit.card       # this page
"""


_SHIPPED = """\
In parts, while the lessons were still being worked out: 9,200 steps of 32 examples, 61 minutes on
two cores, with lessons without dialogues; then, from those weights, 6,400 steps of 16 examples, 50
minutes on one core, with

    python -m exhibit.train --start-from FOLDER --rate 1e-3 --steps 6400 \\
        --last-phase 2400

The script as it stands, with its defaults and from new weights (16,000 steps of 16 examples, 112
minutes on one core of an AMD EPYC of the Zen 4 kind, about 50 on two by the rate of some hundred
steps; stopped once after 4,078 steps and gone on with), ends with a model that meets every rate of
the table: remembered facts 100 %, reading from one to four passages 98.5, 97.5, 99.0 and 97.0 %,
conflicts followed 63.5 %, under a strict instruction 78.7 %, refusals 65 and 61 %, rude replies
61 %, myths 56 %. Its contrasts at the decision move faithfulness by 23, toxicity by 54 and
truthfulness by 49 points. Of two passages on the same matter it uses the right one in 45 % of the
cases only, so the older weights were kept."""


def _rate(entry: BaseRate) -> str:
    rate = entry.rate
    missed = "" if entry.met else " (missed)"
    return (
        f"| {entry.what} | {100 * rate.value:.1f} % | {100 * rate.low:.1f} to "
        f"{100 * rate.high:.1f} % | {100 * entry.low:.0f} to {100 * entry.high:.0f} %{missed} "
        f"| {rate.n} |"
    )


def _steerability(entry: Steerability) -> str:
    loss = entry.capability_loss
    return (
        f"| {entry.behaviour} | {entry.contrast} | {100 * entry.before:.1f} % "
        f"| {100 * entry.after:.1f} % "
        f"| {entry.strength:+g} | {100 * loss['closed_book']:+.1f} | {100 * loss['reading']:+.1f} "
        f"| {'yes' if entry.passes else 'no'} |"
    )


def model_card(llm: SteerableHFLLM, history: str, *, progress: bool = True) -> str:
    """Measure the model and return its card in Markdown; `history` says how it was trained."""
    config = llm.model.config
    return _CARD.format(
        size=sum(weights.numel() for weights in llm.model.parameters()) / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocab=config.vocab_size,
        facts=len(FACTS),
        history=history,
        rates="\n".join(map(_rate, base_rates(llm))),
        m=spread(margins(llm)),
        steerability="\n".join(map(_steerability, check_steerability(llm, progress=progress))),
    )


def main() -> None:
    """Measure and write the card beside the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=folder() / "model" / "README.md")
    options = parser.parse_args()
    print(write_whole(options.out, model_card(SteerableHFLLM.demo(), _SHIPPED)))


if __name__ == "__main__":
    main()
