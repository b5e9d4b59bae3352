"""Vectors that come along are found in a checkout and in an installed package."""

import json
from pathlib import Path

import pytest
import tomlkit
from command_line import Steerable, steerable

from steerable_llm import SteeringVector, demo
from steerable_llm.errors import UnknownVectorError

__all__ = ["steerable"]

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_has_them_beside_the_package() -> None:
    assert demo.shipped_folder() == ROOT / "vectors"
    vector = SteeringVector.load(demo.shipped_vector("demo-faithfulness"))
    assert vector.name == "demo-faithfulness"


def test_an_installed_package_has_them_inside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "folder", lambda: tmp_path / "steerable_llm" / "demo")
    inside = tmp_path / "steerable_llm" / "vectors"
    inside.mkdir(parents=True)
    (tmp_path / "vectors").mkdir()
    (inside / "some.safetensors").touch()
    assert demo.shipped_vector("some") == inside / "some.safetensors"


def test_one_that_is_not_there_is_told_with_its_nearest() -> None:
    with pytest.raises(UnknownVectorError, match=r"did you mean 'demo-faithfulness'\?"):
        demo.shipped_vector("demo-faithfulnes")


@pytest.mark.parametrize(
    "name", sorted(file.stem for file in (ROOT / "vectors").glob("*.safetensors"))
)
def test_the_report_of_each_promotes_it_once_more(
    name: str, steerable: Steerable, tmp_path: Path
) -> None:
    file = ROOT / "vectors" / f"{name}.safetensors"
    report = file.with_suffix(".json")
    where: list[object] = ["--to", tmp_path / "vectors"]
    use = json.loads(report.read_text("utf-8"))["use"]
    if use is not None:  # it was proven as a step uses it, and goes into such a step
        policy = tomlkit.dumps(
            {
                "vectors_dir": "vectors",
                "gates_dir": str(ROOT / "vectors" / "gates"),
                "steps": {"mine": {"when": use["when"]}},
            }
        )
        (tmp_path / "policy.toml").write_text(policy, "utf-8")
        where += ["--policy", tmp_path / "policy.toml", "--step", "mine"]
    assert "PROMOTE" in steerable("promote", file, "--report", report, *where)
    assert SteeringVector.load(tmp_path / "vectors" / f"{name}.safetensors").evaluation is not None
