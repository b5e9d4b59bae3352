"""The answer log keeps what it took, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from steerable_llm.chat.message import Message
from steerable_llm.errors import AnswerLogError, EmptyLogError, InvalidInputError, PairError
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer, Passage, write_answers
from steerable_llm.logs.database import answers, from_row, to_row
from steerable_llm.logs.importers import import_files
from steerable_llm.logs.queries import conditions as log_conditions
from steerable_llm.logs.queries import pairing_query, unpaired_query
from steerable_llm.pairs.pairing import pair_answers

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def logged(name: str = "a", **fields: object) -> LoggedAnswer:
    given: dict[str, object] = {
        "id": name,
        "question": "When does the shop open?",
        "passages": [Passage(id="hours", text="The shop opens at ten.")],
        "messages": [{"role": "user", "content": "When does the shop open?"}],
        "answer": "At nine.",
    }
    return LoggedAnswer.model_validate({**given, **fields})


def everything(name: str = "full") -> LoggedAnswer:
    return logged(
        name,
        verdict="bad",
        reason="not in documents",
        correction="At ten: été 你好.",
        comment="It made this up.\nTwice.",
        step="answer",
        model="demo",
        reference="At ten.",
        revision="main",
        steering=[{"vector": "faithfulness", "strength": 0.08}],
        usage={"prompt_tokens": 80, "completion_tokens": 7},
        score=0.25,
        label_source="human",
        reviewer="Ana",
        time=NOON,
        reviewed=NOON + timedelta(microseconds=1),
        trace_id="run-1",
    )


@pytest.fixture
def log(log_url: str) -> Iterator[AnswerLog]:
    with AnswerLog(log_url) as opened:
        yield opened


def test_an_answer_comes_back_as_it_was_added(log: AnswerLog) -> None:
    full, bare = everything(), logged("bare")
    assert log.add([full, bare]) == 2
    assert list(log.answers()) == [full, bare]
    assert log.get("full") == full


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(
    answer=texts,
    passages=st.lists(st.builds(Passage, id=texts, text=texts), max_size=3).map(tuple),
    comment=st.none() | texts,
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    time=st.none()
    | st.datetimes(datetime(2, 1, 1), timezones=st.just(timezone(timedelta(hours=5, minutes=30)))),
)
def test_no_text_is_changed_on_the_way_to_a_row_and_back(**fields: object) -> None:
    entry = logged(**fields)
    row = to_row(entry)
    assert from_row({c.name: row.get(c.name) for c in answers.c}) == entry


@pytest.mark.parametrize("broken", ["zero \x00", "half \ud800"])
def test_a_text_that_no_database_stores_is_refused(log: AnswerLog, broken: str) -> None:
    with pytest.raises(InvalidInputError, match=r"the answer 'b' holds.*remove it from its answer"):
        log.add([logged("b", answer=broken)])
    assert len(log) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("passages", (Passage(id="doc", text="half \ud800"),)),
        ("passages", (Passage(id="doc \x00", text="fine"),)),
        ("messages", (Message(role="user", content="zero \x00"),)),
        ("usage", {"zero \x00": 1}),
        ("steering", ({"vector": "v", "strength": float("nan")},)),
        ("steering", ({"vector": {"no", "JSON"}},)),
    ],
)
def test_what_no_database_stores_is_refused_inside_a_field_too(
    log: AnswerLog, field: str, value: object
) -> None:
    with pytest.raises(
        InvalidInputError, match=f"the answer 'b' holds.*remove it from its {field}"
    ):
        log.add([logged("b", **{field: value})])
    assert log.add([logged("fine")]) == 1


def test_the_same_answer_is_added_once(log: AnswerLog) -> None:
    assert log.add([logged("a"), logged("b")]) == 2
    assert log.add([logged("b", answer="Another."), logged("c")]) == 1
    assert [entry.answer for entry in log.answers()] == ["At nine."] * 3


def test_the_log_is_still_there_when_it_is_opened_again(log_url: str) -> None:
    with AnswerLog(log_url) as first:
        first.add([everything()])
    with AnswerLog(log_url) as second:
        assert list(second.answers()) == [everything()]


def test_a_review_replaces_the_judgement_and_keeps_the_rest(log: AnswerLog) -> None:
    log.add([logged(comment="odd")])
    log.review("a", verdict="bad", reason="rude", reviewer="Ana", reviewed=NOON)
    assert log.get("a") == logged(
        comment="odd",
        verdict="bad",
        reason="rude",
        label_source="human",
        reviewer="Ana",
        reviewed=NOON,
    )
    before = datetime.now(UTC)
    log.review("a", verdict="good", reason=None)
    assert log.get("a").reviewed >= before
    assert log.get("a").reviewer == "Ana"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "fine"}, "'fine' is no verdict"),
        ({"reason": "bad mood"}, "'bad mood' is no reason: one of not in documents"),
        ({"answer": "x"}, "a review has no answer"),
    ],
)
def test_a_wrong_review_is_refused(log: AnswerLog, change: dict[str, str], problem: str) -> None:
    log.add([logged()])
    with pytest.raises(InvalidInputError, match=problem):
        log.review("a", **change)
    with pytest.raises(InvalidInputError, match="no answer 'nobody'"):
        log.review("nobody", verdict="good")
    assert log.get("a") == logged()


def test_filters_choose_like_a_plain_loop(log: AnswerLog) -> None:
    entries = [
        logged(
            f"{i}",
            verdict=("good", "bad", None)[i % 3],
            reason=("rude", "contradicts")[i % 2] if i % 3 == 1 else None,
            step=("answer", "condense", None)[i % 5 % 3],
            model=("one", "two")[i % 2],
            time=NOON + timedelta(hours=i),
            trace_id=f"t{i // 4}",
        )
        for i in range(60)
    ]
    log.add(entries)
    chosen = {
        "verdict": lambda e: e.verdict == "bad",
        "step": lambda e: e.step == "answer",
        "model": lambda e: e.model == "two",
        "trace_id": lambda e: e.trace_id == "t3",
        "since": lambda e: e.time >= NOON + timedelta(hours=7),
        "until": lambda e: e.time < NOON + timedelta(hours=30),
        "reason": lambda e: e.reason == "rude",
    }
    values = {
        "verdict": "bad",
        "step": "answer",
        "model": "two",
        "trace_id": "t3",
        # Another zone, the same moment.
        "since": (NOON + timedelta(hours=7)).astimezone(timezone(timedelta(hours=-8))),
        "until": NOON + timedelta(hours=30),
        "reason": "rude",
    }
    for names in [[name] for name in chosen] + [["verdict", "step"], ["since", "until", "model"]]:
        filters = {name: values[name] for name in names}
        expected = [e for e in entries if all(chosen[name](e) for name in names)]
        assert expected
        assert list(log.answers(**filters)) == expected
        assert log.count(**filters) == len(expected)
        assert list(log.answers(limit=1, **filters)) == expected[:1]
    assert log.count(verdict="none") == 20
    assert log.count(reason=["rude", "contradicts"]) == 20


def test_an_unknown_filter_value_is_refused(log: AnswerLog) -> None:
    with pytest.raises(InvalidInputError, match="no reason: one of"):
        log.count(reason="Rude")
    with pytest.raises(InvalidInputError, match="no zone"):
        log.count(since=datetime(2026, 1, 1))


def test_reading_may_stop_half_way(log: AnswerLog) -> None:
    log.add(logged(f"{i}") for i in range(1200))
    assert next(log.answers()).id == "0"
    reading = log.answers()
    assert [next(reading).id for _ in range(700)][-1] == "699"
    log.add([logged("later")])
    assert len(list(reading)) in (500, 501)


def test_statistics_count_everything(log: AnswerLog) -> None:
    log.add([everything(), logged("b", verdict="good", step="answer"), logged("c")])
    found = log.statistics()
    assert (found.answers, found.verdicts) == (3, {"bad": 1, "good": 1, "none": 1})
    assert found.reasons == {"not in documents": 1}
    assert found.steps == {"answer": 2, "none": 1}
    assert found.models == {"none": 2, "demo": 1}
    assert (found.first, found.last) == (NOON, NOON)


# Pairs.


def bad(name: str, **fields: object) -> LoggedAnswer:
    return logged(name, **{"verdict": "bad", "reason": "not in documents", **fields})


def test_pairs_are_those_that_pairing_in_memory_finds(log: AnswerLog) -> None:
    elsewhere = [Passage(id="hours", text="The shop opens at noon.")]
    entries = [
        logged("g0", verdict="good", answer="At ten."),
        bad("corrected", correction="It opens at ten."),
        bad("praised"),
        bad("twin", correction="At 10.", label_source="preference pair"),
        bad("expected", reference="Ten."),
        bad("lost", passages=elsewhere),
        bad("retrieval", reason="wrong retrieval", correction="At ten."),
        bad("same", correction=" At nine. "),
        bad("rude", reason="rude", correction="At ten, madam."),
        logged("g1", verdict="good", answer="Ten o'clock."),
    ]
    log.add(entries)
    assert log.pairing() == pair_answers(entries)
    found = log.pairing(reason="not in documents")
    assert found == pair_answers(entries, reasons=["not in documents"])
    assert log.pairs(reason="not in documents") == found.pairs
    assert found.by_source == {
        "correction": 1,
        "good answer": 2,  # of them one whose correction repeats the bad answer
        "preference pair": 1,
        "reference": 1,
    }
    assert [pair.id for pair in log.pairs(reason=["rude"])] == ["rude"]


@pytest.mark.parametrize(
    ("told", "praised", "source"),
    [
        ({}, ["", "At nine.", "At ten."], "good answer"),
        ({}, ["\u00a0\n", " At nine.\t", " At ten."], "good answer"),
        ({"correction": "At nine."}, ["At ten."], "good answer"),
        ({"correction": "At nine.", "reference": "At ten."}, ["Late."], "reference"),
        ({"correction": " ", "reference": "At nine. "}, ["At nine.", "At ten."], "good answer"),
    ],
)
def test_what_mends_nothing_hides_no_better_answer(
    log: AnswerLog, told: dict[str, object], praised: list[str], source: str
) -> None:
    right = [logged(f"g{n}", verdict="good", answer=text) for n, text in enumerate(praised)]
    entries = [bad("b", **told), *right]
    log.add(entries)
    found = log.pairing(own_words=False)
    assert found == pair_answers(entries, own_words=False)
    assert [(pair.good.strip(), pair.bad) for pair in found.pairs] == [("At ten.", "At nine.")]
    assert found.by_source == {source: 1}


def test_praise_that_only_repeats_the_bad_answer_is_told(log: AnswerLog) -> None:
    entries = [bad("b"), logged("g", verdict="good"), bad("mended", correction="At ten.")]
    log.add(entries)
    assert log.pairing() == pair_answers(entries)
    assert log.pairing().left_out == {"the good answer repeats the bad answer": 1}


def test_nothing_to_pair_is_said(log: AnswerLog) -> None:
    with pytest.raises(EmptyLogError, match="log some answers first"):
        log.pairs()
    log.add([bad("alone")])
    with pytest.raises(PairError, match="add corrections"):
        log.pairs(reason="not in documents")


def test_good_answers_without_a_bad_twin_can_be_learned_from_alone(log: AnswerLog) -> None:
    other = [{"role": "user", "content": "Who?"}]
    elsewhere = [Passage(id="bank", text="The bank opens at one.")]
    log.add(
        [
            logged("g0", verdict="good", answer="At ten."),
            bad("b0"),
            logged("g1", verdict="good", answer="Ana.", messages=other, step="answer"),
            logged("g2", verdict="good", answer="It is Ana.", messages=other),
            # The same question over other passages is another prompt.
            logged("g3", verdict="good", answer="At one.", passages=elsewhere),
            logged("blank", verdict="good", answer=" ", messages=[*other, *other]),
            logged("blank too", verdict="good", answer=" ", passages=[]),
            logged("g4", verdict="good", answer="Nobody says.", passages=[]),
            logged("unknown", answer="Eve.", messages=[*other, *other, *other]),
        ]
    )
    found = log.unpaired()
    assert [(p.id, p.good, p.bad) for p in found] == [
        ("g1", "Ana.", None),
        ("g3", "At one.", None),
        ("g4", "Nobody says.", None),
    ]
    assert found[1].document_ids == ("bank",)
    assert [pair.id for pair in log.unpaired(step="answer")] == ["g1"]
    with pytest.raises(PairError, match="review some answers as good"):
        log.unpaired(step="condense")
    with pytest.raises(InvalidInputError, match="not chosen by reason"):
        log.unpaired(reason="rude")


# Indexes: a log of a million answers stays usable.

QUERIES = {
    "verdict": ({"verdict": "bad"}, "answers_by_verdict"),
    "reason": ({"reason": "rude"}, "answers_by_verdict"),
    "step": ({"step": "condense"}, "answers_by_step"),
    "model": ({"model": "rare"}, "answers_by_model"),
    "trace": ({"trace_id": "t7"}, "answers_by_trace"),
    "time": ({"since": NOON + timedelta(minutes=2995)}, "answers_by_time"),
}


@pytest.fixture
def large_log(log: AnswerLog) -> AnswerLog:
    """Three thousand answers, of which each filter wants few."""
    log.add(
        logged(
            f"{i}",
            messages=[{"role": "user", "content": f"question {i // 2}"}],
            verdict="bad" if i % 50 == 1 else "good",
            reason="rude" if i % 100 == 1 else "contradicts" if i % 50 == 1 else None,
            step="condense" if i % 40 == 0 else "answer",
            model="rare" if i % 40 == 1 else "usual",
            time=NOON + timedelta(minutes=i),
            trace_id=f"t{i // 3}",
        )
        for i in range(3000)
    )
    if log.engine.dialect.name == "postgresql":
        # The server does it by itself after a while; a SQLite log never has any statistics.
        with log.engine.begin() as connection:
            connection.execute(text("ANALYZE"))
    return log


def plan(log: AnswerLog, query: object) -> str:
    shown = query.compile(log.engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if log.engine.dialect.name == "sqlite" else "EXPLAIN"
    with log.engine.connect() as connection:
        # No bind parameters are left, and a colon in a time is not one.
        rows = connection.exec_driver_sql(f"{explain} {shown}".replace("%", "%%"))
        return "\n".join(str(row[-1]) for row in rows)


def test_every_query_uses_its_index(large_log: AnswerLog) -> None:
    for filters, index in QUERIES.values():
        query = answers.select().where(*log_conditions(**filters)).order_by(answers.c.seq)
        found = plan(large_log, query)
        assert index in found, found
        assert not re.search(r"SCAN answers|Seq Scan|TEMP B-TREE", found), found
    for query in (pairing_query(reason="rude"), unpaired_query(step="condense")):
        found = plan(large_log, query)
        assert "answers_by_prompt" in found, found
        assert not re.search(r"SCAN (answers|good|other)|Seq Scan", found), found
    assert "answers_by_verdict" in plan(large_log, pairing_query(reason="rude"))


def test_long_logs_are_read_and_written_in_constant_memory(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        entries = (logged(f"{i}", answer="x" * 2000, verdict="good") for i in range(number))
        file = write_answers(tmp_path / f"{number}.jsonl", entries)
        with AnswerLog(f"sqlite:///{tmp_path / f'{number}.db'}") as log:
            log.add([logged("first")])  # imports and caches belong to nobody
            tracemalloc.start()
            assert import_files(log, file, "answers").added == number
            assert sum(1 for _ in log.answers(verdict="good")) == number
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    assert peak(1800) < 1.5 * peak(600)


# Several processes, and processes that die.

WRITER = """
import sys
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.answer_log import AnswerLog
url, name, number = sys.argv[1:]
message = {"role": "user", "content": "q"}
log = AnswerLog(url)
for i in range(int(number)):
    one = LoggedAnswer(id=f"{name}-{i}", question="q", messages=[message], answer="a" * 500)
    log.add([one])
    print(one.id, flush=True)
