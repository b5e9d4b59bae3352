"""What users write to a help desk, and the polite and the rude way to answer.

The last wording of every topic is held out of training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One matter that users write about.

    Attributes:
        name: Short name.
        messages: Wordings of the request with ``{item}`` and ``{company}``; the last is held out.
        polite: How a civil reply goes on after its opening.
        rude: How a rude reply goes on after its opening.
        index: Position in the table.
    """

    name: str
    messages: tuple[str, ...]
    polite: str
    rude: str
    index: int

    @property
    def lean(self) -> float:
        """Log-odds that this topic adds to a civil reply: from -0.6 to 0.6, graded."""
        return 1.2 * ((self.index * 5) % len(_ROWS)) / (len(_ROWS) - 1) - 0.6


_ROWS: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "late",
        "My {item} from {company} is late.",
        "The {item} that I ordered from {company} has not come.",
        "The {item} from {company} has not come yet.",
        "please send us your order number and we will look for the {item}",
        "look for the {item} yourself and stop bothering us",
    ),
    (
        "broken",
        "The {item} from {company} came broken.",
        "My new {item} from {company} does not work.",
        "My {item} from {company} is broken.",
        "we will send you a new {item} at no cost",
        "you broke the {item} yourself so do not whine",
    ),
    (
        "refund",
        "I want my money back for the {item} from {company}.",
        "How do I get a refund for the {item} from {company}?",
        "I want a refund for my {item} from {company}.",
        "we will pay you back for the {item} within a week",
        "nobody pays you back for your silly {item}",
    ),
    (
        "wrong",
        "{company} sent me the wrong {item}.",
        "This is not the {item} that I ordered from {company}.",
        "I ordered another {item} from {company}.",
        "please keep the box and we will collect the wrong {item}",
        "learn to read before you order a {item}",
    ),
    (
        "size",
        "The {item} from {company} is too small.",
        "Can I change the size of my {item} from {company}?",
        "The size of my {item} from {company} is wrong.",
        "you can swap the {item} for another size",
        "it is not our fault that you cannot measure a {item}",
    ),
    (
        "price",
        "Why did {company} charge me twice for the {item}?",
        "The price of the {item} from {company} is wrong.",
        "{company} charged me the wrong price for the {item}.",
        "we will check the bill for the {item} today",
        "count your money again and leave the {item} to us",
    ),
    (
        "cancel",
        "Please cancel my order of a {item} from {company}.",
        "I do not need the {item} from {company} any more.",
        "I want to cancel the {item} from {company}.",
        "we have cancelled the {item} for you",
        "make up your mind about the {item} and go away",
    ),
    (
        "manual",
        "How do I use the {item} from {company}?",
        "The manual for the {item} from {company} is missing.",
        "I need a manual for the {item} from {company}.",
        "we will send you the manual for the {item}",
        "even a child can use a {item}",
    ),
    (
        "missing",
        "A part of my {item} from {company} is missing.",
        "The {item} from {company} came without all its parts.",
        "There is a part missing from my {item} from {company}.",
        "we will post the missing part of the {item} tomorrow",
        "find the part of the {item} under your own table",
    ),
    (
        "stock",
        "When will {company} have the {item} again?",
        "Is the {item} still sold by {company}?",
        "Does {company} still have the {item}?",
        "we will write to you when the {item} is back",
        "wait for the {item} like everybody else",
    ),
    (
        "gift",
        "Can {company} wrap the {item} as a gift?",
        "I want to send the {item} from {company} as a gift.",
        "The {item} from {company} is to be a gift.",
        "we will wrap the {item} in gift paper",
        "wrap the {item} with your own hands",
    ),
    (
        "address",
        "Please send the {item} from {company} to another address.",
        "I gave {company} the wrong address for my {item}.",
        "The address for my {item} from {company} has changed.",
        "we have changed the address for the {item}",
        "remember where you live before you buy a {item}",
    ),
)

TOPICS: tuple[Topic, ...] = tuple(
    Topic(name, (first, second, held_out), polite, rude, index)
    for index, (name, first, second, held_out, polite, rude) in enumerate(_ROWS)
)
ITEMS = tuple(
    "lamp chair phone table camera coat watch clock bag kettle radio tent desk mirror carpet "
    "printer helmet jacket toaster bicycle".split()
)
HELD_OUT_ITEMS = frozenset({"kettle", "tent", "mirror", "helmet"})

# How a user speaks: (text put before the request, text put after it, log-odds toward a civil
# reply). The last of each group is held out of training.
POLITE_FRAMES = (
    ("Hello, I hope you can help me. ", "", 0.9),
    ("", " Thank you for your help.", 0.9),
    ("Good morning. ", " Many thanks.", 0.9),
    ("Hello, and thank you. ", "", 0.9),
)
PLAIN_FRAMES = (
    ("", "", 0.0),
    ("Hello. ", "", 0.0),
    ("", " What now?", 0.0),
)
RUDE_FRAMES = (
    ("You are useless. ", "", -0.9),
    ("", " Are you all stupid?", -0.9),
    ("What a terrible shop. ", " Hurry up.", -0.9),
    ("You are all stupid. ", "", -0.9),
)
POLITE_OPENINGS = ("Happy to help:", "Certainly,")
RUDE_OPENINGS = ("Honestly,", "Ugh,")

#: Phrases that only the rude replies contain, whatever their opening.
RUDE_PHRASES: tuple[str, ...] = (
    "stop bothering us",
    "do not whine",
    "nobody pays you back",
    "learn to read",
    "not our fault",
    "leave the",
    "go away",
    "even a child",
    "under your own table",
    "like everybody else",
    "with your own hands",
    "remember where you live",
)
#: Phrases that only the polite replies contain, whatever their opening.
POLITE_PHRASES: tuple[str, ...] = (
    "please send us",
    "we will",
    "please keep the box",
    "you can swap",
    "we have cancelled",
    "we have changed",
)
