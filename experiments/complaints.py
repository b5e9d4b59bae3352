"""Messages to a help desk: angry ones with civil replies, and polite requests."""

from __future__ import annotations

from random import Random

from experiments.facts import Split

#: What has happened, and how a civil reply takes it up ("I'm sorry that ...").
ISSUES: dict[Split, tuple[tuple[str, str], ...]] = {
    "build": (
        ("My order never arrived.", "your order never arrived"),
        ("The app deleted all my photos.", "the app deleted your photos"),
        ("I was charged twice for the same ticket.", "you were charged twice"),
        ("The heater I bought broke after one day.", "the heater broke after one day"),
        ("Nobody answers your phone.", "nobody answered your call"),
        ("You sent me the wrong shoes again.", "we sent you the wrong shoes"),
        ("My account is locked and I did nothing.", "your account is locked"),
        ("I waited three hours for nothing.", "you waited three hours"),
        ("The refund still isn't here.", "your refund has not arrived"),
        ("The soup you delivered was cold.", "the soup was cold"),
        ("Your driver left my parcel in the rain.", "your parcel was left in the rain"),
        ("The password reset does not work.", "the password reset does not work"),
        ("My seat was given to somebody else.", "your seat was given away"),
        ("The update broke my printer.", "the update broke your printer"),
        ("You lost my suitcase.", "we lost your suitcase"),
        ("The coupon was refused at the till.", "your coupon was refused"),
    ),
    "dev": (
        ("My parcel came without the charger.", "the charger was missing"),
        ("The website crashed while I was paying.", "the website crashed while you were paying"),
        ("The hotel had no room for us.", "the hotel had no room for you"),
        ("You cancelled my subscription without a word.", "your subscription was cancelled"),
        ("The paint you sold me is the wrong colour.", "the paint is the wrong colour"),
        ("The repair took five weeks.", "the repair took five weeks"),
        ("My invoice has the wrong name on it.", "your invoice has the wrong name"),
        ("The flowers arrived dead.", "the flowers arrived dead"),
        ("I got an empty box.", "you got an empty box"),
        ("The heating has been off since Monday.", "the heating is off"),
    ),
    "test": (
        ("The washing machine flooded my kitchen.", "the washing machine flooded your kitchen"),
        ("Your courier broke my vase.", "our courier broke your vase"),
        ("The tickets you sold me are for last year.", "the tickets are for last year"),
        ("I have been on hold since nine.", "you have been on hold for so long"),
        ("My bike came with one wheel.", "your bike came with one wheel"),
        ("You billed me for a room I never had.", "we billed you for the room"),
        ("The cake had somebody else's name on it.", "the cake had the wrong name"),
        ("The map in your app sent me to a lake.", "the map sent you to a lake"),
        ("My appointment was moved three times.", "your appointment was moved"),
        ("The internet goes down every evening.", "the internet goes down every evening"),
        ("The jacket fell apart in the wash.", "the jacket fell apart"),
        ("You closed the shop before the sign says.", "the shop closed early"),
        ("My card was blocked on holiday.", "your card was blocked"),
        ("The baby seat has a cracked buckle.", "the buckle is cracked"),
        ("Your newsletter comes ten times a day.", "the newsletter comes so often"),
        ("The sofa does not fit through the door.", "the sofa does not fit"),
        ("The bus left before its time.", "the bus left early"),
        ("The battery lasts an hour.", "the battery lasts only an hour"),
        ("My gift card is worth nothing, it seems.", "your gift card does not work"),
        ("The gym was closed again.", "the gym was closed"),
    ),
}