"""


def start_writer(url: str, name: str, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, name, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_write_at_once_and_lose_nothing(log_url: str) -> None:
    # The log is not there yet, so that they also race to make it.
    writers = [start_writer(log_url, f"w{i}", 40) for i in range(3)]
    for writer in writers:
        writer.communicate(timeout=100)
        assert writer.returncode == 0
    with AnswerLog(log_url) as log:
        assert {e.id for e in log.answers()} == {f"w{w}-{i}" for w in range(3) for i in range(40)}


def test_what_was_added_survives_a_kill(log_url: str) -> None:
    writer = start_writer(log_url, "w", 100_000)
    assert writer.stdout is not None
    said = [writer.stdout.readline().strip() for _ in range(25)]
    os.kill(writer.pid, signal.SIGKILL)
    said += writer.communicate()[0].split()
    with AnswerLog(log_url) as log:
        kept = [entry.id for entry in log.answers()]
        # The last line may have been cut short, and the last answer not yet announced.
        whole = [name for name in said if name in kept]
        assert len(said) - len(whole) <= 1
        assert kept == [f"w-{i}" for i in range(len(kept))]
        assert len(kept) - len(whole) <= 1
        assert log.add([logged("after")]) == 1
        if log.engine.dialect.name == "sqlite":
            with log.engine.connect() as connection:
                check = connection.execute(text("PRAGMA integrity_check")).scalar()
                mode = connection.execute(text("PRAGMA journal_mode")).scalar()
            assert (check, mode) == ("ok", "wal")


# Addresses.


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("answers.db", "no database address: write sqlite:///answers.db"),
        ("sqlite://", "keep the log in memory"),
        ("sqlite:///:memory:", "keep the log in memory"),
        ("mysql://host/log", "SQLite or PostgreSQL, not in 'mysql'"),
        ("sqlite:////nowhere/at/all/a.db", "folder /nowhere/at/all of the answer log is missing"),
    ],
)
def test_an_address_that_cannot_hold_a_log_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        AnswerLog(url)


def test_a_file_that_is_no_database_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("certainly not a database" * 100)
    with pytest.raises(AnswerLogError, match=r"a\.db failed: file is not a database") as caught:
        AnswerLog(f"sqlite:///{tmp_path / 'a.db'}")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(AnswerLogError, match="check that the database is there") as caught:
        AnswerLog(f"postgresql://me:secret@/log?host={tmp_path}")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
