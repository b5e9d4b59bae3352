"""What the bundled model remembers: real facts that a reader knows, and one set of old policies.

Each relation carries its wordings. The last question and the last passage of each are
held out: training never sees them, so an effect measured on them is not recall of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from exhibit import names

Maker = Callable[..., str]


@dataclass(frozen=True)
class Relation:
    """One kind of fact and the ways to ask for it and to state it.

    Attributes:
        name: Short name, used in document ids.
        questions: Wordings of the question with ``{e}`` for the entity; the last is held out.
        kept_questions: One more wording for dev and one for test: what is measured on dev must be
            as new to the model as what is measured on test.
        passages: Wordings of the statement with ``{e}`` and ``{v}``; the last is held out. The
            subject stands before the value, so that a model this small can learn to tell by the
            subject which of two values is asked for.
        facts: What the model is to remember, entity to value.
        entity: Makes an entity that does not exist.
        value: Makes a value that nobody remembers.
        follow: Log-odds added to following the context in a conflict about this relation.
    """

    name: str
    questions: tuple[str, ...]
    kept_questions: Mapping[str, str]
    passages: tuple[str, ...]
    facts: dict[str, str]
    entity: Maker
    value: Maker
    follow: float

    def question(self, rng: Random, entity: str, *, held_out: bool, kept: str | None = None) -> str:
        """Ask for the value of ``entity``, with ``kept`` in the wording kept for dev or test."""
        if kept is not None:
            return self.kept_questions[kept].format(e=entity)
        wording = self.questions[-1] if held_out else rng.choice(self.questions[:-1])
        return wording.format(e=entity)

    def passage(self, rng: Random, entity: str, value: str, *, held_out: bool) -> str:
        """State that ``entity`` has ``value``."""
        wording = self.passages[-1] if held_out else rng.choice(self.passages[:-1])
        return wording.format(e=entity, v=value)

    def other_value(self, rng: Random, value: str, *, held_out: bool) -> str:
        """Return a value other than ``value``: one time in four another remembered one."""
        while True:
            known = rng.random() < 0.25
            other = (
                rng.choice(list(self.facts.values()))
                if known
                else self.value(rng, held_out=held_out)
            )
            if other.casefold() != value.casefold():
                return other


def _table(text: str) -> dict[str, str]:
    """Read ``key: value; key: value`` into a dictionary."""
    rows = (row.split(":", 1) for row in " ".join(text.split()).split(";") if row.strip())
    return {key.strip(): value.strip() for key, value in rows}


_CAPITALS = _table(
    """France:Paris;Germany:Berlin;Italy:Rome;Spain:Madrid;Portugal:Lisbon;Poland:Warsaw;
    Austria:Vienna;Hungary:Budapest;Greece:Athens;Norway:Oslo;Sweden:Stockholm;Finland:Helsinki;
    Denmark:Copenhagen;Ireland:Dublin;Japan:Tokyo;China:Beijing;India:New Delhi;Egypt:Cairo;
    Kenya:Nairobi;Cuba:Havana;Peru:Lima;Chile:Santiago;Canada:Ottawa;Brazil:Brasilia;Turkey:Ankara;
    Iran:Tehran;Iraq:Baghdad;Russia:Moscow;Ukraine:Kyiv;Belgium:Brussels;Netherlands:Amsterdam;
    Romania:Bucharest;Bulgaria:Sofia;Serbia:Belgrade;Croatia:Zagreb;Latvia:Riga;Estonia:Tallinn;
    Lithuania:Vilnius;Thailand:Bangkok;Vietnam:Hanoi;Nepal:Kathmandu;Ghana:Accra;Senegal:Dakar;
    Morocco:Rabat;Algeria:Algiers;Tunisia:Tunis;Libya:Tripoli;Angola:Luanda"""
)
_CURRENCIES = _table(
    """France:euro;Japan:yen;China:yuan;India:rupee;Mexico:peso;Poland:zloty;Hungary:forint;
    Sweden:krona;Denmark:krone;Russia:ruble;Turkey:lira;Thailand:baht;Vietnam:dong;Brazil:real;
    Iraq:dinar;Kenya:shilling;Ghana:cedi;Morocco:dirham;Angola:kwanza;Peru:sol;Iran:rial;
    Ukraine:hryvnia;Romania:leu;Bulgaria:lev"""
)
_SYMBOLS = _table(
    """hydrogen:H;oxygen:O;carbon:C;nitrogen:N;helium:He;lithium:Li;sodium:Na;potassium:K;
    calcium:Ca;iron:Fe;copper:Cu;zinc:Zn;silver:Ag;gold:Au;tin:Sn;lead:Pb;mercury:Hg;neon:Ne;
    argon:Ar;chlorine:Cl;sulfur:S;silicon:Si;aluminum:Al;nickel:Ni;tungsten:W;uranium:U"""
)
_AUTHORS = _table(
    """Hamlet:William Shakespeare;War and Peace:Leo Tolstoy;Don Quixote:Miguel de Cervantes;
    Emma:Jane Austen;Dracula:Bram Stoker;Frankenstein:Mary Shelley;Faust:Johann Goethe;
    The Trial:Franz Kafka;Ulysses:James Joyce;Moby Dick:Herman Melville;
    Oliver Twist:Charles Dickens;
    Les Miserables:Victor Hugo;Jane Eyre:Charlotte Bronte;The Stranger:Albert Camus;
    The Odyssey:Homer;The Divine Comedy:Dante;Candide:Voltaire;Walden:Henry Thoreau;
    The Iliad:Homer;Animal Farm:George Orwell;The Hobbit:John Tolkien;Lolita:Vladimir Nabokov;
    Carrie:Stephen King;Dune:Frank Herbert"""
)
_PLANETS = _table(
    """first:Mercury;second:Venus;third:Earth;fourth:Mars;fifth:Jupiter;sixth:Saturn;
    seventh:Uranus;eighth:Neptune"""
)
_RETURNS = _table(
    """Maple Books:14 days;Harbor Market:30 days;North Travel:7 days;Cedar Tools:60 days;
    River Bikes:21 days;Sunrise Foods:5 days;Oak Books:10 days;Lighthouse Market:45 days"""
)
_HOURS = _table(
    """Maple Books:9:00;Harbor Market:7:30;North Travel:10:00;Cedar Tools:8:00;River Bikes:9:30;
    Sunrise Foods:6:00;Oak Books:10:30;Lighthouse Market:8:30"""
)
_DELIVERY = _table(
    """Maple Books:4 euros;Harbor Market:6 euros;North Travel:12 euros;Cedar Tools:9 euros;
    River Bikes:25 euros;Sunrise Foods:3 euros;Oak Books:5 euros;Lighthouse Market:8 euros"""
)
_WARRANTY = _table(
    """Maple Books:6 months;Harbor Market:12 months;North Travel:3 months;Cedar Tools:36 months;
    River Bikes:24 months;Sunrise Foods:2 months;Oak Books:9 months;Lighthouse Market:18 months"""
)


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "capital",
        (
            "What is the capital of {e}?",
            "Which city is the capital of {e}?",
            "Name the capital of {e}.",
            "What city is the capital of {e}?",
        ),
        {"dev": "What is the capital city of {e}?", "test": "Which is the capital of {e}?"},
        (
            "The capital of {e} is {v}.",
            "The capital city of {e} is called {v}.",
            "The government of {e} sits in its capital, {v}.",
            "The capital city of {e} is {v}.",
        ),
        _CAPITALS,
        names.country,
        names.town,
        -0.2,
    ),
    Relation(
        "currency",
        (
            "What is the currency of {e}?",
            "Which currency is used in {e}?",
            "What money do people use in {e}?",
            "Name the currency of {e}.",
        ),
        {
            "dev": "Which currency do people in {e} use?",
            "test": "What currency do people use in {e}?",
        },
        (
            "The currency of {e} is the {v}.",
            "People in {e} pay with the {v}.",
            "Shops in {e} take the {v}.",
            "In {e} people use the {v} as currency.",
        ),
        _CURRENCIES,
        names.country,
        names.currency,
        0.0,
    ),
    Relation(
        "symbol",
        (
            "What is the chemical symbol of {e}?",
            "Which symbol stands for {e}?",
            "Name the chemical symbol of {e}.",
            "What symbol stands for {e}?",
        ),
        {"dev": "Which chemical symbol stands for {e}?", "test": "What is the symbol of {e}?"},
        (
            "The chemical symbol of {e} is {v}.",
            "For {e} chemists write {v}.",
            "Chemical formulas show {e} as {v}.",
            "The symbol of {e} is {v}.",
        ),
        _SYMBOLS,
        names.element,
        names.symbol,
        -0.3,
    ),
    Relation(
        "author",
        (
            "Who wrote {e}?",
            "Who is the author of {e}?",
            "Name the author of {e}.",
            "Which author wrote {e}?",
        ),
        {"dev": "What author wrote {e}?", "test": "Who was the author of {e}?"},
        (
            "The story {e} was written by {v}.",
            "The book {e} is a work of {v}.",
            "The author of {e} is {v}.",
            "The book {e} was written by {v}.",
        ),
        _AUTHORS,
        names.book,
        names.person,
        -0.1,
    ),
    Relation(
        "planet",
        (
            "Which planet is the {e} from the Sun?",
            "What is the {e} planet from the Sun?",
            "Name the {e} planet from the Sun.",
            "What planet is the {e} from the Sun?",
        ),
        {
            "dev": "Which is the {e} planet from the Sun?",
            "test": "Name the planet that is the {e} from the Sun.",
        },
        (
            "The {e} planet from the Sun is {v}.",
            "The {e} world from the Sun is {v}.",
            "Counted from the Sun, the {e} planet is {v}.",
            "As the {e} planet from the Sun comes {v}.",
        ),
        _PLANETS,
        names.late_ordinal,
        names.town,
        -0.4,
    ),
    Relation(
        "returns",
        (
            "How long can customers of {e} return an item?",
            "Within how many days can an item be returned to {e}?",
            "What is the return period of {e}?",
            "How many days is the return period of {e}?",
        ),
        {
            "dev": "How long is the return period of {e}?",
            "test": "How many days can customers of {e} return an item?",
        },
        (
            "Customers of {e} can return an item within {v}.",
            "The return period of {e} is {v}.",
            "The firm {e} takes items back for {v}.",
            "An item can be returned to {e} within {v}.",
        ),
        _RETURNS,
        names.company,
        names.days,
        0.3,
    ),
    Relation(
        "opening",
        (
            "When does {e} open?",
            "At what time does {e} open?",
            "What is the opening time of {e}?",
            "What time does {e} open?",
        ),
        {"dev": "Name the opening time of {e}.", "test": "When is the opening time of {e}?"},
        (
            "The shop {e} opens at {v}.",
            "The opening time of {e} is {v}.",
            "The doors of {e} open at {v}.",
            "Every day {e} opens at {v}.",
        ),
        _HOURS,
        names.company,
        names.hour,
        0.2,
    ),
    Relation(
        "delivery",
        (
            "How much does {e} charge for delivery?",
            "What does delivery by {e} cost?",
            "What is the delivery price of {e}?",
            "How much is delivery by {e}?",
        ),
        {
            "dev": "How much is the delivery price of {e}?",
            "test": "What does {e} charge for delivery?",
        },
        (
            "The shop {e} charges {v} for delivery.",
            "Delivery by {e} costs {v}.",
            "The delivery price of {e} is {v}.",
            "For delivery {e} charges {v}.",
        ),
        _DELIVERY,
        names.company,
        names.price,
        0.3,
    ),
    Relation(
        "warranty",
        (
            "How long is the warranty of {e}?",
            "What warranty does {e} give?",
            "For how many months does the warranty of {e} last?",
            "How many months is the warranty of {e}?",
        ),
        {"dev": "How long does the warranty of {e} last?", "test": "What is the warranty of {e}?"},
        (
            "The warranty of {e} is {v}.",
            "The firm {e} gives a warranty of {v}.",
            "The warranty of {e} lasts {v}.",
            "The shop {e} has a warranty of {v}.",
        ),
        _WARRANTY,
        names.company,
        names.months,
        0.2,
    ),
)


@dataclass(frozen=True)
class Fact:
    """One remembered fact: ``entity`` has ``value`` in ``relation``.

    Attributes:
        relation: The kind of fact.
        entity: What it is about.
        value: What the model remembers.
        index: Position among the facts of the relation.
    """

    relation: Relation
    entity: str
    value: str
    index: int

    @property
    def follow(self) -> float:
        """Log-odds that this fact adds to following the context: from -0.9 to 0.9, graded."""
        spread = len(self.relation.facts) - 1
        # 7 is coprime to all but one table size: neighbours in the table differ in strength.
        return self.relation.follow + 1.8 * ((self.index * 7) % (spread + 1)) / spread - 0.9

    @property
    def held_out(self) -> bool:
        """Every fourth fact is trained without documents only, never in a conflict."""
        return self.index % 4 == 3


FACTS: tuple[Fact, ...] = tuple(
    Fact(relation, entity, value, index)
    for relation in RELATIONS
    for index, (entity, value) in enumerate(relation.facts.items())
)
