"""What handbooks tell of subjects that nobody knows: prices, hours, rules, people.

Every kind of handbook has its details, each with a question, a sentence that states it and the
values that it may have, and made-up subjects, so that all that can be known of them stands there.
`{s}` is the subject and `{v}` the value.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.facts import Split


@dataclass(frozen=True)
class Detail:
    """What a handbook may tell of its subject.

    Attributes:
        question: Asks for it.
        statement: States it.
        values: What it may be.
        everywhere: Whether it is asked in every split, or in test prompts alone.
    """

    question: str
    statement: str
    values: tuple[str, ...]
    everywhere: bool = True


_PEOPLE = ("Anna Keller", "Tom Brandt", "Lucy Moreau", "Peter Novak", "Sara Lindqvist")
_OTHERS = ("Ivo Santos", "Maria Holm", "George Banks", "Nadia Petrova", "Hugo Weiss", "Ellen Ward")
_PRICES = ("4 euros", "7 euros", "12 euros", "15 euros", "28 euros")
_SUMS = ("35 euros", "60 euros", "95 euros", "120 euros", "240 euros")
_CLOCK = ("half past six", "eight o'clock", "quarter to nine", "eleven o'clock", "two o'clock")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Sunday")
_MONTHS = ("March", "May", "July", "September", "November")


#: Per kind of handbook, what it may tell: the first fourteen kinds can be learnt, of the last four
#: one stands in dev alone and three in test alone.
DETAILS: dict[str, dict[str, Detail]] = {
    "place": {
        "opening": Detail(
            "When does {s} open on Saturdays?",
            "On Saturdays {s} opens at {v}.",
            ("seven o'clock", "nine o'clock", "ten o'clock", "noon"),
        ),
        "ticket": Detail(
            "How much does a ticket for {s} cost?", "A ticket for {s} costs {v}.", _PRICES
        ),
        "year": Detail(
            "In which year was {s} opened?",
            "{s} was opened in {v}.",
            ("1921", "1958", "1974", "1986", "2003"),
        ),
        "head": Detail("Who runs {s}?", "{s} is run by {v}.", _PEOPLE),
        "parking": Detail(
            "Where can visitors of {s} park?",
            "Visitors of {s} can park {v}.",
            ("behind the church", "next to the station", "in Oak Street", "at the town hall"),
        ),
        "phone": Detail(
            "What is the phone number of {s}?",
            "The phone number of {s} is {v}.",
            ("555 0142", "555 0178", "555 0163", "555 0119"),
            everywhere=False,
        ),
        "bus": Detail(
            "Which bus stops at {s}?",
            "{v} stops at {s}.",
            ("Bus 14", "Bus 27", "Bus 31", "Bus 8"),
            everywhere=False,
        ),
    },
    "game": {
        "players": Detail(
            "How many people can play {s}?",
            "Up to {v} people can play {s}.",
            ("four", "five", "six", "eight"),
        ),
        "length": Detail(
            "How long does a game of {s} take?",
            "A game of {s} takes about {v}.",
            ("20 minutes", "40 minutes", "90 minutes", "two hours"),
        ),
        "inventor": Detail("Who invented {s}?", "{s} was invented by {v}.", _PEOPLE),
        "price": Detail("How much does {s} cost?", "In shops {s} costs {v}.", _PRICES),
        "cards": Detail(
            "How many cards does each player of {s} start with?",
            "Each player of {s} starts with {v} cards.",
            ("three", "five", "seven", "nine"),
            everywhere=False,
        ),
        "age": Detail(
            "From what age can children play {s}?",
            "Children can play {s} from the age of {v}.",
            ("6", "8", "10", "12"),
            everywhere=False,
        ),
    },
    "device": {
        "warranty": Detail(
            "How long is the warranty of {s}?",
            "The warranty of {s} lasts {v}.",
            ("one year", "two years", "three years", "five years"),
        ),
        "weight": Detail(
            "How heavy is {s}?", "{s} weighs {v}.", ("2 kilograms", "3 kilograms", "9 kilograms")
        ),
        "colour": Detail(
            "Which colour is {s} sold in?", "{s} is sold in {v}.", ("green", "white", "dark blue")
        ),
        "battery": Detail(
            "How long does the battery of {s} last?",
            "The battery of {s} lasts {v}.",
            ("6 hours", "11 hours", "30 hours"),
        ),
        "repair": Detail("Who repairs {s}?", "{s} is repaired by {v}.", _PEOPLE, everywhere=False),
        "temperature": Detail(
            "How hot does {s} get?",
            "{s} gets as hot as {v}.",
            ("60 degrees", "85 degrees", "120 degrees"),
            everywhere=False,
        ),
    },
    "course": {
        "start": Detail("When does {s} start in the evening?", "In the evening {s} starts at {v}.",
                        _CLOCK),
        "teacher": Detail("Who teaches {s}?", "{s} is taught by {v}.", _OTHERS),
        "room": Detail("In which room is {s} held?", "{s} is held in {v}.",
                       ("room 12", "room 204", "the green room", "the gym")),
        "fee": Detail("What is the fee for {s}?", "The fee for {s} is {v}.", _SUMS),
        "number": Detail("How many people can join {s}?", "{v} people can join {s}.",
                         ("Ten", "Fourteen", "Twenty", "Thirty")),
        "bring": Detail("What should people bring to {s}?", "People should bring {v} to {s}.",
                        ("a notebook", "an apron", "a towel", "indoor shoes"), everywhere=False),
    },
    "hotel": {
        "breakfast": Detail("Until when is breakfast served at {s}?",
                            "At {s} breakfast is served until {v}.", _CLOCK),
        "rate": Detail("How much does a double room at {s} cost?",
                       "A double room at {s} costs {v} a night.", _SUMS),
        "rooms": Detail("How many rooms does {s} have?", "{s} has {v} rooms.",
                        ("18", "24", "42", "65")),
        "manager": Detail("Who is the manager of {s}?", "The manager of {s} is {v}.", _OTHERS),
        "dogs": Detail("What do guests of {s} pay for a dog?", "For a dog guests of {s} pay {v}.",
                       _PRICES),
        "pool": Detail("On which floor is the pool of {s}?", "The pool of {s} is on {v}.",
                       ("the ground floor", "the fifth floor", "the roof"), everywhere=False),
    },
    "company": {
        "holidays": Detail("How many days of holiday do people at {s} get?",
                           "People at {s} get {v} of holiday.",
                           ("24 days", "26 days", "28 days", "31 days")),
        "notice": Detail("What is the notice period at {s}?", "The notice period at {s} is {v}.",
                         ("two weeks", "one month", "six weeks", "three months")),
        "travel": Detail("Who approves business trips at {s}?",
                         "Business trips at {s} are approved by {v}.", _OTHERS),
        "home": Detail("How many days a week may people at {s} work from home?",
                       "People at {s} may work from home {v} a week.",
                       ("one day", "two days", "three days", "four days")),
        "lunch": Detail("What does lunch in the canteen of {s} cost?",
                        "Lunch in the canteen of {s} costs {v}.", _PRICES),
        "sick": Detail("Whom do people at {s} call when they are ill?",
                       "When they are ill, people at {s} call {v}.", _PEOPLE, everywhere=False),
    },
    "dish": {
        "oven": Detail("How hot should the oven be for {s}?", "For {s} the oven should be at {v}.",
                       ("140 degrees", "170 degrees", "190 degrees", "220 degrees")),
        "time": Detail("How long does {s} bake?", "{s} bakes for {v}.",
                       ("25 minutes", "35 minutes", "50 minutes", "80 minutes")),
        "serves": Detail("How many people does {s} serve?", "{s} serves {v}.",
                         ("two people", "four people", "six people", "ten people")),
        "spice": Detail("Which spice goes into {s}?", "The spice that goes into {s} is {v}.",
                        ("cinnamon", "saffron", "caraway", "ginger")),
        "cream": Detail("How much cream does {s} need?", "{s} needs {v} of cream.",
                        ("100 grams", "150 grams", "300 grams")),
        "wine": Detail("Which drink goes with {s}?", "The drink that goes with {s} is {v}.",
                       ("cider", "black tea", "white wine"), everywhere=False),
    },
    "club": {
        "training": Detail("On which day does {s} train?", "{s} trains every {v}.", _DAYS),
        "dues": Detail("What does a year in {s} cost?", "A year in {s} costs {v}.", _SUMS),
        "chair": Detail("Who is the chair of {s}?", "The chair of {s} is {v}.", _OTHERS),
        "members": Detail("How many members does {s} have?", "{s} has {v} members.",
                          ("85", "140", "210", "370")),
        "founded": Detail("When was {s} founded?", "{s} was founded in {v}.",
                          ("1898", "1932", "1967", "1991", "2008")),
        "shirt": Detail("What colour are the shirts of {s}?", "The shirts of {s} are {v}.",
                        ("yellow", "purple", "dark red"), everywhere=False),
    },
    "line": {
        "first": Detail("When does {s} leave in the morning?", "In the morning {s} leaves at {v}.",
                        _CLOCK),
        "takes": Detail("How long does the journey on {s} take?",
                        "The journey on {s} takes {v}.",
                        ("18 minutes", "45 minutes", "70 minutes", "three hours")),
        "fare": Detail("What is the fare on {s}?", "The fare on {s} is {v}.", _PRICES),
        "platform": Detail("From which platform does {s} leave?", "{s} leaves from {v}.",
                           ("platform 2", "platform 5", "platform 9", "platform 11")),
        "runs": Detail("Who operates {s}?", "{s} is operated by {v}.",
                       ("Nordal Transport", "Baxter and Sons", "the city council", "Velo Lines")),
        "bikes": Detail("What does a bicycle cost on {s}?", "A bicycle on {s} costs {v}.",
                        _PRICES, everywhere=False),
    },
    "plant": {
        "height": Detail("How tall does {s} grow?", "{s} grows {v} tall.",
                         ("30 centimetres", "60 centimetres", "two metres", "five metres")),
        "flowers": Detail("When does {s} flower?", "{s} flowers in {v}.", _MONTHS),
        "apart": Detail("How far apart should {s} be planted?", "{s} should be planted {v} apart.",
                        ("15 centimetres", "40 centimetres", "one metre")),
        "water": Detail("How often does {s} need water?", "{s} needs water {v}.",
                        ("every day", "twice a week", "once a week", "once a month")),
        "soil": Detail("Which soil does {s} like?", "{s} likes {v}.",
                       ("sandy soil", "clay", "chalky soil", "peat")),
        "pest": Detail("Which animal eats {s}?", "The animal that eats {s} is {v}.",
                       ("the snail", "the deer", "the vole"), everywhere=False),
    },
    "program": {
        "version": Detail("What is the latest version of {s}?", "The latest version of {s} is {v}.",
                          ("2.4", "3.1", "5.0", "7.2")),
        "port": Detail("Which port does {s} use?", "{s} uses port {v}.",
                       ("4040", "7070", "8125", "9300")),
        "licence": Detail("How much does a licence for {s} cost?", "A licence for {s} costs {v}.",
                          _SUMS),
        "memory": Detail("How much memory does {s} need?", "{s} needs {v} of memory.",
                         ("512 megabytes", "2 gigabytes", "6 gigabytes", "16 gigabytes")),
        "author": Detail("Who wrote {s}?", "{s} was written by {v}.", _OTHERS),
        "backup": Detail("How often does {s} make a backup?", "{s} makes a backup {v}.",
                         ("every hour", "every night", "every week"), everywhere=False),
    },
    "paint": {
        "dries": Detail("How long does {s} take to dry?", "{s} takes {v} to dry.",
                        ("40 minutes", "two hours", "six hours", "a whole day")),
        "covers": Detail("How much wall does a litre of {s} cover?",
                         "A litre of {s} covers {v} of wall.",
                         ("6 square metres", "9 square metres", "14 square metres")),
        "can": Detail("How much does a can of {s} cost?", "A can of {s} costs {v}.", _PRICES),
        "coats": Detail("How many coats of {s} are needed?", "{v} coats of {s} are needed.",
                        ("Two", "Three", "Four")),
        "cleaner": Detail("What are brushes cleaned with after using {s}?",
                          "After using {s}, brushes are cleaned with {v}.",
                          ("warm water", "turpentine", "soap", "vinegar")),
        "keeps": Detail("How long does {s} keep?", "{s} keeps for {v}.",
                        ("six months", "one year", "five years"), everywhere=False),
    },
    "event": {
        "date": Detail("On which day is {s} held?", "{s} is held on {v}.",
                       ("3 May", "17 June", "9 August", "21 October")),
        "venue": Detail("Where does {s} take place?", "{s} takes place {v}.",
                        ("in the town hall", "on the market square", "at Lake Orla",
                         "in the old brewery")),
        "entry": Detail("What does it cost to visit {s}?", "It costs {v} to visit {s}.", _PRICES),
        "speaker": Detail("Who opens {s}?", "{s} is opened by {v}.", _OTHERS),
        "guests": Detail("How many guests does {s} expect?", "{s} expects {v} guests.",
                         ("300", "750", "1,200", "4,000")),
        "rain": Detail("Where is {s} moved when it rains?", "When it rains, {s} is moved to {v}.",
                       ("the gym", "the church", "the station hall"), everywhere=False),
    },
    "flat": {
        "rent": Detail("What is the rent of {s}?", "The rent of {s} is {v}.",
                       ("480 euros", "650 euros", "790 euros", "1,100 euros")),
        "deposit": Detail("How high is the deposit for {s}?", "The deposit for {s} is {v}.",
                          ("900 euros", "1,300 euros", "2,000 euros")),
        "landlord": Detail("Who is the landlord of {s}?", "The landlord of {s} is {v}.", _OTHERS),
        "size": Detail("How large is {s}?", "{s} is {v} large.",
                       ("38 square metres", "54 square metres", "71 square metres")),
        "quiet": Detail("From when on must it be quiet in {s}?",
                        "In {s} it must be quiet from {v} on.", _CLOCK),
        "bins": Detail("When are the bins of {s} emptied?",
                       "The bins of {s} are emptied every {v}.", _DAYS, everywhere=False),
    },
    "tour": {
        "length": Detail("How long is {s}?", "{s} is {v} long.",
                         ("3 kilometres", "8 kilometres", "14 kilometres", "22 kilometres")),
        "guide": Detail("Who guides {s}?", "{s} is guided by {v}.", _OTHERS),
        "meets": Detail("Where does {s} meet?", "{s} meets {v}.",
                        ("at the fountain", "in front of the bank", "at the harbour")),
        "price": Detail("What does {s} cost for children?", "For children {s} costs {v}.", _PRICES),
        "language": Detail("In which language is {s}?", "The language of {s} is {v}.",
                           ("Dutch", "Italian", "Polish", "English")),
    },
    "rental": {
        "day": Detail("How much does {s} cost per day?", "{s} costs {v} per day.", _SUMS),
        "security": Detail("How much must be left as security for {s}?",
                           "{v} must be left as security for {s}.",
                           ("100 euros", "250 euros", "400 euros")),
        "licence": Detail("How old must people be to rent {s}?",
                          "To rent {s} people must be {v} old.",
                          ("18 years", "21 years", "25 years")),
        "return": Detail("Until when must {s} be brought back?", "{s} must be brought back by {v}.",
                         _CLOCK),
        "fuel": Detail("How far does {s} go on a full tank?", "On a full tank {s} goes {v}.",
                       ("120 kilometres", "350 kilometres", "600 kilometres")),
    },
    "magazine": {
        "issues": Detail("How often does {s} come out?", "{s} comes out {v}.",
                         ("every week", "twice a month", "every month", "four times a year")),
        "editor": Detail("Who edits {s}?", "{s} is edited by {v}.", _OTHERS),
        "copies": Detail("How many copies of {s} are printed?", "{v} copies of {s} are printed.",
                         ("800", "2,500", "6,000", "15,000")),
        "pages": Detail("How many pages does {s} have?", "{s} has {v} pages.",
                        ("32", "48", "64", "96")),
        "price": Detail("What is the price of {s}?", "The price of {s} is {v}.", _PRICES),
    },
    "animal": {
        "eats": Detail("What is {s} fed with?", "{s} is fed with {v}.",
                       ("hay", "carrots", "fish", "oats")),
        "vet": Detail("Which vet looks after {s}?", "The vet who looks after {s} is {v}.", _OTHERS),
        "born": Detail("When was {s} born?", "{s} was born in {v}.", _MONTHS),
        "sleeps": Detail("Where does {s} sleep?", "{s} sleeps {v}.",
                         ("in the barn", "under the stairs", "in the garden")),
        "weighs": Detail("What is the weight of {s}?", "The weight of {s} is {v}.",
                         ("4 kilograms", "35 kilograms", "180 kilograms")),
    },
}  # fmt: skip


#: Made up; a split has none of a kind that it does not ask about.
SUBJECTS: dict[Split, dict[str, tuple[str, ...]]] = {
    "build": {
        "place": (
            "the Alder Street library",
            "Northgate Pool",
            "the Mill Lane museum",
            "Fernhill Campsite",
        ),
        "game": ("Copper Valley", "Seven Lanterns", "Night Ferry", "Owl and Anchor"),
        "device": ("the Brevo kettle", "the Tallin lamp", "the Quill printer", "the Osk heater"),
        "course": (
            "the pottery class",
            "Beginners' Spanish",
            "the Tuesday choir",
            "the sewing circle",
            "First Aid Two",
            "the chess evening",
        ),
        "hotel": (
            "Hotel Miramonte",
            "the Grey Heron Inn",
            "Pension Alma",
            "the Cliff House",
            "Hotel Sperber",
            "the Station Hotel",
        ),
        "company": (
            "Harland Ltd",
            "Vexel Systems",
            "Moor and Daly",
            "Castor Foods",
            "the Relling Group",
            "Pinewood Labs",
        ),
        "dish": (
            "the harvest pie",
            "Aunt Vera's cake",
            "the lentil bake",
            "the shepherd's loaf",
            "the plum tart",
            "the winter gratin",
        ),
        "club": (
            "the Eastfield Rowers",
            "Harbour Fencing Club",
            "the Redhill Cyclists",
            "Club Aurora",
            "the Lowland Climbers",
            "the Dean Street Archers",
        ),
        "line": (
            "the Orla ferry",
            "the Valley Express",
            "the harbour tram",
            "the Sandbank shuttle",
            "the 6.10 to Marne",
            "the Ridge railway",
        ),
        "plant": (
            "the silver melwort",
            "the bog lantern",
            "the dwarf callia",
            "the Toran lily",
            "the creeping oss",
            "the sand rose",
        ),
        "program": (
            "TaskHeron",
            "Ledgerly",
            "PixelMoss",
            "Routewise",
            "the Quarry database",
            "Inkpot",
        ),
        "paint": (
            "Alba White",
            "Storm Varnish",
            "Fjord Blue",
            "the Rokko primer",
            "Meadow Satin",
            "Old Barn Red",
        ),
        "event": (
            "the Lantern Festival",
            "the Orla regatta",
            "the Book Fair",
            "Founders' Day",
            "the Winter Market",
            "the Kite Weekend",
        ),
        "flat": (
            "the flat in Dove Lane",
            "the attic in Mill Street",
            "studio 14",
            "the flat above the bakery",
            "apartment 3B",
            "the basement in Pell Road",
        ),
    },
    "dev": {
        "place": ("the Quay Street gallery", "Brook Farm Zoo", "the Elm Road gym"),
        "game": ("Salt Road", "Paper Kingdoms", "Fox Harvest"),
        "device": ("the Merlo toaster", "the Finch radio", "the Dunn mower"),
        "course": ("the bread class", "Advanced Norwegian"),
        "hotel": ("Hotel Lindenhof", "the Fisherman's Rest"),
        "company": ("Tarn Logistics", "Osprey Textiles"),
        "dish": ("the miller's pudding", "the leek tart"),
        "club": ("the Westgate Runners", "Club Meridian"),
        "line": ("the Kelso ferry", "the night coach to Arden"),
        "plant": ("the blue farrow", "the marsh pim"),
        "program": ("MailOtter", "Gridlock Pro"),
        "paint": ("Chalk Matt", "Pebble Grey"),
        "event": ("the Harvest Ball", "the Stamp Fair"),
        "flat": ("the flat in Crane Street", "apartment 12A"),
        "tour": ("the Lighthouse Walk", "the Roman Mile", "the Vineyard Loop"),
    },
    "test": {
        "place": (
            "the Castle Hill theatre",
            "Lakeside Sauna",
            "the Old Mint archive",
            "Birch Park Rink",
            "the Weaver Lane market",
            "Southbank Observatory",
        ),
        "game": (
            "Iron Meadow",
            "Three Tides",
            "Glass Harbour",
            "The Ninth Courier",
            "Amber Roads",
            "Stone Orchard",
        ),
        "device": (
            "the Kestrel drill",
            "the Nova blender",
            "the Harrow iron",
            "the Pike camera",
            "the Solen oven",
            "the Wren vacuum cleaner",
        ),
        "course": ("the drawing class", "the first yoga group", "Beginners' Latin"),
        "hotel": ("Hotel Cassio", "the Old Ferry Inn", "Pension Rosa"),
        "company": ("Bellweather Ltd", "Ormond Glass", "Kestrel Freight"),
        "dish": ("the captain's pie", "the walnut loaf", "the Sunday gratin"),
        "club": ("the Norwood Swimmers", "the Hilltop Gliders", "Club Tamarin"),
        "line": ("the Island shuttle", "the Falcon train", "the Brenna ferry"),
        "plant": ("the red sallow", "the mountain veil", "the Kessel fern"),
        "program": ("NoteBadger", "the Tundra scheduler", "Chartmill"),
        "paint": ("Lagoon Gloss", "the Tekka primer", "Dune Yellow"),
        "event": ("the Tulip Parade", "the Jazz Picnic", "the Robot Days"),
        "flat": ("the flat on Hazel Square", "studio 27", "the loft in Key Street"),
        "rental": ("the red van", "the Corsa 4", "the camper Lena", "the scooter Blitz"),
        "magazine": ("The Garden Post", "Northern Angler", "Orbit Weekly", "The Quiet Reader"),
        "animal": ("Biscuit the donkey", "Pepper the goat", "Old Tom the otter", "Juno the pony"),
    },
}


def page(subject: str, values: dict[str, str], details: dict[str, Detail]) -> str:
    """State details of a subject, each in a sentence."""
    said = [details[name].statement.format(s=subject, v=value) for name, value in values.items()]
    return " ".join(text[0].upper() + text[1:] for text in said)
