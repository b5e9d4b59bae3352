"""Train the vision exhibit from scratch: ``python -m exhibit.vision.train``.

Seeded, and resumable: a checkpoint every few minutes. First tower and projector learn to put every
piece of a picture near the words for the thing and the colour that stand there; then everything
learns to answer, with a soft target for the opening word, and the tower at a tenth of the rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from exhibit.training import fit, known_folder
from exhibit.vision.batches import IGNORED, Batch, Lessons
from exhibit.vision.model import new_model, new_processor, new_tokenizer
from exhibit.vision.pictures import THINGS

_OPENING_WEIGHT, _PATCH_WEIGHT = 0.5, 0.3
# Of the second part: how long more captions come, and how many, so that the words for what is seen
# are bound to the patches before the decisions are.
_NAMING, _CAPTIONS = 0.3, 0.45
_TOWER_SHARE = 0.1
_FREE = ("steps",)  # may change between the parts of one run


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    Attributes:
        tower_steps: Steps of the tower alone.
        steps: Steps in all.
        tower_batch: Pictures per step of the tower alone.
        batch: Pictures per step of everything.
        questions: Questions about each of these.
        tower_rate: Highest learning rate of the tower alone.
        rate: Highest learning rate of everything.
        seed: Seed of weights and lessons.
    """

    tower_steps: int = 900
    steps: int = 2900
    tower_batch: int = 48
    batch: int = 20
    questions: int = 3
    tower_rate: float = 1.5e-3
    rate: float = 1.5e-3
    seed: int = 0

    def share(self, step: int) -> float:
        """Return how much of its part is done, from 0 to 1."""
        if step < self.tower_steps:
            return step / self.tower_steps
        return (step - self.tower_steps) / (self.steps - self.tower_steps)

    def rates(self, step: int) -> tuple[float, float]:
        """Return the learning rates of the tower and of the rest: up, level, and down again."""
        share = self.share(step)
        if step < self.tower_steps:
            rate = self.tower_rate * min(1, (step + 1) / 50, 0.1 + 2 * (1 - share))
            return rate, rate
        warm = (step - self.tower_steps + 1) / 150
        rate = self.rate * min(1, warm, (1 - share) / 0.7 + 0.005)
        return _TOWER_SHARE * rate, rate


class Course(nn.Module):
    """The model, and what its lessons ask of it."""

    def __init__(self, model: LlavaForConditionalGeneration, words: Sequence[int]) -> None:
        """Remember the model, and the tokens of things and colours."""
        super().__init__()
        self.model, self._words = model, list(words)
        self._pieces: Tensor
        model.model.multi_modal_projector.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._pieces = output.flatten(0, -2)

    def tower_loss(self, batch: Batch) -> Tensor:
        """As `patch_loss`, of the tower and the projector alone."""
        states = self.model.model.vision_tower(batch.pixels).last_hidden_state[:, 1:]
        self.model.model.multi_modal_projector(states)
        return self.patch_loss(batch)

    def patch_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of thing and colour at every piece, told by the embeddings of their words.

        So what the decoder gets of a picture stands near the words for it. Ground is where no
        thing's word is near, and counts little.
        """
        table: Tensor = self.model.lm_head.weight  # tied: the embeddings of the words
        words = table[self._words]
        things, colours = (self._pieces @ words.T).tensor_split([len(THINGS)], dim=-1)
        things = F.pad(things, (0, 1))
        weight = torch.ones(len(THINGS) + 1)
        weight[-1] = 0.1
        wanted = batch.patches.flatten(0, 1)
        return F.cross_entropy(things, wanted[:, 0], weight) + F.cross_entropy(
            colours, wanted[:, 1], ignore_index=IGNORED
        )

    def losses(self, batch: Batch, openers: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return how far the opening is from its soft target, and two cross-entropies.

        They are of what follows the opening, and of `patch_loss`.
        """
        body = self.model.model(
            input_ids=batch.ids,
            pixel_values=batch.pixels,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        )
        states = body.last_hidden_state
        opening = self.model.lm_head(states[batch.first[0], batch.first[1]]).float()
        opening = opening.log_softmax(-1)
        seen, believed = (opening[:, token] for token in openers)
        odds = batch.odds
        uncertain = -torch.special.entr(odds) - torch.special.entr(1 - odds)
        short = (uncertain - odds * believed - (1 - odds) * seen).mean()
        logits = self.model.lm_head(states[batch.columns[0], batch.columns[1]]).float()
        return short, F.cross_entropy(logits, batch.targets), self.patch_loss(batch)


def train(
    recipe: Recipe, folder: Path, start_from: Path | None = None, *, save_every: float = 120.0
) -> float:
    """Train, or go on with training, and write model and processor to ``folder``.

    Args:
        recipe: The settings; a checkpoint is continued if all but the number of steps agree.
        folder: Where model, processor and checkpoint go.
        start_from: A folder with a model to train further, in place of a new one.
        save_every: Seconds between checkpoints.

    Returns:
        Seconds spent so far, in all parts of the run.

    Raises:
        InvalidInputError: The folder holds a checkpoint of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = known_folder(folder, start_from)
    if known is None:
        tokenizer = new_tokenizer()
        model = new_model(tokenizer, recipe.seed)
    else:  # of whatever size that one is
        tokenizer = PreTrainedTokenizerFast.from_pretrained(known)
        model = LlavaForConditionalGeneration.from_pretrained(known, dtype=torch.float32).train()
    new_processor(tokenizer).save_pretrained(folder / "model")
    lessons = Lessons(tokenizer, recipe.seed)
    course = Course(model, lessons.words)
    tower = [*course.model.model.vision_tower.parameters()]
    of_tower = {id(weights) for weights in tower}
    rest = [weights for weights in course.parameters() if id(weights) not in of_tower]
    groups = [{"params": tower}, {"params": rest}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def losses(step: int) -> list[tuple[float, Tensor]]:
        if step < recipe.tower_steps:
            batch = lessons.batch(step, recipe.tower_batch, 1, 0.0)
            return [(1.0, course.tower_loss(batch))]
        captions = _CAPTIONS if recipe.share(step) < _NAMING else 0.0
        batch = lessons.batch(step, recipe.batch, recipe.questions, captions)
        weights = _OPENING_WEIGHT, 2.0, _PATCH_WEIGHT
        return [*zip(weights, course.losses(batch, lessons.openers), strict=True)]

    return fit(
        course,
        optimiser,
        vars(recipe),
        folder,
        losses=losses,
        rates=recipe.rates,
        save=lambda: save(course.model, folder / "model"),
        free=_FREE,
        save_every=save_every,
    )


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the model in bf16 safetensors."""
    copy = LlavaForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vision-demo-model"))
    for name, value in vars(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--start-from", type=Path, help="a folder with a model to train further")
    options = vars(parser.parse_args())
    folder, start_from = options.pop("out"), options.pop("start_from")
    print(f"{train(Recipe(**options), folder, start_from) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
