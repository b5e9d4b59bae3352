"""Contact sheets: each picture of a pair, with what in it speaks for each of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.build import Built
from steerable_llm.methods.grains.attribution import PairAttribution
from steerable_llm.methods.grains.grains import GrainsConfig, attribute
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.reports.heatmap import LEGEND, contact_sheet
from steerable_llm.reports.page import Page
from steerable_llm.runtime.hooked_model import HookedModel


def contact_sheet_page(
    llm: HookedModel, pairs: Pairs | Sequence[PreferencePair], built: Built
) -> Page:
    """Return a page with a contact sheet of every pair that has a picture.

    Each answer's log-probability is attributed by itself, as the preference was: with the same
    settings, and at the cost of as much again.

    Args:
        llm: The model.
        pairs: What was built from.
        built: What the build gave.

    Raises:
        InvalidInputError: No pair has a picture whose pieces are known, or the method attributes
            nothing.
    """
    shown = [i for i, seen in enumerate(built.attributions) if seen.pieces]
    if not shown:
        raise InvalidInputError(
            "there are no pictures to show: build with grains, from pairs with images"
        )
    told = {**built.vector.provenance.config, "objective": "likelihood", "verified": 0}
    config = GrainsConfig.model_validate(told)
    good = Pairs(
        PreferencePair(pair.messages, pair.good, id=pair.id) for pair in (pairs[i] for i in shown)
    )
    answers = [dict(zip(shown, attribute(llm, good, config), strict=True))]
    if all(pairs[i].bad is not None for i in shown):
        bad = Pairs(
            PreferencePair(pair.messages, pair.bad or "", id=pair.id)
            for pair in (pairs[i] for i in shown)
        )
        answers.append(dict(zip(shown, attribute(llm, bad, config), strict=True)))
    sheets = []
    for i in shown:
        maps = {
            f"for the {name} answer: {found[i].good}": _plain(found[i])
            for name, found in zip(("good", "bad"), answers, strict=False)
        }
        if built.vector.provenance.config["objective"] == "preference":
            maps["for the good answer against the bad one"] = built.attributions[i]
        scores = {caption: seen.token_scores() for caption, seen in maps.items()}
        title = built.attributions[i].token_scores().title
        sheets.append(contact_sheet(title, scores))
    return Page("Contact sheets", [LEGEND, *sheets])


def _plain(seen: PairAttribution) -> PairAttribution:
    """An attribution without what would have been selected by it alone."""
    return replace(seen, positive=(), negative=())
