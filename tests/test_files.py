"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import check_writable, read_text, write_whole


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
