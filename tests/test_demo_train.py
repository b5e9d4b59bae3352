"""Training goes on where it stopped, and never over a run with other settings."""

import shutil
from pathlib import Path

import pytest
import torch

from steerable_llm import demo
from steerable_llm.demo.tokenizer import ROLES
from steerable_llm.demo.train import Recipe, batches, train
from steerable_llm.errors import InvalidInputError
from steerable_llm.model import SteerableHFLLM

SMALL = Recipe(steps=21, batch=4, last_phase=8)


def test_a_checkpoint_of_other_settings_is_kept_and_named(tmp_path: Path) -> None:
    shutil.copytree(demo.folder() / "model", tmp_path / "model")
    torch.save({"recipe": vars(Recipe(batch=8))}, tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InvalidInputError, match="give another folder"):
        train(SMALL, tmp_path, "cpu")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("start", [5, 8, 19])
def test_a_run_that_goes_on_sees_the_batches_it_would_have_seen(start: int) -> None:
    tokenizer = SteerableHFLLM.demo().tokenizer
    whole = list(batches(tokenizer, SMALL, 0))
    rest = list(batches(tokenizer, SMALL, start))
    assert len(whole) == SMALL.steps
    for known, again in zip(whole[start:], rest, strict=True):
        assert torch.equal(known.ids, again.ids)


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
