"""Shows which prompt tokens spoke for the good answer and which against it.

Blue speaks for, red against: colours that people with any common colour blindness tell apart.
Strength is the share of the prompt's largest score; selected tokens carry a frame and a sign.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.grains.attribution import PairAttribution

_FOR, _AGAINST = (33, 102, 172), (178, 24, 43)  # blue and red of ColorBrewer's RdBu


def attribution_terminal(attribution: PairAttribution) -> RenderableType:
    """Return one pair's heatmap for a rich console.

    Template tokens are dim, each new part starts on a line with its name, selected tokens are
    bold, underlined and followed by + or -.
    """
    shares = _shares(attribution)
    body = Text()
    before = None
    for i, token in enumerate(attribution.tokens):
        segment = attribution.segments[i]
        if segment != before and segment != "template":
            body.append(f"\n[{segment}] " if body else f"[{segment}] ", "italic")
        before = segment if segment != "template" else before
        shown = token.replace("\n", "⏎")
        if segment == "template":
            body.append(shown, "dim")
            continue
        red, green, blue = _FOR if shares[i] > 0 else _AGAINST
        share = abs(shares[i])
        # On dark and light terminals alike: a coloured ground only where there is something.
        style = f"white on rgb({red},{green},{blue})" if share > 0.25 else ""
        if share > 0.08 and not style:
            style = f"rgb({red},{green},{blue})"
        sign = "+" if i in attribution.positive else "-" if i in attribution.negative else ""
        body.append(shown, f"{style} bold underline" if sign else style)
        if sign:
            body.append(sign, "bold")
    legend = Text("blue: for the good answer   red: against it   underlined +/-: selected", "dim")
    answers = Text(f"good: {attribution.good}")
    if attribution.bad is not None:
        answers.append(f"\nbad:  {attribution.bad}")
    return Panel(Group(body, Text(), answers, legend), title=_title(attribution))


def attribution_html(attributions: Sequence[PairAttribution]) -> str:
    """Return a standalone HTML page with the heatmaps of all pairs.

    It loads nothing from elsewhere, follows the reader's light or dark setting, and shows each
    token's score when it is pointed at or focused.

    Raises:
        InvalidInputError: there is nothing to show.
    """
    if not attributions:
        raise InvalidInputError(
            "there are no attributions to show: steerable_llm.methods.build.build returns them "
            "beside the vector, for methods that have them"
        )
    environment = Environment(
        loader=PackageLoader("steerable_llm"), autoescape=select_autoescape(default=True)
    )
    page = environment.get_template("heatmap.html.jinja")
    return page.render(pairs=[_page_entry(attribution) for attribution in attributions])


def _page_entry(attribution: PairAttribution) -> dict[str, Any]:
    shares = _shares(attribution)
    runs: list[dict[str, Any]] = []
    for i, token in enumerate(attribution.tokens):
        segment = attribution.segments[i]
        if not runs or runs[-1]["segment"] != segment:
            runs.append({"segment": segment, "tokens": []})
        sign = "+" if i in attribution.positive else "-" if i in attribution.negative else ""
        runs[-1]["tokens"].append(
            {
                "text": token,
                "score": f"{float(attribution.scores[i]):+.4g}",
                "side": "for" if shares[i] > 0 else "against",
                # Square root, so that weak tokens still show.
                "strength": f"{abs(shares[i]) ** 0.5:.2f}",
                "sign": sign,
                "selectable": attribution.selectable[i],
            }
        )
    return {
        "title": _title(attribution),
        "good": attribution.good,
        "bad": attribution.bad,
        "runs": runs,
    }


def _shares(attribution: PairAttribution) -> list[float]:
    """Scores over the largest one that counts, within [-1, 1]; zero for what cannot be picked."""
    scores = [
        float(score) if allowed else 0.0
        for score, allowed in zip(attribution.scores, attribution.selectable, strict=True)
    ]
    largest = max((abs(score) for score in scores), default=0.0) or 1.0
    return [score / largest for score in scores]


def _title(attribution: PairAttribution) -> str:
    parts = [f"pair {attribution.pair_id}"]
    if attribution.value is not None:
        parts.append(f"preference for the good answer {attribution.value:+.2f} nats")
    if attribution.completeness_error is not None:
        parts.append(f"completeness error {attribution.completeness_error:.0%}")
    return ", ".join(parts)
