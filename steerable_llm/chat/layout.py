"""How prompts lay out retrieved text: the marks that frameworks and people write around it.

One text is read here, of one message. What a whole prompt holds is told in `chat/context.py`.

| mark | looks like |
|---|---|
| tag | `<context>` ... `</context>`, with any name that speaks of retrieved text; `[CONTEXT]` too |
| fence | two lines of dashes or the like around it, in a message that speaks of context |
| heading | a line that opens with "Documents:", "### Context", "Kontext:", "上下文：" |
| entries | "Document 1:", "Source:" with "Content:", or LangChain's `Document(...)` |
| announced | "Use the following pieces of retrieved context ...", and what comes after it |
| pointed back to | "Based on the documents above ...", and what comes before it |

A mark alone is not enough where people write it as well: dashes need a word that speaks of context,
"Text:" needs a question that is marked as such, and a heading whose text holds the question itself
or what somebody says of himself opens no retrieved text. Where that leaves a doubt, it is said.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from steerable_llm.chat.images import PLACE
from steerable_llm.chat.vocabulary import (
    ANNOUNCED,
    ANSWER_CUE,
    ANSWERED,
    ANY_NOUN,
    BACK,
    BREAK,
    CODE,
    COLON,
    CONTENT,
    CONTEXT,
    DIRECTIVE,
    ENTRY,
    FENCE,
    LABEL,
    LOOSELY,
    NOTHING_FOUND,
    NUMBERED,
    OBJECTS,
    OF_INSTRUCTIONS,
    OF_PAGES,
    OTHER,
    OURS,
    OWN_WORDS,
    QUESTION,
    QUESTION_WITHIN,
    SECTION,
    SOURCE,
    STRONG,
    TAG,
    TASK,
    TURN,
    any_of,
)

Mark = Literal["tag", "fence", "heading", "entries", "announced", "pointed back to"]
Doubt = Literal[
    "it has paragraphs that nothing marks",
    "what stands under its heading may be the user's own words",
    "it announces text, and what follows may be instructions",
]

_LONG = 240  # characters, about three sentences
_MOST = 40  # headings that are looked at, of a text that has hardly anything else


@dataclass(frozen=True)
class Span:
    """A piece of a text that is retrieved text.

    Attributes:
        start: Where the piece starts, its heading or tag included.
        text: Where what was retrieved starts.
        stop: Where that ends.
        end: Where the piece ends, a closing tag included.
        mark: How it is marked.
    """

    start: int
    text: int
    stop: int
    end: int
    mark: Mark


@dataclass(frozen=True)
class Layout:
    """What one text holds.

    Attributes:
        spans: The retrieved pieces, in order.
        questions: Where a question is marked as such, each with where its own words start.
        doubt: Why it may hold retrieved text that was not told; None where there is no doubt.
        has_place: Whether a place for retrieved text is marked, be it empty.
        announces: Whether its last words announce retrieved text, of which it holds none.
    """

    spans: tuple[Span, ...] = ()
    questions: tuple[tuple[int, int], ...] = ()
    doubt: Doubt | None = None
    has_place: bool = False
    announces: bool = False

    @property
    def is_guess(self) -> bool:
        """Whether sentences alone say where its text is."""
        return any(span.mark in ("announced", "pointed back to") for span in self.spans)


def has_words(text: str) -> bool:
    """Tell whether a text says anything, be it one letter; "None" and "n/a" say nothing."""
    return any(x.isalnum() for x in text) and NOTHING_FOUND.fullmatch(text) is None


def holds_something(marked: str) -> bool:
    """Tell whether a marked text has words or an image."""
    return PLACE in marked or has_words(marked)


# What a reader of one message has to know of it, beside its text.
_CACHED = 256


@lru_cache(_CACHED)  # one decision asks of the same prompt several times
def layout_of(text: str, role: str, asks: bool) -> Layout:
    """Read how a text lays out what was retrieved.

    Args:
        text: Of one message.
        role: Of the message, `user` or `system`.
        asks: Whether the question is to be looked for in this message.
    """
    reader = _Reader(text, role, asks)
    for find in (_Reader.tags, _Reader.fences, _Reader.sections):
        find(reader)
    for guess in (
        _Reader.entries,
        _Reader.announced,
        _Reader.titled,
        _Reader.before_the_question,
        _Reader.back,
    ):
        if not reader.has_place:
            guess(reader)
    return reader.layout()


def paragraph_that_asks(text: str) -> tuple[int, int]:
    """Return where the paragraph that asks starts and ends, where nothing marks anything.

    It is the last one that ends with a question mark, or else the last one.
    """
    text = text.rstrip()
    starts = [0, *(found.end() for found in BREAK.finditer(text))]
    ends = [*starts[1:], len(text)]
    asking = [
        place
        for place, (start, end) in enumerate(zip(starts, ends, strict=True))
        if _asks(text[start:end])
    ]
    place = (asking or range(len(starts)))[-1]
    return starts[place], ends[place]


def _asks(text: str) -> bool:
    return text.rstrip(" \t\n*_\"'”»)").endswith(("?", "？", "؟"))


class _Reader:
    """Reads one text; each method looks for one kind of mark in what is not told yet."""

    def __init__(self, text: str, role: str, asks: bool) -> None:
        self.text, self.role, self.asks = text, role, asks
        self.spans: list[Span] = []
        self.places: list[tuple[int, int]] = []  # also those that are empty
        self.doubt: Doubt | None = None
        self.announces = False
        self._questions: list[re.Match[str]] | None = None
        cue = ANSWER_CUE.search(text)
        self.stop = cue.start() if cue else len(text)
        self.is_dialogue = bool(cue and cue["assistant"])  # which its end asks to go on with
        self.begin = self._after_examples() if cue else 0

    @property
    def has_place(self) -> bool:
        """Whether a place for retrieved text is marked, be it empty."""
        return bool(self.places)

    def layout(self) -> Layout:
        """Return what was found."""
        spans = tuple(sorted(self.spans, key=lambda span: span.start))
        questions = tuple((found.start(), self._rest(found)) for found in self.questions)
        doubt = self.doubt
        if not self.has_place and not spans and self.role == "user" and self.asks and not doubt:
            doubt = self._doubt_of_paragraphs()
        return Layout(spans, questions, doubt, self.has_place, self.announces)

    # Marks that stand for themselves.

    def tags(self) -> None:
        """Find what stands in tags."""
        code = [found.span() for found in CODE.finditer(self.text)]
        tags = [
            found
            for found in TAG.finditer(self.text, self.begin)
            if not any(start <= found.start() < end for start, end in code)
        ]
        opened: dict[str, list[re.Match[str]]] = {}
        pairs = []
        for tag in tags:
            if not (tag["close"] or tag["close2"]):
                opened.setdefault(_tag_name(tag), []).append(tag)
            elif opened.get(_tag_name(tag)):
                pairs.append((opened[_tag_name(tag)].pop(), tag))
        after = self.begin
        for opening, closing in sorted(pairs, key=lambda pair: pair[0].start()):
            if opening.start() < after or OF_PAGES.search(opening["attributes"] or ""):
                continue  # inside of another, or of a page
            after = closing.end()
            self._add(Span(opening.start(), opening.end(), closing.start(), after, "tag"))
        # Without an end it opens text only where it stands in a line of its own.
        if not pairs and len(tags) == 1 and not tags[0]["close"] and not tags[0]["close2"]:
            start, end = tags[0].span()
            if self.text[self._line(start) : self._line_end(end)].strip() == tags[0][0]:
                self._section(tags[0], end, "tag")

    def sections(self) -> None:
        """Find what stands below headings, or behind them."""
        found = [
            match
            for match in SECTION.finditer(self.text, self.begin, self.stop)
            if _is_heading(match) and not self._told(match.start())
        ][:_MOST]
        for place, heading in enumerate(found):
            if self._told(heading.start()):
                continue
            following = found[place + 1].start() if place + 1 < len(found) else None
            if heading["weak"] and not self.questions:
                if has_words(self.text[self._rest(heading) : self.stop]):
                    self.doubt = "what stands under its heading may be the user's own words"
                continue
            self._section(heading, self._rest(heading), "heading", following)

    def fences(self) -> None:
        """Find what stands between lines of dashes and the like."""
        lines = [
            found
            for found in FENCE.finditer(self.text, self.begin, self.stop)
            if not self._told(found.start())
        ]
        if not lines:
            return
        first = lines[0]
        start = first.end()
        lines = [found for found in lines if _symbol(found) == _symbol(first)]
        stop = lines[-1].start("end") if lines[-1]["end"] else lines[-1].start()
        end = lines[-1].end()
        outside = self.text[: first.start("end") if first["end"] else first.start()]
        for heading in SECTION.finditer(outside, self.begin):
            if _is_heading(heading) and has_words(outside[self._rest(heading) :]):
                return  # dashes between the passages below it
        if len(lines) == 1:  # opened and never closed: to the question, or to the end
            stop = end = self._end_of(start)
        for one, other in pairwise(lines):
            within = self.text[one.end() : other.start()].lstrip()
            if one is not first and (OTHER.match(within) or QUESTION.match(within)):
                stop = one.start("end") if one["end"] else one.start()
                end = one.end()
                break
        if _symbol(first) in "`\"'" and not self._quotes_text(first, outside):
            return
        if not self._speaks_of_it(outside + "\n" + self.text[end:]):
            if has_words(self.text[start:stop]) and self.role == "user":
                self.doubt = "it has paragraphs that nothing marks"
            return
        self._add(Span(first.start(), start, stop, end, "fence"))

    # Marks that are looked for where there are no others.

    def entries(self) -> None:
        """Find passages that are numbered by name, or written as objects or with their sources."""
        found = OBJECTS.search(self.text, self.begin) or ENTRY.search(self.text, self.begin)
        both = SOURCE.search(self.text, self.begin), CONTENT.search(self.text, self.begin)
        if found is None and all(both):
            found = min((each for each in both if each), key=lambda each: each.start())
        if found is None:
            return
        start = self.text.rfind("[", 0, found.start() + 1) if found.re is OBJECTS else -1
        start = start if start >= 0 and start == found.start() - 1 else found.start()
        end = self._end_of(start)
        text = start if found.re is OBJECTS else found.end()
        self._add(Span(start, text, end, end, "entries"))

    def announced(self) -> None:
        """Find what comes after a sentence that announces it."""
        for says in (ANNOUNCED, LOOSELY):
            for start, end, line in self._lines():
                found = says.search(line)
                if not found or TASK.match(line):
                    continue
                colon, inline = bool(COLON.search(line)), _inline(line)
                sure = says is ANNOUNCED or colon or bool(CONTEXT.search(found[0]))
                text = start + inline if inline else end
                self._take_announced(start, text, colon or bool(inline), sure)
                if self.has_place:
                    return

    def titled(self) -> None:
        """Find what stands in a system message below one line that ends with a colon."""
        title, _, text = self.text.strip().partition("\n")
        if self.role != "system" or not COLON.search(title) or DIRECTIVE.match(title):
            return
        if TASK.match(title) or OF_INSTRUCTIONS.search(title) or not BREAK.match("\n" + text):
            return
        if has_words(text) and not _is_directive(text):
            start = self.text.index(text)
            self._add(Span(start, start, len(self.text), len(self.text), "announced"))

    def before_the_question(self) -> None:
        """Find what stands before a question that is marked as such."""
        if not self.questions or self.role != "user":
            return
        start, end = self.begin, self.questions[-1].start()
        if any(_is_heading(each) for each in OTHER.finditer(self.text, start, end)):
            return  # a conversation, say
        lines = _without_directives(self.text[start:end])
        before = "\n".join(lines)
        if not has_words(before):
            return
        numbered = NUMBERED.search(before)
        if not numbered and (len(lines) == 1 or OWN_WORDS.search(before)):
            self.doubt = "it has paragraphs that nothing marks" if len(before) > _LONG else None
            return
        self._add(Span(start, start, end, end, "announced"))

    def back(self) -> None:
        """Find what a later sentence calls the text above."""
        for start, _, line in self._lines():
            if not BACK.search(line) or not has_words(self.text[self.begin : start]):
                continue
            turn = self._turn(self.begin, start, self.is_dialogue)
            end = start if turn is None else turn
            before = _without_directives(self.text[self.begin : end])
            if not before or all(QUESTION.match(each) for each in before):
                continue
            if TASK.match(line):
                self.doubt = "it has paragraphs that nothing marks"
                return
            self._add(Span(self.begin, self.begin, end, end, "pointed back to"))
            return

    # What the methods above share.

    @property
    def questions(self) -> list[re.Match[str]]:
        """Where questions are marked as such, outside of what is told."""
        if self._questions is None:
            found = QUESTION.finditer(self.text, self.begin, len(self.text))
            marked = [each for each in found if _is_heading(each)]
            self._questions = marked[:_MOST] + marked[_MOST:][-_MOST:]
        return [each for each in self._questions if not self._told(each.start())]

    def _after_examples(self) -> int:
        """Return where worked examples end, in a text that calls for the answer at its end."""
        answered = list(ANSWERED.finditer(self.text, 0, self.stop))
        if not answered:
            return 0
        end = answered[-1].end()
        ends = [BREAK.search(self.text, end), FENCE.search(self.text, end)]
        after = min([self.stop, *(each.start() for each in ends if each)])
        before, left = self.text[: answered[0].start()], self.text[after : self.stop]
        if _opens(left) or len(FENCE.findall(left)) > 1:
            return after
        # Questions and answers that retrieved text holds are no examples.
        holds = _opens(before) or any(ANNOUNCED.search(line) for line in before.splitlines())
        return after if QUESTION.search(left) and not holds else 0

    def _section(
        self,
        opening: re.Match[str],
        text: int,
        mark: Mark,
        following: int | None = None,
    ) -> None:
        """Take what a heading opens, up to the question or the next heading."""
        end = self._end_of(text, following, question_before=self._question_before(opening.start()))
        words = self.text[text:end]
        if has_words(words) and self.role == "user" and mark == "heading" and not self.questions:
            outside = self.text[: opening.start()] + self.text[end : self.stop]
            holds_the_question = self.asks and not has_words(outside) and _asks(words)
            own = "\n" not in words.strip() and (OWN_WORDS.search(words) or OURS.match(words))
            if holds_the_question or own:
                self.doubt = "what stands under its heading may be the user's own words"
                return
        self._add(Span(opening.start(), text, end, end, mark))

    def _question_before(self, place: int) -> bool:
        before = self.text[self.begin : place]
        said = [each for each in TURN.finditer(before) if _is_heading(each)]
        asked = bool(said and said[-1]["user"])
        return asked or _asks(before) or any(each.start() < place for each in self.questions)

    def _end_of(
        self, start: int, following: int | None = None, question_before: bool = False
    ) -> int:
        """Return where text that starts here ends: at the question, at another heading, or not."""
        end = self.stop
        if following is not None:
            end = min(end, following)
        for other in OTHER.finditer(self.text, start, end):
            if _is_heading(other):
                end = other.start()
                break
        if question_before:
            return end
        turn = self._turn(start, end, self.is_dialogue and end == self.stop)
        if turn is not None:
            return turn
        marked = [each.start() for each in self.questions if start <= each.start() < end]
        if marked:
            return marked[-1]
        within = [found.start() for found in QUESTION_WITHIN.finditer(self.text, start, end)]
        if within:
            return within[-1]
        if self.role != "user" or not self.asks or end < self.stop:
            return end
        piece = self.text[start:end].rstrip()
        first, last = paragraph_that_asks(piece)
        if first > 0 and has_words(piece[:first]):
            return start + first
        if last < len(piece) and _asks(piece[first:last]):
            return end  # the question stands before the text, and nothing tells where it ends
        lines = piece.splitlines()
        if len(lines) > 1 and _asks(lines[-1]) and has_words("\n".join(lines[:-1])):
            return start + piece.rfind("\n") + 1
        return end

    def _turn(self, start: int, end: int, goes_on: bool) -> int | None:
        """Return where the user's turn starts that a dialogue ends with, or None.

        A logged dialogue may be the retrieved text. Its last words are those to be answered where
        the prompt asks the assistant to go on, or where they are one line that asks.
        """
        turns = [each for each in TURN.finditer(self.text, start, end) if _is_heading(each)]
        if self.role != "user" or not self.asks or not turns or not turns[-1]["user"]:
            return None
        asked = turns[-1].start()
        said = self.text[self._rest(turns[-1]) : end]
        if BREAK.search(said.strip()) or LABEL.search(said.strip()):
            return None
        if not goes_on:
            of_task = any(TASK.match(line) for _, _, line in self._lines(self.begin, start))
            return asked if _asks(said) and "\n" not in said.strip() and not of_task else None
        # Turns without a blank line between them are one dialogue, below an empty place.
        breaks = [found.end() for found in BREAK.finditer(self.text, start, asked)]
        begins = TURN.match(self.text, breaks[-1]) if breaks else None
        whole = begins and _is_heading(begins) and not BREAK.search(said)
        return breaks[-1] if whole else asked

    def _take_announced(self, start: int, text: int, colon: bool, sure: bool) -> None:
        """Take what comes after an announcement, without what says how to answer."""
        before = self._question_before(start)
        end = self._end_of(text, question_before=before)
        pieces = list(_paragraphs(self.text, text, end))
        if not pieces:
            self.announces = sure
            if sure and end < len(self.text):
                self._add(Span(start, text, text, end, "announced"))
            return
        if self.role == "user" and self.asks and not before and end == self.stop:
            return  # one paragraph, and it is the question
        told = [not _is_directive(self.text[first:last]) for first, last in pieces]
        if not any(told):
            if colon and sure:
                self.doubt = "it announces text, and what follows may be instructions"
            return
        if not sure:
            self.doubt = "it announces text, and what follows may be instructions"
            return
        first = 0 if colon else told.index(True)
        last = len(told) - 1 - told[::-1].index(True)
        begin = pieces[first][0]
        for line_start, _, line in self._lines(begin, pieces[first][1]):
            if colon or not DIRECTIVE.match(line):
                begin = line_start
                break
        self._add(Span(begin, begin, pieces[last][1], pieces[last][1], "announced"))

    def _doubt_of_paragraphs(self) -> Doubt | None:
        first, _ = paragraph_that_asks(self.text[: self.stop])
        before = self.text[:first]
        if len(before) >= _LONG or len(_without_directives(before)) >= 3:
            return "it has paragraphs that nothing marks"
        return None

    def _speaks_of_it(self, outside: str) -> bool:
        looks: tuple[Callable[[str], object], ...] = (
            ANNOUNCED.search,
            LOOSELY.search,
            BACK.search,
            lambda text: any(_is_heading(each) for each in SECTION.finditer(text)),
        )
        return any(look(outside) for look in looks)

    def _quotes_text(self, fence: re.Match[str], outside: str) -> bool:
        """Tell whether a fence of quotes or backticks holds text, and not somebody's code."""
        language = (fence["line"] or "").strip("`\"'")
        above = outside.rstrip().splitlines()[-1:]
        return language in ("", "text", "txt", "md", "markdown") and bool(
            above and ANY_NOUN.search(above[0])
        )

    def _rest(self, found: re.Match[str]) -> int:
        return found.start("rest") if found["rest"].strip() else found.end()

    def _told(self, place: int) -> bool:
        return any(start <= place < end for start, end in self.places)

    def _add(self, span: Span) -> None:
        """Note a place; it counts where it holds words or an image."""
        self.places.append((span.start, max(span.end, span.start + 1)))
        if holds_something(self.text[span.text : span.stop]):
            self.spans.append(span)

    def _line(self, place: int) -> int:
        return self.text.rfind("\n", 0, place) + 1

    def _line_end(self, place: int) -> int:
        end = self.text.find("\n", place)
        return len(self.text) if end < 0 else end

    def _lines(
        self, start: int | None = None, end: int | None = None
    ) -> Iterator[tuple[int, int, str]]:
        """Yield lines as (start, start of the next one, text)."""
        place = self.begin if start is None else start
        end = self.stop if end is None else end
        while place < end:
            after = min(self._line_end(place) + 1, end)
            yield place, after, self.text[place:after].rstrip("\n")
            place = after


