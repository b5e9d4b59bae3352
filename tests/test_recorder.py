"""Recording never waits for the database and never fails; what is lost is counted."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.logs.recorder import AnswerRecorder

# How long one call may take that does not wait for anything; a loaded machine is slow.
INSTANT = 0.5


def answer(name: str = "a", text: str = "At ten.") -> LoggedAnswer:
    message = {"role": "user", "content": "When?"}
    return LoggedAnswer(id=name, question="When?", messages=[message], answer=text)


def dead_server(folder: Path) -> str:
    return f"postgresql://nobody@/log?host={folder}"


def test_answers_from_many_threads_all_reach_the_log(log_url: str) -> None:
    recorder = AnswerRecorder(log_url)

    def give(thread: int) -> None:
        for i in range(100):
            recorder.record(answer(f"{thread}-{i}"))

    threads = [threading.Thread(target=give, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.flush(30)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (400, 0)
    with AnswerLog(log_url) as log:
        assert {e.id for e in log.answers()} == {f"{n}-{i}" for n in range(4) for i in range(100)}


def test_a_dead_server_costs_no_time_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = AnswerRecorder(dead_server(tmp_path), capacity=10)
    with caplog.at_level(logging.WARNING):
        start = time.monotonic()
        for i in range(200):
            recorder.record(answer(f"{i}"))
        assert time.monotonic() - start < INSTANT
        assert not recorder.flush(0.3)
        recorder.close(0.3)
    assert recorder.written == 0
    # All of them, also those that waited when it was closed.
    assert recorder.flush(10)
    assert recorder.dropped == 200
    assert len(caplog.records) == 1
    assert "not reaching the log" in caplog.text


def test_what_still_waits_when_it_is_closed_counts_as_dropped(tmp_path: Path) -> None:
    recorder = AnswerRecorder(dead_server(tmp_path))
    recorder.record(answer("tried"))
    deadline = time.monotonic() + 20
    while not recorder._waiting.empty() and time.monotonic() < deadline:
        time.sleep(0.01)
    for i in range(5):
        recorder.record(answer(f"waiting-{i}"))
    recorder.close(0.1)
    assert recorder.flush(20)
    assert (recorder.written, recorder.dropped) == (0, 6)


def test_what_waits_is_written_when_the_database_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    recorder = AnswerRecorder(f"sqlite:///{folder / 'a.db'}")
    recorder.record(answer("lost"))
    assert recorder.flush(10)
    assert recorder.dropped == 1  # the folder is missing, and no waiting makes one
    blocked = tmp_path / "b.db"
    blocked.write_text("not a database" * 100)
    recorder = AnswerRecorder(f"sqlite:///{blocked}")
    recorder.record(answer("kept"))
    assert not recorder.flush(0.3)
    blocked.unlink()
    assert recorder.flush(20)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (1, 0)
    with AnswerLog(f"sqlite:///{blocked}") as log:
        assert [entry.id for entry in log.answers()] == ["kept"]


def test_an_answer_that_cannot_be_stored_takes_only_itself_along(
    log_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = AnswerRecorder(log_url)
    for name, text in (("a", "fine"), ("b", "zero \x00"), ("c", "fine")):
        recorder.record(answer(name, text))
    assert recorder.flush(20)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (2, 1)
    assert "answer 'b'" in caplog.text
    with AnswerLog(log_url) as log:
        assert [entry.id for entry in log.answers()] == ["a", "c"]


def test_an_answer_that_cannot_be_stored_hides_no_database_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.db"
    recorder = AnswerRecorder(f"sqlite:///{file}")
    recorder.record(answer("zero", "zero \x00"))
    assert recorder.flush(20)
    for number in range(2):  # away, back, and away again: each time it is said
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("ALTER TABLE answers RENAME TO gone")
            recorder.record(answer(f"late-{number}"))
            deadline = time.monotonic() + 20
            while caplog.text.count("no such table") < number + 1:
                assert time.monotonic() < deadline, caplog.text
                time.sleep(0.01)
            database.execute("ALTER TABLE gone RENAME TO answers")
        assert recorder.flush(20)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (2, 1)


def test_a_passage_that_cannot_be_stored_holds_up_no_other_answer(log_url: str) -> None:
    # As the text of a PDF may be; the database must not be taken for one that is down.
    broken = answer("b").model_copy(update={"passages": (Passage(id="pdf", text="zero \x00"),)})
    recorder = AnswerRecorder(log_url)
    for entry in (broken, answer("c")):
        recorder.record(entry)
    assert recorder.flush(20)
    recorder.close()
    assert (recorder.written, recorder.dropped) == (1, 1)
    with AnswerLog(log_url) as log:
        assert [entry.id for entry in log.answers()] == ["c"]


def test_after_closing_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    recorder = AnswerRecorder(f"sqlite:///{tmp_path / 'a.db'}")
    recorder.close()
    recorder.record(answer())
    assert recorder.dropped == 1


def test_answers_given_just_before_the_end_of_the_process_are_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    code = (
        "import sys; from steerable_llm.logs.answers import LoggedAnswer; "
        "from steerable_llm.logs.recorder import AnswerRecorder; "
        "m = {'role': 'user', 'content': 'q'}; "
        "AnswerRecorder(sys.argv[1]).record("
        "LoggedAnswer(id='a', question='q', messages=[m], answer='x'))"
    )
    subprocess.run([sys.executable, "-c", code, url], check=True, timeout=60)
    with AnswerLog(url) as log:
        assert log.count() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_records_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    code = f"""
import os
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.recorder import AnswerRecorder
def answer(name):
    m = {{"role": "user", "content": "q"}}
    return LoggedAnswer(id=name, question="q", messages=[m], answer="x")
recorder = AnswerRecorder({url!r})
recorder.record(answer("parent"))
recorder.flush()
child = os.fork()
if child == 0:
    recorder.record(answer("child"))
    recorder.flush()
    os._exit(0)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
    with AnswerLog(url) as log:
        assert {entry.id for entry in log.answers()} == {"parent", "child"}
