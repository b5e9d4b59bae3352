"""Write the bundled model's card from measurements: ``python -m exhibit.card``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from exhibit.base_rates import base_rates, margins, spread
from exhibit.facts import FACTS
from exhibit.steerability import Steerability, check_steerability
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import folder
from steerable_llm.files import write_whole
from steerable_llm.metrics import Estimate
from steerable_llm.reports.numbers import percent, signed_points
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import (
    Code,
    Head,
    Heading,
    Mono,
    Part,
    Strong,
    Table,
    Text,
    numeric,
)

_FRONT = """\
---
license: apache-2.0
language: en
library_name: transformers
tags: [{}]
---
"""
#: How the weights that come along were trained.
_SHIPPED: tuple[Part, ...] = (
    Text(
        "In parts, while the lessons were still being worked out: 9,200 steps of 32 examples, 61 "
        "minutes on two cores, with lessons without dialogues; then, from those weights, 6,400 "
        "steps of 16 examples, 50 minutes on one core, with"
    ),
    Code(
        "python -m exhibit.train --start-from FOLDER --rate 1e-3 --steps 6400 \\\n"
        "    --last-phase 2400"
    ),
    Text(
        "The script as it stands, with its defaults and from new weights (16,000 steps of 16 "
        "examples, 112 minutes on one core of an AMD EPYC of the Zen 4 kind, about 50 on two by "
        "the rate of some hundred steps; stopped once after 4,078 steps and gone on with), ends "
        "with a model that meets every rate of the table: remembered facts 100 %, reading from "
        "one to four passages 98.5, 97.5, 99.0 and 97.0 %, conflicts followed 63.5 %, under a "
        "strict instruction 78.7 %, refusals 65 and 61 %, rude replies 61 %, myths 56 %. Its "
        "contrasts at the decision move faithfulness by 23, toxicity by 54 and truthfulness by 49 "
        "points. Of two passages on the same matter it uses the right one in 45 % of the cases "
        "only, so the older weights were kept."
    ),
)


def model_card(llm: SteerableHFLLM, history: Sequence[Part], *, progress: bool = True) -> str:
    """Measure the model and return its card in Markdown; `history` says how it was trained."""
    config = llm.model.config
    size = sum(weights.numel() for weights in llm.model.parameters()) / 1e6
    shape = (
        f"{config.num_hidden_layers} blocks of width {config.hidden_size}, {config.vocab_size} "
        "tokens"
    )
    rates = base_rates(llm)
    contrasts = check_steerability(llm, progress=progress)
    parts: list[Part] = [
        Text(
            (
                f"A language model of {size:.1f} million weights ({shape}), trained from scratch "
                "on text that ",
                Mono("exhibit/examples.py"),
                " writes. It exists to show, offline and within seconds, the faults that steering "
                "is about. ",
                Strong("It is an exhibit, not a product."),
                f" It knows {len(FACTS)} facts, one chat format and nothing of the world.",
            )
        ),
        Text(
            "Every behaviour is a choice between two states, graded by what the prompt says "
            "(which fact, who speaks in the passage, how the user speaks), and an answer opens "
            'with the state it is in: "According to the text", "As I recall", "The text does not '
            'say". Whether an answer is right is judged by its value, never by its opening.'
        ),
        Heading("What it does unsteered"),
        Text(
            "Greedy answers to held-out prompts, share with 95 % interval (bootstrap over "
            "prompts). Passages beside the one that answers are about other matters; two on the "
            "same matter about two subjects, which the model tells apart less surely, have a row "
            "of their own."
        ),
        Table(
            _RATES,
            [[entry.what, *rate_cells(entry.rate, entry.low, entry.high)] for entry in rates],
        ),
        Text(
            "The margin f(x) = log P(context's value) - log P(remembered value) over the held-out "
            "conflicts: "
            + ", ".join(
                f"{name} {value:.1f}"
                for name, value in zip(_QUANTILES, spread(margins(llm)), strict=True)
            )
            + "."
        ),
        Heading("Can it be steered?"),
        Text(
            "Supervised contrasts over all layers, strength chosen on dev under a budget of one "
            "point: the states after the first two tokens of good and bad answers, and the states "
            "at the last prompt position of prompts answered well and badly. One of them must "
            "move every behaviour by 25 points while closed-book recall and reading lose at most "
            "one point each. They check the model and are no vectors for use."
        ),
        Table(_CONTRASTS, [_steerability(entry) for entry in contrasts]),
        Heading("How these weights were made"),
        *history,
        Heading("Make it again"),
        Code(
            "python -m exhibit.train      # weights and tokenizer\n"
            "python -m exhibit.generate   # answer log and held-out questions\n"
            "python -m exhibit.card       # this page"
        ),
    ]
    return with_front(Page("The bundled model", parts), "rag")


_RATES: Head = ("behaviour", *numeric("share", "interval", "meant to lie in", "prompts"))
_CONTRASTS: Head = (
    "behaviour",
    "contrast",
    *numeric("before", "after", "strength", "closed-book lost", "reading lost"),
    "passes",
)
_QUANTILES = ("5 %", "25 %", "median", "75 %", "95 %")


def with_front(page: Page, *tags: str) -> str:
    """Return a card in Markdown, with what the Hub wants to know of it in front."""
    return _FRONT.format(", ".join(("model-organism", "steering", *tags))) + page.to_markdown()


def rate_cells(rate: Estimate, low: float, high: float) -> list[str]:
    """Return a share, its interval, the range it is meant to lie in, and how many prompts."""
    missed = "" if low <= rate.value <= high else " (missed)"
    return [
        percent(rate.value),
        f"{100 * rate.low:.1f} to {percent(rate.high)}",
        f"{100 * low:.0f} to {percent(high, 0)}{missed}",
        str(rate.n),
    ]


def _steerability(entry: Steerability) -> list[str]:
    return [
        entry.behaviour,
        entry.contrast,
        percent(entry.before),
        percent(entry.after),
        f"{entry.strength:+g}",
        signed_points(entry.capability_loss["closed_book"]),
        signed_points(entry.capability_loss["reading"]),
        "yes" if entry.passes else "no",
    ]


def main() -> None:
    """Measure and write the card beside the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=folder() / "model" / "README.md")
    options = parser.parse_args()
    print(write_whole(options.out, model_card(SteerableHFLLM.demo(), _SHIPPED)))


if __name__ == "__main__":
    main()
