"""A file is there whole or not at all, and JSON lines are read one by one."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steerable_llm import json_records
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import (
    check_output,
    check_writable,
    kind_of,
    read_json_lines,
    read_text,
    write_json_lines,
    write_together,
    write_whole,
)
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.reports.page import SUFFIXES, Page


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path) -> None:
    text = write_whole(tmp_path / "new folder" / "a.md", "Grüße\n")
    assert text.read_bytes() == "Grüße\n".encode()
    assert write_whole(tmp_path / "b.png", b"\x89PNG").read_bytes() == b"\x89PNG"


def test_an_existing_file_is_replaced_and_nothing_else_left(tmp_path: Path) -> None:
    target = tmp_path / "card.md"
    for content in ("a long first version", "short"):
        write_whole(target, content)
    assert target.read_text() == "short"
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]


def test_a_failure_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_whole(tmp_path / "card.md", "old")

    def full_disk(self: Path, other: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]


def test_files_that_belong_together_are_all_written_or_none(tmp_path: Path) -> None:
    card, vector = tmp_path / "card.md", tmp_path / "vector"
    write_together({card: "old", vector: b"old"})

    def cut_short() -> Iterator[str]:
        yield "new"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*vector"):
        write_together({card: "new", vector: cut_short()})
    with pytest.raises(IsADirectoryError):
        write_together({card: "new", tmp_path: "new"})
    assert (card.read_text(), vector.read_text()) == ("old", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "vector"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_read_with_and_without_the_mark_of_windows(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(mark + "Café".encode())
    assert read_text(tmp_path / "a.txt") == "Café"


def test_another_encoding_is_told_by_the_file_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Café".encode("latin-1"))
    with pytest.raises(InvalidInputError, match=r"a\.txt is not UTF-8 text .* save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_a_folder_in_the_place_of_a_file_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_whole(tmp_path / "v", "text")
    assert error.value.filename == str(tmp_path / "v")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_what_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("in the way")
    for place in (tmp_path / "note" / "a.md", tmp_path / "note" / "new" / "a.md"):
        with pytest.raises(InvalidInputError, match="note is no folder that you may write to"):
            check_writable(place)
    with pytest.raises(InvalidInputError, match="is a folder: name the file to write"):
        check_writable(tmp_path)
    for place in (tmp_path / "note", tmp_path / "new" / "folder" / "a.md", Path("a.md")):
        check_writable(place)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def number_of(record: dict[str, Any]) -> int:
    if "n" not in record:
        raise InvalidInputError("there is no n")
    return int(record["n"])


def read(path: Path) -> list[int]:
    return list(read_json_lines(path, number_of, "log", "a line has n"))


def test_json_lines_are_read_with_a_mark_with_blank_lines_and_without_a_last_line_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n  \n{"n": 2}')
    assert read(tmp_path / "a.jsonl") == [1, 2]


def test_json_lines_come_back_as_they_were_written_whatever_a_text_holds(tmp_path: Path) -> None:
    records = [{"b": "Où?\u2028Là\x85.", "a": [1, None]}, {"text": "cut \ud83d"}]
    assert write_json_lines(tmp_path / "a.jsonl", records) == 2
    assert list(read_json_lines(tmp_path / "a.jsonl", dict, "log", "")) == records
    assert "Où?" in (tmp_path / "a.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "it is not JSON (Expecting property name"),
        (b"[1]", "it is not a JSON object; a line has n"),
        (b"\xff", "it is not UTF-8 (byte 0: save the file as UTF-8)"),
        (b"{}", "there is no n; a line has n"),
        (b"[" * 30_000, "it is nested deeper than 100 levels"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "it is not JSON (a number or its nesting is too large)"),
        (b'{"n": ' + b"[" * 101 + b"]" * 101 + b"}", "it is nested deeper than 100 levels"),
        (b'{"n": "' + b"x" * 2_000 + b'"}', "it is too long (over 1000 bytes)"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, said: str
) -> None:
    if b"x" in line:
        monkeypatch.setattr(json_records, "LONGEST", 1_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path / "a.jsonl")
    assert f"a.jsonl, line 2: {said}" in str(caught.value)
    with (tmp_path / "a.jsonl").open("rb") as file:
        lines = json_records.json_records(file)
        assert [one.number for one in lines if not one.problem][-1] == 3


def test_a_missing_file_of_json_lines_is_called_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no log .*none\.jsonl: give the path"):
        read(tmp_path / "none.jsonl")


def test_pairs_and_sets_may_be_an_array_packed_and_in_utf_16(tmp_path: Path) -> None:
    records = [{"n": 1}, {"n": 2}]
    for content in (
        json.dumps(records, indent=1).encode(),
        gzip.compress(b'{"n": 1}\n{"n": 2}\n'),
        json.dumps(records).encode("utf-16"),
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        assert read(tmp_path / "a.jsonl") == [1, 2]


# Where a file may be written.


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_keeps_its_mode_and_a_new_one_has_the_users(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert mode(write_whole(tmp_path / "a.md", "new")) == 0o640
        assert mode(write_whole(tmp_path / "b.jsonl", "new", private=True)) == 0o600
        for kept in (0o600, 0o644, 0o664):
            (tmp_path / "a.md").chmod(kept)
            write_whole(tmp_path / "a.md", "again", private=kept == 0o644)
            assert mode(tmp_path / "a.md") == kept
    finally:
        os.umask(before)


def test_what_people_said_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", [{"n": 1}])
    AnswerLog(f"sqlite:///{tmp_path / 'a.db'}").close()
    Pairs([PreferencePair("When?", "At ten.", "At nine.")]).to_jsonl(tmp_path / "pairs.jsonl")
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


def test_links_are_followed_and_pipes_and_devices_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.md").symlink_to(tmp_path / "real" / "a.md")
    for text in ("new", "again"):
        write_whole(tmp_path / "link.md", text)
        assert (tmp_path / "link.md").is_symlink()
        assert (tmp_path / "real" / "a.md").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read_back = pool.submit((tmp_path / "pipe").read_text)
        write_whole(tmp_path / "pipe", ["through ", "a pipe"])
        assert read_back.result(10) == "through a pipe"
    assert (tmp_path / "pipe").is_fifo()
    write_whole(Path(os.devnull), "nothing")
    assert not Path(os.devnull).is_file()


KINDS = {
    "pairs": b'{"messages": [], "good": "a", "bad": "b"}\n',
    "logged answers": b'{"id": "a", "question": "q", "messages": [], "answer": "x"}\n',
    "an evaluation set": b'{"id": "a", "category": "c", "messages": [], "good": "x"}\n',
    "proposals": b'{"id": "a", "proposals": []}\n',
    "preferences": b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n',
    "other JSON lines": b'{"a": 1}\n{"b": 2}\n',
    "JSON": b'{\n "a": 1\n}\n',
    "a safetensors file": (20).to_bytes(8, "little") + b'{"__metadata__": {}}',
    "a database": b"SQLite format 3\x00rest",
    "a GGUF file": b"GGUF\x03\x00",
    "text": b"# A card",
    "a web page": b"<!doctype html>",
    "a report": Page("A card", []).to_html().encode(),
    "data of another kind": b"\xff\xfe\xfa\x00",
    "a file packed by gzip": gzip.compress(b"{}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_written_over_only_by_its_own_kind(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "there"
    there.write_bytes(KINDS[kind])
    assert kind_of(there) == kind
    check_output(there, kind)
    for other in KINDS.keys() - {kind}:
        with pytest.raises(InvalidInputError, match=f"there holds {kind}, which {other} would"):
            check_output(there, other)
    there.write_bytes(b"")
    check_output(there, "pairs")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[steps.answer]\nvector = "a"\n', "text"),
        ('[[steps]]\nvector = "a"\n', "text"),
        ("[a, of TOML and no list]\n", "text"),
        ("[the page](page.md)\n\nof a note\n", "text"),
        ("[]\n", "JSON"),
        ("[1, 2]\n", "JSON"),
        ('[\n {"a": 1}\n]\n', "JSON"),
    ],
)
def test_a_bracket_alone_makes_no_json(tmp_path: Path, content: str, kind: str) -> None:
    (tmp_path / "there").write_text(content, encoding="utf-8")
    assert kind_of(tmp_path / "there") == kind


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_report_is_known_by_what_it_holds_and_not_by_its_suffix(
    tmp_path: Path, suffix: str
) -> None:
    ours = Page("A card", []).save(tmp_path / f"ours{suffix}", lambda: REPORT_JSON)
    assert kind_of(ours) == "a report"
    theirs = tmp_path / f"theirs{suffix}"
    theirs.write_text(REPORT_JSON.replace("report_version", "version"), encoding="utf-8")
    with pytest.raises(InvalidInputError, match="which a report would"):
        check_output(theirs, "a report")


REPORT_JSON = '{\n "report_version": 1,\n "sha256": "x"\n}\n'


def test_what_is_read_is_not_written_over_whatever_it_is_called(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(KINDS["pairs"])
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "same")
    for name in ("a.jsonl", "link", "same", "../" + tmp_path.name + "/a.jsonl"):
        with pytest.raises(InvalidInputError, match="is what this command reads"):
            check_output(tmp_path / name, "pairs", [None, tmp_path / "none", source])
    check_output(tmp_path / "new.jsonl", "pairs", [source])
