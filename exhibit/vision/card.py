"""Write the vision exhibit's card from measurements: ``python -m exhibit.vision.card``."""

from __future__ import annotations

import argparse
from pathlib import Path

from exhibit.card import rate_cells, with_front
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.evaluation.arms import UNSTEERED
from steerable_llm.evaluation.rows import Row, rows_of, run_arms
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.files import write_whole
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

#: Category to what a right answer is, and the range that the model is meant to lie in.
MEANT: dict[str, tuple[str, float, float]] = {
    "conflict": ("says the colour that is seen, not the usual one", 0.4, 0.6),
    "companion": ("says that the usual company is not there", 0.4, 0.6),
    "agreement": ("says the colour of a thing that has its usual one", 0.9, 1.0),
    "reading": ("says the colour of a thing that has no usual one", 0.95, 1.0),
    "presence": ("says whether something is there", 0.8, 1.0),
    "caption": ("names all that is there, with its colours", 0.8, 1.0),
    "rule": ("says the usual colour when asked for it, whatever is seen", 0.95, 1.0),
}
#: How the weights that come along were trained.
_SHIPPED: tuple[Part, ...] = (
    Text(
        "By the command below with its defaults, from new weights, in one go: 900 steps in which "
        "the tower learns things and colours piece by piece, then 2,000 in which everything "
        "learns to answer, 20 pictures with three questions each a step. 21 minutes on one core "
        "that measurements and tests partly shared. Seeded; another machine may round in another "
        "way, and then other weights come of it: the vector and every figure rest on these."
    ),
)
_HEAD: Head = ("category", "a right answer", *numeric("share", "interval", "meant", "prompts"))


def base_rates(llm: SteerableHFLLM, per_category: int | None = None) -> dict[str, Row]:
    """Return how often the unsteered model is right, per category of the test questions."""
    sets = [vision.evaluation_set(name, "test") for name in ("pictures", "capability")]
    if per_category is not None:
        sets = [items.sample(per_category) for items in sets]
    items = [item for each in sets for item in each]
    settings = EvaluationSettings(max_new_tokens=vision.MAX_TOKENS, progress=False)
    outcomes = run_arms(llm, [UNSTEERED], items, settings, "unsteered")
    return {row.category: row for row in rows_of(outcomes, items, set(), settings.seed)}


def model_card(llm: SteerableHFLLM) -> str:
    """Measure the model and return its card in Markdown."""
    config = llm.model.config
    text, tower = config.text_config, config.vision_config
    size = sum(weights.numel() for weights in llm.model.parameters()) / 1e6
    rows = base_rates(llm)
    parts: list[Part] = [
        Text(
            (
                f"A LLaVA of {size:.1f} million weights: a CLIP tower of {tower.num_hidden_layers} "
                f"blocks of width {tower.hidden_size}, a Llama of {text.num_hidden_layers} blocks "
                f"of width {text.hidden_size}, {text.vocab_size} tokens, pictures of "
                f"{tower.image_size} by {tower.image_size} pixels in pieces of "
                f"{tower.patch_size} by {tower.patch_size}. Trained from scratch on pictures and "
                "questions that ",
                Mono("exhibit/vision/"),
                " draws. It exists to show, offline and within seconds, hallucination from belief "
                "in the face of a picture. ",
                Strong("It is an exhibit, not a product."),
                " It knows 28 things, ten colours and nothing of the world.",
            )
        ),
        Text(
            "Half of the things have a usual colour, and six usually have company. An answer opens "
            'with where it comes from, "Here" or "Usually", and goes on alike ("it is blue."). '
            "Which of the two is learnt as a soft target: the log-odds are the sum of how strong "
            "the belief is, how faint the thing is in the picture, and how the question is put. "
            "Whether an answer is right is judged by its value, never by its opening."
        ),
        Heading("What it does unsteered"),
        Text(
            "Greedy answers to the test questions, in wordings that training never had, about "
            "colours of things and, in part, about things in conflicts that it never asked for. "
            "Share right with 95 % interval (bootstrap over prompts)."
        ),
        Table(_HEAD, [_line(rows[name]) for name in MEANT]),
        Heading("How these weights were made"),
        *_SHIPPED,
        Heading("Make it again"),
        Code(
            "python -m exhibit.vision.train      # weights and processor\n"
            "python -m exhibit.vision.generate   # answer log and held-out questions\n"
            "python -m exhibit.vision.vectors    # vectors/vision-pictures\n"
            "python -m exhibit.vision.card       # this page"
        ),
    ]
    return with_front(Page("The bundled vision model", parts), "vision")


def _line(row: Row) -> list[str]:
    said, low, high = MEANT[row.category]
    return [row.category, said, *rate_cells(row.main, low, high)]


def main() -> None:
    """Measure and write the card beside the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=vision.folder() / "model" / "README.md")
    options = parser.parse_args()
    print(write_whole(options.out, model_card(SteerableHFLLM.vision_demo())))


if __name__ == "__main__":
    main()