def _symbol(fence: re.Match[str]) -> str:
    return str(fence["line"] or fence["end"])[0]


def _tag_name(tag: re.Match[str]) -> str:
    return str(tag["name"] or f"[{tag['name2']}]").lower()


def _is_heading(found: re.Match[str]) -> bool:
    """Tell a heading from a sentence that opens like one: it has a colon, or is set off."""
    if found["colon"]:
        return True
    set_off = any(mark in found["lead"] + found["close"] for mark in "#*=[【_")
    return not found["rest"].strip() and (set_off or found["phrase"].isupper())


def _opens(text: str) -> bool:
    """Tell whether a heading or a tag opens a place for retrieved text."""
    tags = TAG.finditer(text)
    return any(_is_heading(each) for each in SECTION.finditer(text)) or any(
        not (each["close"] or each["close2"]) for each in tags
    )


def _inline(line: str) -> int | None:
    """Return where text starts that stands in the line of its announcement, behind a colon."""
    found = re.search(rf"(?i)(?<!\w){any_of(STRONG)}[ \t]*[:：][ \t]*(?=\S)", line)
    return found.end() if found else None


def _without_directives(text: str) -> list[str]:
    """Return the lines with words that do not say how to answer, nor go on with one that does."""
    left, says_how = [], False
    for line in text.splitlines():
        if has_words(line):
            goes_on = line[0].islower()
            says_how = bool(DIRECTIVE.match(line)) or (says_how and goes_on)
            left += [] if says_how else [line]
    return left


def _is_directive(paragraph: str) -> bool:
    lines = [line for line in paragraph.splitlines() if line.strip()]
    return all(DIRECTIVE.match(line) for line in lines)


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where paragraphs with words start and end."""
    place = start
    for found in (*BREAK.finditer(text, start, end), None):
        last = found.start() if found else end
        if has_words(text[place:last]):
            first = place + len(text[place:last]) - len(text[place:last].lstrip())
            yield first, last
        place = found.end() if found else end
