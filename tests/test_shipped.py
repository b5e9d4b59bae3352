"""Vectors that come along are found in a checkout and in an installed package."""

from pathlib import Path

import pytest

from steerable_llm import SteeringVector
from steerable_llm.errors import UnknownVectorError
from steerable_llm.vector import shipped

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_has_them_beside_the_package() -> None:
    assert shipped.shipped_folder() == ROOT / "vectors"
    vector = SteeringVector.load(shipped.shipped_vector("demo-faithfulness"))
    assert vector.name == "demo-faithfulness"


def test_an_installed_package_has_them_inside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "steerable_llm")
    inside = tmp_path / "steerable_llm" / "vectors"
    inside.mkdir(parents=True)
    (tmp_path / "vectors").mkdir()
    (inside / "some.safetensors").touch()
    assert shipped.shipped_vector("some") == inside / "some.safetensors"


def test_one_that_is_not_there_is_told_with_its_nearest() -> None:
    with pytest.raises(UnknownVectorError, match=r"did you mean 'demo-faithfulness'\?"):
        shipped.shipped_vector("demo-faithfulnes")
