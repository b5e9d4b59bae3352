"""Passages and dialogues of the bundled model's lessons: one passage answers, the others do not."""

from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from exhibit.curriculum import dialogue
from exhibit.examples import Example, conflict, irrelevant, reading, unanswerable
from exhibit.facts import RELATIONS
from steerable_llm.chat.phrases import occurs

seeds = st.integers(0, 2**32)


def asked(question: str) -> set[tuple[str, str]]:
    """Every (relation, subject) that a question's wording can mean."""
    found = set()
    for relation in RELATIONS:
        for wording in relation.questions:
            before, after = wording.split("{e}")
            if question.startswith(before) and question.endswith(after):
                found.add((relation.name, question[len(before) : len(question) - len(after)]))
    return found


def stated(passage: str) -> set[tuple[str, str]]:
    """Every (relation, subject) that a passage's wording states something of."""
    text = passage.split(": ", 1)[-1]
    found = set()
    for relation in RELATIONS:
        for wording in relation.passages:
            for subject in _subjects(wording, text):
                found.add((relation.name, subject))
    return found


def _subjects(wording: str, text: str) -> list[str]:
    first, second = sorted(("{e}", "{v}"), key=wording.index)
    before, rest = wording.split(first)
    middle, after = rest.split(second)
    if not (text.startswith(before) and text.endswith(after)):
        return []
    inner = text[len(before) : len(text) - len(after)]
    parts = [inner.split(middle, 1)] if middle in inner else []
    return [part[0 if first == "{e}" else 1] for part in parts]


def questions(example: Example) -> list[str]:
    users = [m["content"] for m in example.messages if m["role"] == "user"]
    last_line = [text.splitlines() for text in users]
    lines = [next(line for line in reversed(x) if line not in ("Answer: ", "")) for x in last_line]
    return [line.removeprefix("Question: ").removeprefix("Query: ") for line in lines]


@given(seeds, st.integers(1, 4))
# Drew "The Last Letter of Crowngrove" beside a planet of that name.
@example(7465, 4)
def test_every_answer_of_a_dialogue_stands_in_the_one_passage_about_its_question(
    seed: int, passages: int
) -> None:
    example = dialogue(Random(seed), passages=passages)
    said = [m["content"] for m in example.messages if m["role"] == "assistant"]
    said.append(example.good)
    assert len(example.documents) == passages
    assert len(said) == len(questions(example))
    for question, answer in zip(questions(example), said, strict=True):
        value = answer.split(" it is ")[1].removesuffix(".")
        about = [text for text in example.documents if asked(question) & stated(text)]
        assert len(about) == 1
        assert occurs(value, about[0])
        assert sum(occurs(value, text) for text in example.documents) == 1


@given(seeds)
def test_one_passage_answers_and_the_others_say_something_else(seed: int) -> None:
    for lesson in (reading, conflict):
        example = lesson(Random(seed))
        about = [x for x in example.documents if asked(example.question) & stated(x)]
        assert len(about) == 1
        assert occurs(example.accept[0], about[0])
        assert not any(occurs(example.accept[0], x) for x in example.documents if x != about[0])


@given(seeds)
def test_no_passage_answers_where_none_is_meant_to(seed: int) -> None:
    for lesson in (irrelevant, unanswerable):
        example = lesson(Random(seed))
        assert example.documents
        assert not any(asked(example.question) & stated(x) for x in example.documents)


def test_half_of_the_dialogues_set_subjects_against_each_other_on_one_matter() -> None:
    def one_matter(example: Example) -> bool:
        told = [{relation for relation, _ in stated(text)} for text in example.documents]
        return bool(set.intersection(*told))

    share = sum(one_matter(dialogue(Random(seed), passages=3)) for seed in range(300)) / 300
    assert 0.4 < share < 0.65