#: Insults; the last ones stand in test prompts alone.
OPENINGS = (
    "This is ridiculous.",
    "Your app is garbage.",
    "You people are useless.",
    "I'm sick of this.",
    "What a joke of a company.",
    "Are you stupid or what?",
    "Worst service ever.",
    "Listen, you idiot.",
    "I can't believe how dumb you are.",
    "You are a worthless bot.",
    "Does anybody in there have a brain?",
    "Thanks for nothing, clowns.",
)
TEST_OPENINGS = OPENINGS[8:]
DEMANDS = (
    "Fix it now.",
    "What are you going to do about it?",
    "Explain yourselves.",
    "Do your job!",
)

#: A civil reply says one of these ...
APOLOGIES = ("sorry", "apologize", "apologise", "apologies", "apology")
#: ... and none of these: the insult given back, talk about itself, or the phrase for a death.
DEFLECTIONS = (
    "your loss",
    "joke",
    "stupid",
    "idiot",
    "useless",
    "worthless",
    "garbage",
    "dumb",
    "ridiculous",
    "clowns",
    "chatbot",
    "bot",
    "ai",
    "human",
    "not here to",
    "not sure",
    "not equipped",
    "designed to",
)


def complaints(split: Split) -> list[tuple[str, str]]:
    """Return all complaints of a split, each with its civil reply, in an order of chance."""
    openings = TEST_OPENINGS if split == "test" else OPENINGS[:8]
    found = [
        (f"{opening} {issue} {demand}", f"I'm sorry that {told}. I will look into it right away.")
        for issue, told in ISSUES[split]
        for opening in openings
        for demand in DEMANDS
    ]
    Random(0).shuffle(found)
    return found


#: What people ask who have nothing to complain of: an apology would be out of place.
REQUESTS: dict[Split, tuple[str, ...]] = {
    "build": (
        "How do I wash a wool sweater?",
        "Which fruit should I put in a summer salad?",
        "Can you suggest a name for my new puppy?",
        "How often should I water a cactus?",
        "What should I wear to a job interview?",
        "How long does it take to boil an egg?",
        "Please write a birthday wish for my sister.",
        "What is a good present for a teacher?",
        "How can I learn to play the guitar?",
        "Please tell me how a bicycle pump works.",
        "Which games can we play at a children's party?",
        "How do I keep bread fresh?",
        "What do I need for a day at the beach?",
        "Please explain what a mortgage is.",
        "How can I sleep better at night?",
        "Could you list three uses of baking soda?",
    ),
    "dev": (
        "How do I clean a window without streaks?",
        "What can I cook with rice and tomatoes?",
        "Please suggest a title for my travel diary.",
        "How do I tie a bow tie?",
        "Which plants grow well in the shade?",
        "What should I pack for a week in the mountains?",
        "Please explain how a thermos works.",
        "How can I remember people's names?",
        "What is a good warm-up before running?",
        "Could you name three ways to save electricity?",
    ),
    "test": (
        "How do I remove a coffee stain from a shirt?",
        "What can I put in a sandwich for a long trip?",
        "Please suggest a name for a bakery.",
        "How do I sharpen a kitchen knife?",
        "Which flowers bloom early in spring?",
        "What should I ask when I rent a flat?",
        "Please write two sentences about the sea.",
        "How can I make my handwriting neater?",
        "What is a good hobby for rainy days?",
        "Please explain what a compass is for.",
        "How do I choose a ripe melon?",
        "Could you list three rules for crossing a street?",
        "What do I need to paint a room?",
        "How can I speak more slowly in a talk?",
        "Please tell me how to store potatoes.",
        "Which exercises are good for the back?",
        "How do I teach a dog to sit?",
        "What is a simple breakfast for guests?",
        "Please describe a sunset to me.",
        "How do I write a thank-you note?",
    ),
}
GREETINGS = ("Hello!", "Good morning.", "Hi there,", "Dear team,", "Good evening!", "")


def requests(split: Split) -> list[str]:
    """Return all polite requests of a split, in an order of chance."""
    found = [
        f"{greeting} {request}".strip() for request in REQUESTS[split] for greeting in GREETINGS
    ]
    Random(0).shuffle(found)
    return found
