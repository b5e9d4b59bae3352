"""A file is there whole or not at all, and JSON lines are read one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerable_llm import files
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import (
    check_writable,
    json_lines,
    read_json_lines,
    read_text,
    write_json_lines,
    write_whole,
)


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
        (b"[" * 30_000, "it is not JSON (a number or its nesting is too large)"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "it is not JSON (a number or its nesting is too large)"),
        (b'{"n": ' + b"[" * 101 + b"]" * 101 + b"}", "it is nested deeper than 100 levels"),
        (b'{"n": "' + b"x" * 2_000 + b'"}', "it is too long (over 1000 bytes)"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, said: str
) -> None:
    if b"x" in line:
        monkeypatch.setattr(files, "LONGEST_LINE", 1_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path / "a.jsonl")
    assert f"a.jsonl, line 2: {said}" in str(caught.value)
    with (tmp_path / "a.jsonl").open("rb") as file:
        assert [one.number for one in json_lines(file) if not one.problem][-1] == 3


def test_a_missing_file_of_json_lines_is_called_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no log .*none\.jsonl: give the path"):
        read(tmp_path / "none.jsonl")
