"""Training goes on where it stopped, and never over a run with other settings."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exhibit.batches import Batch, Recipe, batches
from exhibit.tokenizer import ROLES
from exhibit.train import train
from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError

SMALL = Recipe(steps=21, batch=4, last_phase=8)
# torch's own compiler still imports what torch calls old.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
# The last phase, with its noise, begins before the stop in the middle.
TINY = Recipe(steps=5, batch=2, last_phase=2)
MODEL = demo.folder() / "model"


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


def test_a_checkpoint_of_other_settings_is_kept_and_named(tmp_path: Path) -> None:
    train(replace(TINY, steps=1), tmp_path, "cpu", start_from=MODEL)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InvalidInputError, match="give another folder"):
        train(replace(TINY, batch=3), tmp_path, "cpu")
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidInputError, match="not a checkpoint of this training"):
        train(TINY, tmp_path, "cpu")


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(TINY, tmp_path / "whole", "cpu", start_from=MODEL)

    def stopped(*arguments: Any) -> Iterator[Batch]:
        yield from islice(batches(*arguments), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("exhibit.train.batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "parts", "cpu", start_from=MODEL, save_every=0.0)
    monkeypatch.undo()
    train(TINY, tmp_path / "parts", "cpu", start_from=MODEL)

    whole, parts, given = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "whole" / "model", tmp_path / "parts" / "model", MODEL)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], given[name]) for name in whole)


@pytest.mark.parametrize("start", [5, 8, 19])
def test_a_run_that_goes_on_sees_the_batches_it_would_have_seen(start: int) -> None:
    tokenizer = SteerableHFLLM.demo().tokenizer
    whole = list(batches(tokenizer, SMALL, 0))
    rest = list(batches(tokenizer, SMALL, start))
    assert len(whole) == SMALL.steps
    for known, again in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(value, vars(again)[name]) for name, value in vars(known).items())


def test_what_is_learned_is_the_token_that_follows() -> None:
    tokenizer = SteerableHFLLM.demo().tokenizer
    assistant = tokenizer.convert_tokens_to_ids(ROLES["assistant"])
    for batch in batches(tokenizer, SMALL, 0):
        flat = batch.ids.flatten()
        counted = batch.weights > 0
        assert torch.equal(flat[batch.places[counted] + 1], batch.targets[counted])
        openings = batch.ids[torch.arange(len(batch.ids)), batch.first]
        assert (openings == assistant).all()
        assert torch.allclose(batch.odds.sum(1), torch.ones(len(batch.ids)))
