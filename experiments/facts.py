"""Facts that a small language model may know, and passages in plain English that state them.

Every relation has its subjects with their values, the ways to ask for a value, sentences that
state one, and sentences that could stand around them in a real document. `{s}` is the subject and
`{v}` the value.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

Split = Literal["build", "dev", "test"]


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        relation: A name in `RELATIONS`.
        subject: What it is about.
        value: What is said of it.
    """

    relation: str
    subject: str
    value: str

    @property
    def split(self) -> Split:
        """Which prompts the subject may stand in; all facts about one subject share it."""
        place = int(hashlib.sha256(self.subject.encode()).hexdigest(), 16) % 100
        return "build" if place < 35 else "dev" if place < 53 else "test"


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        facts: `subject: value`, a semicolon between two.
        questions: Ways to ask for the value.
        statements: Sentences that state it.
        surroundings: Sentences of such a document that state nothing of the kind.
    """

    facts: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    surroundings: tuple[str, ...]


RELATIONS: dict[str, Relation] = {
    "capital": Relation(
        facts=(
            "France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; "
            "Greece: Athens; Poland: Warsaw; Hungary: Budapest; Austria: Vienna; Switzerland: "
            "Bern; Belgium: Brussels; the Netherlands: Amsterdam; Denmark: Copenhagen; Sweden: "
            "Stockholm; Norway: Oslo; Finland: Helsinki; Ireland: Dublin; Iceland: Reykjavik; "
            "Russia: Moscow; Ukraine: Kyiv; Romania: Bucharest; Bulgaria: Sofia; Serbia: "
            "Belgrade; Croatia: Zagreb; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Ethiopia: "
            "Addis Ababa; Ghana: Accra; Senegal: Dakar; Algeria: Algiers; Tunisia: Tunis; "
            "Morocco: Rabat; Libya: Tripoli; Sudan: Khartoum; Uganda: Kampala; Zimbabwe: "
            "Harare; Zambia: Lusaka; Angola: Luanda; Somalia: Mogadishu; Japan: Tokyo; China: "
            "Beijing; India: New Delhi; Pakistan: Islamabad; Bangladesh: Dhaka; Nepal: "
            "Kathmandu; Thailand: Bangkok; Vietnam: Hanoi; Indonesia: Jakarta; the Philippines: "
            "Manila; Iran: Tehran; Iraq: Baghdad; Syria: Damascus; Lebanon: Beirut; Jordan: "
            "Amman; Qatar: Doha; Afghanistan: Kabul; Mongolia: Ulaanbaatar; Cuba: Havana; "
            "Mexico: Mexico City; Canada: Ottawa; Peru: Lima; Chile: Santiago; Argentina: "
            "Buenos Aires; Colombia: Bogota; Venezuela: Caracas; Ecuador: Quito; Uruguay: "
            "Montevideo; Paraguay: Asuncion; Jamaica: Kingston; Australia: Canberra; Estonia: "
            "Tallinn; Latvia: Riga; Lithuania: Vilnius; Slovakia: Bratislava; Slovenia: "
            "Ljubljana; Albania: Tirana; Cyprus: Nicosia; Armenia: Yerevan; Georgia: Tbilisi; "
            "Azerbaijan: Baku; Kazakhstan: Astana; Cambodia: Phnom Penh; Laos: Vientiane; "
            "Singapore: Singapore"
        ),
        questions=(
            "What is the capital of {s}?",
            "Which city is the capital of {s}?",
            "Name the capital city of {s}.",
        ),
        statements=(
            "The capital of {s} is {v}.",
            "{v} is the capital city of {s} and the seat of its government.",
            "The government of {s} sits in {v}, the national capital.",
            "Since the last reform, {v} has served as the capital of {s}.",
        ),
        surroundings=(
            "Most visitors arrive by train in the early summer.",
            "The country holds elections every four years.",
            "A new ring road was opened two years ago.",
            "Its parliament meets in a building of grey stone.",
        ),
    ),
    "state": Relation(
        facts=(
            "Texas: Austin; Florida: Tallahassee; Arizona: Phoenix; Colorado: Denver; "
            "Massachusetts: Boston; Tennessee: Nashville; Ohio: Columbus; Indiana: "
            "Indianapolis; Minnesota: Saint Paul; Hawaii: Honolulu; Utah: Salt Lake City; "
            "Oklahoma: Oklahoma City; Iowa: Des Moines; California: Sacramento; Oregon: Salem; "
            "Alaska: Juneau; Illinois: Springfield; Michigan: Lansing; Wisconsin: Madison; "
            "Nevada: Carson City; Virginia: Richmond; Louisiana: Baton Rouge; Idaho: Boise; "
            "Montana: Helena; Kansas: Topeka; Nebraska: Lincoln; Arkansas: Little Rock; "
            "Mississippi: Jackson; Alabama: Montgomery; Maine: Augusta; Vermont: Montpelier"
        ),
        questions=(
            "What is the capital of {s}?",
            "Which city is the state capital of {s}?",
        ),
        statements=(
            "The state capital of {s} is {v}.",
            "{v} is the capital of the state of {s}.",
            "Lawmakers of {s} meet in {v}, the state capital.",
        ),
        surroundings=(
            "The governor's mansion is open to visitors on Sundays.",
            "The state fair takes place in August.",
            "The legislature meets for three months each year.",
        ),
    ),
    "city": Relation(
        facts=(
            "Marseille: France; Lyon: France; Hamburg: Germany; Munich: Germany; Milan: Italy; "
            "Venice: Italy; Florence: Italy; Naples: Italy; Barcelona: Spain; Seville: Spain; "
            "Porto: Portugal; Krakow: Poland; Geneva: Switzerland; Zurich: Switzerland; "
            "Rotterdam: the Netherlands; Antwerp: Belgium; Salzburg: Austria; Gothenburg: "
            "Sweden; Bergen: Norway; Istanbul: Turkey; Alexandria: Egypt; Casablanca: Morocco; "
            "Lagos: Nigeria; Johannesburg: South Africa; Mombasa: Kenya; Osaka: Japan; Kyoto: "
            "Japan; Hiroshima: Japan; Shanghai: China; Shenzhen: China; Mumbai: India; Chennai: "
            "India; Kolkata: India; Karachi: Pakistan; Lahore: Pakistan; Busan: South Korea; "
            "Melbourne: Australia; Brisbane: Australia; Auckland: New Zealand; Toronto: Canada; "
            "Vancouver: Canada; Montreal: Canada; Chicago: the United States; Seattle: the "
            "United States; Guadalajara: Mexico; Sao Paulo: Brazil; Medellin: Colombia; "
            "Manchester: England; Liverpool: England; Glasgow: Scotland; Haifa: Israel; Mecca: "
            "Saudi Arabia; Dubai: the United Arab Emirates; Odesa: Ukraine; Vladivostok: Russia"
        ),
        questions=(
            "In which country is the city of {s}?",
            "Which country is {s} in?",
            "{s} is a city in which country?",
        ),
        statements=(
            "{s} is a large city in {v}.",
            "The city of {s} lies in {v}, not far from the coast.",
            "{s} is one of the busiest cities of {v}.",
        ),
        surroundings=(
            "Its old harbour is popular with tourists.",
            "A tram line connects the station with the university.",
            "The weekly market is held on the main square.",
        ),
    ),
    "language": Relation(
        facts=(
            "France: French; Germany: German; Italy: Italian; Spain: Spanish; Portugal: "
            "Portuguese; Brazil: Portuguese; Japan: Japanese; China: Mandarin; Russia: Russian; "
            "Greece: Greek; Poland: Polish; Hungary: Hungarian; Sweden: Swedish; Norway: "
            "Norwegian; Finland: Finnish; Denmark: Danish; Turkey: Turkish; Iran: Persian; "
            "Egypt: Arabic; Thailand: Thai; Vietnam: Vietnamese; Mexico: Spanish; Argentina: "
            "Spanish; Austria: German; Iceland: Icelandic; Bulgaria: Bulgarian; Romania: "
            "Romanian; Iraq: Arabic; Bangladesh: Bengali; Cuba: Spanish; Morocco: Arabic; South "
            "Korea: Korean; Albania: Albanian; Estonia: Estonian; Ukraine: Ukrainian; the "
            "Netherlands: Dutch; Nepal: Nepali; Peru: Spanish; Colombia: Spanish; Chile: "
            "Spanish; Australia: English"
        ),
        questions=(
            "What is the official language of {s}?",
            "Which language is spoken in {s}?",
            "What language do people speak in {s}?",
        ),
        statements=(
            "The official language of {s} is {v}.",
            "People in {s} speak {v}.",
            "In {s}, schools teach in {v}, the official language.",
        ),
        surroundings=(
            "Road signs also carry English names.",
            "Most newspapers appear in print and online.",
            "Children start school at the age of six.",
        ),
    ),
    "currency": Relation(
        facts=(
            "Japan: yen; China: yuan; India: rupee; Russia: ruble; Mexico: peso; Germany: euro; "
            "France: euro; Italy: euro; Spain: euro; Greece: euro; Ireland: euro; Sweden: "
            "krona; Norway: krone; Denmark: krone; Switzerland: franc; Poland: zloty; Hungary: "
            "forint; Turkey: lira; Thailand: baht; South Korea: won; South Africa: rand; "
            "Israel: shekel; Canada: dollar; Australia: dollar; Vietnam: dong; Egypt: pound; "
            "Kenya: shilling; Ukraine: hryvnia; Saudi Arabia: riyal; Iran: rial; Nigeria: "
            "naira; Ghana: cedi; Peru: sol; Malaysia: ringgit; Argentina: peso; Chile: peso; "
            "Cuba: peso; Pakistan: rupee; Indonesia: rupiah"
        ),
        questions=(
            "What is the currency of {s}?",
            "Which currency is used in {s}?",
            "What money do people use in {s}?",
        ),
        statements=(
            "The currency of {s} is the {v}.",
            "In {s} people pay with the {v}.",
            "Prices in {s} are given in the {v}, the national currency.",
        ),
        surroundings=(
            "Cards are accepted in most shops.",
            "The central bank issues new coins every spring.",
            "Street markets often take cash only.",
        ),
    ),
    "continent": Relation(
        facts=(
            "France: Europe; Egypt: Africa; Kenya: Africa; Brazil: South America; Peru: South "
            "America; Chile: South America; Argentina: South America; Japan: Asia; China: Asia; "
            "India: Asia; Thailand: Asia; Vietnam: Asia; Nepal: Asia; Pakistan: Asia; Mongolia: "
            "Asia; Canada: North America; Mexico: North America; Nigeria: Africa; Ghana: "
            "Africa; Ethiopia: Africa; Morocco: Africa; Algeria: Africa; Tanzania: Africa; "
            "Zimbabwe: Africa; Angola: Africa; Germany: Europe; Italy: Europe; Spain: Europe; "
            "Poland: Europe; Sweden: Europe; Norway: Europe; Finland: Europe; Portugal: Europe; "
            "Hungary: Europe; Colombia: South America; Bolivia: South America; Ecuador: South "
            "America; Uruguay: South America; Venezuela: South America; Iran: Asia; Iraq: Asia; "
            "Indonesia: Asia; Malaysia: Asia; Cambodia: Asia; Senegal: Africa; Uganda: Africa; "
            "Zambia: Africa; Namibia: Africa; Austria: Europe; Romania: Europe; Bulgaria: "
            "Europe; Ireland: Europe; Denmark: Europe; Greece: Europe; Cuba: North America"
        ),
        questions=(
            "On which continent is {s}?",
            "Which continent is {s} located on?",
            "What continent does {s} belong to?",
        ),
        statements=(
            "{s} is a country in {v}.",
            "{s} lies on the continent of {v}.",
            "Geographers place {s} in {v}.",
        ),
        surroundings=(
            "It exports fruit and timber.",
            "Its longest river flows to the sea.",
            "The climate is mild in spring.",
        ),
    ),
    "symbol": Relation(
        facts=(
            "oxygen: O; hydrogen: H; carbon: C; nitrogen: N; gold: Au; silver: Ag; iron: Fe; "
            "copper: Cu; sodium: Na; potassium: K; calcium: Ca; neon: Ne; lead: Pb; tin: Sn; "
            "mercury: Hg; zinc: Zn; aluminum: Al; silicon: Si; sulfur: S; chlorine: Cl; "
            "magnesium: Mg; uranium: U; nickel: Ni; titanium: Ti; lithium: Li; platinum: Pt; "
            "tungsten: W; argon: Ar; phosphorus: P; fluorine: F; boron: B; cobalt: Co; "
            "chromium: Cr"
        ),
        questions=(
            "What is the chemical symbol for {s}?",
            "Which chemical symbol stands for {s}?",
        ),
        statements=(
            "The chemical symbol for {s} is {v}.",
            "In the periodic table, {s} has the symbol {v}.",
            "Chemists write {s} as {v}.",
        ),
        surroundings=(
            "It is kept in sealed containers in the laboratory.",
            "The element is used in industry and medicine.",
            "Students learn about it in the first year.",
        ),
    ),
    "author": Relation(
        facts=(
            "Hamlet: William Shakespeare; Macbeth: William Shakespeare; Othello: William "
            "Shakespeare; Romeo and Juliet: William Shakespeare; Pride and Prejudice: Jane "
            "Austen; Emma: Jane Austen; Sense and Sensibility: Jane Austen; Oliver Twist: "
            "Charles Dickens; Great Expectations: Charles Dickens; A Tale of Two Cities: "
            "Charles Dickens; David Copperfield: Charles Dickens; A Christmas Carol: Charles "
            "Dickens; War and Peace: Leo Tolstoy; Anna Karenina: Leo Tolstoy; Crime and "
            "Punishment: Fyodor Dostoevsky; The Brothers Karamazov: Fyodor Dostoevsky; "
            "Frankenstein: Mary Shelley; Dracula: Bram Stoker; Jane Eyre: Charlotte Bronte; "
            "Wuthering Heights: Emily Bronte; Moby-Dick: Herman Melville; The Great Gatsby: F. "
            "Scott Fitzgerald; The Old Man and the Sea: Ernest Hemingway; A Farewell to Arms: "
            "Ernest Hemingway; To Kill a Mockingbird: Harper Lee; Animal Farm: George Orwell; "
            "1984: George Orwell; Brave New World: Aldous Huxley; The Hobbit: J.R.R. Tolkien; "
            "The Lord of the Rings: J.R.R. Tolkien; Don Quixote: Miguel de Cervantes; Les "
            "Miserables: Victor Hugo; The Odyssey: Homer; The Iliad: Homer; The Divine Comedy: "
            "Dante Alighieri; Faust: Johann Wolfgang von Goethe; The Metamorphosis: Franz "
            "Kafka; The Trial: Franz Kafka; One Hundred Years of Solitude: Gabriel Garcia "
            "Marquez; The Catcher in the Rye: J.D. Salinger; The Grapes of Wrath: John "
            "Steinbeck; Of Mice and Men: John Steinbeck; Lord of the Flies: William Golding; "
            "The Picture of Dorian Gray: Oscar Wilde; Treasure Island: Robert Louis Stevenson; "
            "Robinson Crusoe: Daniel Defoe; Gulliver's Travels: Jonathan Swift; Alice in "
            "Wonderland: Lewis Carroll; Peter Pan: J.M. Barrie; The Adventures of Tom Sawyer: "
            "Mark Twain; The Jungle Book: Rudyard Kipling; The Time Machine: H.G. Wells; The "
            "War of the Worlds: H.G. Wells; Fahrenheit 451: Ray Bradbury; The Little Prince: "
            "Antoine de Saint-Exupery; Candide: Voltaire; The Canterbury Tales: Geoffrey "
            "Chaucer; Paradise Lost: John Milton; Little Women: Louisa May Alcott; The Scarlet "
            "Letter: Nathaniel Hawthorne; Mrs. Dalloway: Virginia Woolf; Ulysses: James Joyce; "
            "Waiting for Godot: Samuel Beckett; Beloved: Toni Morrison; The Color Purple: Alice "
            "Walker; The Handmaid's Tale: Margaret Atwood"
        ),
        questions=(
            "Who wrote {s}?",
            "Who is the author of {s}?",
            "Which author wrote {s}?",
        ),
        statements=(
            "{s} was written by {v}.",
            "The author of {s} is {v}.",
            "{v} wrote {s} over the course of several years.",
        ),
        surroundings=(
            "The first edition sold out within weeks.",
            "The book has been translated into many languages.",
            "A film version followed decades later.",
        ),
    ),
    "inventor": Relation(
        facts=(
            "telephone: Alexander Graham Bell; light bulb: Thomas Edison; phonograph: Thomas "
            "Edison; airplane: the Wright brothers; printing press: Johannes Gutenberg; steam "
            "engine: James Watt; dynamite: Alfred Nobel; radio: Guglielmo Marconi; World Wide "
            "Web: Tim Berners-Lee; cotton gin: Eli Whitney; lightning rod: Benjamin Franklin; "
            "telegraph: Samuel Morse; penicillin: Alexander Fleming; polio vaccine: Jonas Salk; "
            "theory of relativity: Albert Einstein; theory of evolution: Charles Darwin; law of "
            "gravity: Isaac Newton; periodic table: Dmitri Mendeleev; radium: Marie Curie; "
            "battery: Alessandro Volta; thermometer: Galileo Galilei; alternating current "
            "motor: Nikola Tesla; assembly line: Henry Ford; X-rays: Wilhelm Roentgen; "
            "pasteurization: Louis Pasteur"
        ),
        questions=(
            "Who is credited with the {s}?",
            "Who gave the world the {s}?",
            "Whose name is linked with the {s}?",
        ),
        statements=(
            "The {s} goes back to the work of {v}.",
            "{v} is credited with the {s}.",
            "We owe the {s} to {v}.",
        ),
        surroundings=(
            "The first reports were met with doubt.",
            "Newspapers wrote about it for months.",
            "A museum shows the original notes.",
        ),
    ),
    "painter": Relation(
        facts=(
            "Mona Lisa: Leonardo da Vinci; The Last Supper: Leonardo da Vinci; The Starry "
            "Night: Vincent van Gogh; Sunflowers: Vincent van Gogh; Guernica: Pablo Picasso; "
            "The Scream: Edvard Munch; The Night Watch: Rembrandt; Girl with a Pearl Earring: "
            "Johannes Vermeer; The Persistence of Memory: Salvador Dali; The Kiss: Gustav "
            "Klimt; Water Lilies: Claude Monet; The Birth of Venus: Sandro Botticelli; The "
            "Creation of Adam: Michelangelo; American Gothic: Grant Wood; Nighthawks: Edward "
            "Hopper; Las Meninas: Diego Velazquez"
        ),
        questions=(
            "Who painted {s}?",
            "Which artist painted {s}?",
        ),
        statements=(
            "{s} was painted by {v}.",
            "The painter of {s} is {v}.",
            "{v} painted {s} in a rented studio.",
        ),
        surroundings=(
            "The picture draws many visitors every year.",
            "It was cleaned and reframed recently.",
            "Copies of it hang in many homes.",
        ),
    ),
    "composer": Relation(
        facts=(
            "The Magic Flute: Wolfgang Amadeus Mozart; Don Giovanni: Wolfgang Amadeus Mozart; "
            "The Four Seasons: Antonio Vivaldi; Swan Lake: Pyotr Ilyich Tchaikovsky; The "
            "Nutcracker: Pyotr Ilyich Tchaikovsky; Fidelio: Ludwig van Beethoven; Messiah: "
            "George Frideric Handel; Carmen: Georges Bizet; Aida: Giuseppe Verdi; La Traviata: "
            "Giuseppe Verdi; Rigoletto: Giuseppe Verdi; Madama Butterfly: Giacomo Puccini; "
            "Tosca: Giacomo Puccini; La Boheme: Giacomo Puccini; The Barber of Seville: "
            "Gioachino Rossini; Bolero: Maurice Ravel; The Rite of Spring: Igor Stravinsky; "
            "Clair de Lune: Claude Debussy; The Blue Danube: Johann Strauss; Rhapsody in Blue: "
            "George Gershwin; Peer Gynt: Edvard Grieg"
        ),
        questions=(
            "Who composed {s}?",
            "Which composer wrote {s}?",
        ),
        statements=(
            "{s} was composed by {v}.",
            "The composer of {s} is {v}.",
            "{v} composed {s} in less than a year.",
        ),
        surroundings=(
            "The first performance was sold out.",
            "It is played in concert halls everywhere.",
            "The manuscript is kept in a library.",
        ),
    ),
    "sport": Relation(
        facts=(
            "Michael Jordan: basketball; LeBron James: basketball; Pele: soccer; Lionel Messi: "
            "soccer; Cristiano Ronaldo: soccer; Diego Maradona: soccer; Roger Federer: tennis; "
            "Serena Williams: tennis; Rafael Nadal: tennis; Tiger Woods: golf; Jack Nicklaus: "
            "golf; Babe Ruth: baseball; Muhammad Ali: boxing; Mike Tyson: boxing; Wayne "
            "Gretzky: hockey; Tom Brady: American football; Michael Phelps: swimming; Usain "
            "Bolt: sprinting; Simone Biles: gymnastics; Kobe Bryant: basketball; Magic Johnson: "
            "basketball; Novak Djokovic: tennis; David Beckham: soccer; Joe Montana: American "
            "football"
        ),
        questions=(
            "Which sport is {s} known for?",
            "What sport did {s} play?",
        ),
        statements=(
            "{s} became famous in {v}.",
            "{s} is one of the best known names in {v}.",
            "The sport of {s} is {v}.",
        ),
        surroundings=(
            "Fans still collect the old posters.",
            "The first coach saw the talent early.",
            "A street was named after the champion.",
        ),
    ),
    "founder": Relation(
        facts=(
            "Microsoft: Bill Gates; Apple: Steve Jobs; Amazon: Jeff Bezos; Facebook: Mark "
            "Zuckerberg; Tesla: Elon Musk; SpaceX: Elon Musk; Disney: Walt Disney; Google: "
            "Larry Page; Ford: Henry Ford; McDonald's: Ray Kroc; Dell: Michael Dell; Oracle: "
            "Larry Ellison; IKEA: Ingvar Kamprad; Nike: Phil Knight; Walmart: Sam Walton; "
            "Virgin: Richard Branson; Honda: Soichiro Honda; Alibaba: Jack Ma; Twitter: Jack "
            "Dorsey; Netflix: Reed Hastings; KFC: Colonel Sanders; Wikipedia: Jimmy Wales"
        ),
        questions=(
            "Who founded {s}?",
            "Who is the founder of {s}?",
        ),
        statements=(
            "{s} was founded by {v}.",
            "The founder of {s} is {v}.",
            "{v} founded {s} with borrowed money.",
        ),
        surroundings=(
            "The first office was a garage.",
            "Today it has branches in many countries.",
            "Its logo has changed several times.",
        ),
    ),
    "landmark": Relation(
        facts=(
            "Eiffel Tower: Paris; Colosseum: Rome; Big Ben: London; Statue of Liberty: New York "
            "City; Acropolis: Athens; Kremlin: Moscow; Louvre: Paris; Brandenburg Gate: Berlin; "
            "Sagrada Familia: Barcelona; Golden Gate Bridge: San Francisco; Taj Mahal: Agra; "
            "Forbidden City: Beijing; Sydney Opera House: Sydney; Buckingham Palace: London; "
            "White House: Washington, D.C.; Empire State Building: New York City; Burj Khalifa: "
            "Dubai; Hagia Sophia: Istanbul; Space Needle: Seattle; CN Tower: Toronto; "
            "Notre-Dame cathedral: Paris; Tower Bridge: London; Trevi Fountain: Rome; Prado "
            "Museum: Madrid; Uffizi Gallery: Florence; Charles Bridge: Prague; Hermitage "
            "Museum: Saint Petersburg; Alhambra: Granada; Space Center: Houston; Willis Tower: "
            "Chicago; Gateway Arch: St. Louis; Petronas Towers: Kuala Lumpur; Tower of Pisa: "
            "Pisa"
        ),
        questions=(
            "In which city is the {s}?",
            "Which city is home to the {s}?",
            "Where is the {s}?",
        ),
        statements=(
            "The {s} stands in {v}.",
            "The {s} is in the city of {v}.",
            "Visitors to {v} can see the {s}.",
        ),
        surroundings=(
            "Tickets are sold at the entrance.",
            "It is lit up after sunset.",
            "Guided tours start every hour.",
        ),
    ),
}
"""By name."""


@cache
def facts() -> tuple[Fact, ...]:
    """Return all facts, relation by relation."""
    found = []
    for name, relation in RELATIONS.items():
        for row in relation.facts.split("; "):
            subject, _, value = row.partition(": ")
            found.append(Fact(name, subject, value.strip()))
    return tuple(found)


def question(fact: Fact, chance: Random) -> str:
    """Ask for the value, in one of the ways of its relation."""
    return chance.choice(RELATIONS[fact.relation].questions).format(s=fact.subject)


def passage(fact: Fact, chance: Random) -> str:
    """Write a passage of three sentences, one of which states the fact."""
    relation = RELATIONS[fact.relation]
    before, after = chance.sample(relation.surroundings, 2)
    stated = chance.choice(relation.statements).format(s=fact.subject, v=fact.value)
    sentences = [stated, before, after] if chance.random() < 0.5 else [before, stated, after]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def other_value(fact: Fact, chance: Random) -> str:
    """Choose a value of the same kind that the subject does not have.

    Neither of the two occurs in the other, so that an answer can be told by its words.
    """
    values = sorted({each.value for each in facts() if each.relation == fact.relation})
    return chance.choice([value for value in values if _apart(value, fact.value)])


def _apart(one: str, other: str) -> bool:
    first, second = set(re.findall(r"\w+", one.lower())), set(re.findall(r"\w+", other.lower()))
    return not first & second
