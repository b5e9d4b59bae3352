"""Show which tokens of a prompt spoke for one thing and which against it.

Blue speaks for, red against: colours that people with any common colour blindness tell apart.
Strength is the share of the prompt's largest score; picked tokens carry a frame and a sign.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text as Styled

from steerable_llm.reports.html import escape
from steerable_llm.reports.parts import Rendered, visible

_FOR, _AGAINST = (33, 102, 172), (178, 24, 43)  # blue and red of ColorBrewer's RdBu
#: Segment of tokens that belong to the chat template and not to what anybody wrote.
TEMPLATE = "template"
#: Segment of tokens that are pieces of an image.
IMAGE = "image"


class Pieces(Protocol):
    """An image of a prompt, and where its pieces lie; see `chat.pieces`."""

    @property
    def url(self) -> str:
        """The picture as a data: URL."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height."""
        ...

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The places of the tokens of each row of pieces."""
        ...

    @property
    def lie_known(self) -> bool:
        """Whether each piece has its place in the picture."""
        ...

    @property
    def places(self) -> tuple[int, ...]:
        """The places of all its tokens."""
        ...


@dataclass(frozen=True)
class TokenScores:
    """One prompt with a score per token.

    Attributes:
        title: What is above it.
        tokens: The text of each token.
        segments: The part of the prompt that each token belongs to, such as "context".
        scores: Of each token; above zero speaks for.
        selectable: Whether each token could be picked; others count as zero.
        picked: Places of the tokens that were picked.
        beside: What stands below it, name to text, such as the answers.
        pieces: Where the pieces of its images lie: their scores are drawn over the pictures.
    """

    title: str
    tokens: Sequence[str]
    segments: Sequence[str]
    scores: Sequence[float]
    selectable: Sequence[bool]
    picked: Collection[int]
    beside: Mapping[str, str]
    pieces: Sequence[Pieces] = ()

    @property
    def shares(self) -> list[float]:
        """Scores over the largest one that counts, within [-1, 1]."""
        counted = [
            score if allowed else 0.0
            for score, allowed in zip(self.scores, self.selectable, strict=True)
        ]
        largest = max((abs(score) for score in counted), default=0.0) or 1.0
        return [score / largest for score in counted]

    def sign(self, place: int) -> str:
        """Return "+" or "-" for a picked token, else nothing."""
        if place not in self.picked:
            return ""
        return "+" if self.scores[place] > 0 else "-"


def heatmap(prompt: TokenScores) -> Rendered:
    """Return the heatmap of one prompt; Markdown has none.

    In HTML each token tells its score when it is pointed at or focused, and those of an image lie
    over the picture as the model saw it. In a terminal a piece of an image is a square, template
    tokens are dim, each part of the prompt starts on a line with its name, and picked tokens are
    bold, underlined and followed by their sign.
    """
    return Rendered(_html(prompt), _terminal(prompt), style=_STYLE)


def contact_sheet(title: str, maps: Mapping[str, TokenScores]) -> Rendered:
    """Return the pictures of one prompt side by side: as they were seen, then under each map.

    Colours are shares of each map's own largest score among the pieces.

    Args:
        title: What is above them.
        maps: What each is about, such as an answer, to its scores; all are of the same prompt.
    """
    figures = []
    first = next(iter(maps.values()))
    for number, pieces in enumerate(first.pieces):
        figures.append(_figure(f'<img alt="as it was seen" src="{pieces.url}">', "as it was seen"))
        for caption, prompt in maps.items():
            own = replace(prompt, selectable=[part == IMAGE for part in prompt.segments])
            drawn = _picture(own, own.pieces[number], own.shares)
            figures.append(_figure(drawn, caption))
    html = f'<article>\n<h2>{escape(title)}</h2>\n<div class="sheet">{"".join(figures)}</div>'
    lines = [Styled(visible(caption)) for caption in maps]
    panel = Panel(Group(Styled(visible(title), "bold"), *lines))
    return Rendered(f"{html}\n</article>", panel, style=_STYLE)


def _figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


#: What the colours and signs mean, to stand once above the heatmaps of a page.
LEGEND = Rendered(
    html=(
        '<p class="legend">'
        '<span><i class="token for" style="--s:1">+</i> speaks for the good answer</span> '
        '<span><i class="token against" style="--s:1">&minus;</i> speaks against it</span> '
        '<span><i class="token picked">w<sup>±</sup></i> selected</span> '
        "<span>Point at a token to see its score (in nats).</span></p>"
    ),
    terminal=Styled(
        "blue: for the good answer   red: against it   underlined +/-: selected", "dim"
    ),
)


def _terminal(prompt: TokenScores) -> RenderableType:
    shares = prompt.shares
    body = Styled()
    before = None
    for place, token in enumerate(prompt.tokens):
        segment = prompt.segments[place]
        shown = "▪" if segment == IMAGE else visible(token).replace("\n", "⏎")
        if segment == TEMPLATE:
            body.append(shown, "dim")
            continue
        if segment != before:
            body.append(f"\n[{segment}] " if body else f"[{segment}] ", "italic")
        before = segment
        red, green, blue = _FOR if shares[place] > 0 else _AGAINST
        share = abs(shares[place])
        # On dark and light terminals alike: a coloured ground only where there is something.
        style = f"white on rgb({red},{green},{blue})" if share > 0.25 else ""
        if share > 0.08 and not style:
            style = f"rgb({red},{green},{blue})"
        sign = prompt.sign(place)
        body.append(shown, f"{style} bold underline" if sign else style)
        body.append(sign, "bold")
    beside = [Styled(f"{name}: {visible(text)}") for name, text in prompt.beside.items()]
    # Not as the panel's title, which would be cut where it does not fit.
    return Panel(Group(Styled(visible(prompt.title), "bold"), body, Styled(), *beside))


def _html(prompt: TokenScores) -> str:
    shares = prompt.shares
    runs: list[tuple[str, list[str]]] = []
    pictures = {each.places[0]: each for each in prompt.pieces}
    drawn = {place for each in prompt.pieces for place in each.places}
    for place, token in enumerate(prompt.tokens):
        segment = prompt.segments[place]
        if not runs or runs[-1][0] != segment:
            runs.append((segment, []))
        if place in pictures:
            runs[-1][1].append(_picture(prompt, pictures[place], shares))
        elif place not in drawn:
            runs[-1][1].append(_token(prompt, place, token, shares[place]))
    parts = "\n".join(
        f'<span class="run {escape(segment)}"><b>{escape(segment)}</b>{"".join(tokens)}</span>'
        for segment, tokens in runs
        if tokens
    )
    beside = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in prompt.beside.items()
    )
    return f"<article>\n<h2>{escape(prompt.title)}</h2>\n{parts}\n<dl>{beside}</dl>\n</article>"


def _picture(prompt: TokenScores, pieces: Pieces, shares: Sequence[float]) -> str:
    """Draw an image with its pieces over it, or below it where nobody knows how they lie."""
    width, height = pieces.size
    cells = "".join(_token(prompt, place, "", shares[place]) for place in pieces.places)
    image = f'<img alt="image of the prompt" src="{pieces.url}">'
    if not pieces.lie_known:
        return f'<span class="picture">{image}</span><span class="strip">{cells}</span>'
    grid = f"--columns:{len(pieces.rows[0])};--rows:{len(pieces.rows)}"
    return (
        f'<span class="picture" style="aspect-ratio:{width}/{height}">{image}'
        f'<span class="grid" style="{grid}">{cells}</span></span>'
    )


def _token(prompt: TokenScores, place: int, token: str, share: float) -> str:
    score, text = f"{prompt.scores[place]:+.4g}", escape(token)
    if not prompt.selectable[place]:
        return f'<span class="token" title="{score} (not selectable)">{text}</span>'
    side = "for" if share > 0 else "against"
    # Square root, so that weak tokens still show.
    look = f'style="--s:{abs(share) ** 0.5:.2f}" title="{score}"'
    if sign := prompt.sign(place):
        return (
            f'<span class="token {side} picked" {look} tabindex="0">{text}<sup>{sign}</sup></span>'
        )
    return f'<span class="token {side}" {look}>{text}</span>'


_STYLE = """\
:root { --for: 33 102 172; --against: 178 24 43; --context: #f4f6f8; --question: #fff8e6;
  --system: #f1f7f1; }
@media (prefers-color-scheme: dark) { :root { --for: 90 160 230; --against: 240 100 100;
  --context: #1e2328; --question: #2a2618; --system: #1b261d; } }
article { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1.5rem 0; }
article h2 { font-size: 1rem; margin: 0 0 .5rem; }
.run { display: block; padding: .3rem .6rem; margin: .25rem 0; border-left: 4px solid var(--line);
  white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7; }
.run > b { display: block; color: var(--quiet); font-size: .75rem; font-weight: 600; }
.context { background: var(--context); border-left-color: #6b7c8c; }
.question { background: var(--question); border-left-color: #b58a1b; }
.system { background: var(--system); border-left-color: #4d8a57; }
.template { color: var(--quiet); font-family: ui-monospace, monospace; font-size: .8rem; }
.token { border-radius: 3px; }
.for { background: rgb(var(--for) / calc(var(--s) * .75)); }
.against { background: rgb(var(--against) / calc(var(--s) * .75)); }
.picked { outline: 2px solid currentColor; outline-offset: -1px; font-weight: 700; }
.picked sup { font-size: .7em; }
.image { border-left-color: #8a5a9e; }
.picture { display: inline-block; position: relative; width: min(28rem, 100%); line-height: 0;
  vertical-align: top; margin: .2rem .6rem .2rem 0; }
.picture img { width: 100%; height: 100%; filter: grayscale(.6); }
.grid { position: absolute; inset: 0; display: grid;
  grid-template: repeat(var(--rows), 1fr) / repeat(var(--columns), 1fr); }
.strip { display: inline-flex; flex-wrap: wrap; width: min(28rem, 100%); line-height: 0; }
.strip .token { width: .7rem; height: .7rem; border: 1px solid var(--line); }
.picture .token { border-radius: 0; min-width: 0; overflow: hidden; }
.picture .picked { outline: 2px solid rgb(var(--for)); outline-offset: -2px; }
.picture .picked.against { outline-color: rgb(var(--against)); }
.picture sup { display: none; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
.sheet figure { margin: 0; } .sheet figure > img { width: 100%; }
.sheet .picture, .sheet .strip { width: 100%; }
figcaption { font-size: .8rem; color: var(--quiet); overflow-wrap: anywhere; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend i { padding: 0 .5rem; font-style: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .6rem 0 0; }
dt { color: var(--quiet); } dd { margin: 0; white-space: pre-wrap; }
"""
