"""The loop that both exhibits are trained by: seeded, logged, and resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from exhibit.checkpoint import Checkpoint
from steerable_llm.errors import InvalidInputError

CHECKPOINT = "checkpoint.safetensors"
_LOG_EVERY = 20  # steps


def known_folder(folder: Path, start_from: Path | None) -> Path | None:
    """Return where the tokenizer of a run lies: with its checkpoint, or with what it starts from.

    A new one, made when lessons have changed since, would have other tokens for the same words.
    """
    return folder / "model" if (folder / CHECKPOINT).exists() else start_from


def fit(
    model: nn.Module,
    optimiser: Optimizer,
    recipe: Mapping[str, Any],
    folder: Path,
    *,
    losses: Callable[[int], Sequence[tuple[float, Tensor]]],
    rates: Callable[[int], Sequence[float]],
    save: Callable[[], None],
    free: Collection[str],
    save_every: float = 180.0,
    device: str = "cpu",
) -> float:
    """Train, or go on with training.

    Args:
        model: What is trained.
        optimiser: Of its weights.
        recipe: The settings of the run, `steps` among them.
        folder: Where checkpoint and log go.
        losses: From a step to what is made small there: weights and losses.
        rates: From a step to the learning rate of each of the optimiser's groups.
        save: Write the model; before every checkpoint, so that a finished run has both.
        free: Settings that may change between the parts of one run.
        save_every: Seconds between checkpoints.
        device: Torch device.

    Returns:
        Seconds spent so far, in all parts of the run.

    Raises:
        InvalidInputError: The folder holds a checkpoint of other settings.
    """
    start, spent = 0, 0.0
    checkpoint, steps = folder / CHECKPOINT, int(recipe["steps"])
    if checkpoint.exists():
        state = Checkpoint.load(checkpoint, device)
        if {**state.recipe, **dict.fromkeys(free)} != {**recipe, **dict.fromkeys(free)}:
            raise InvalidInputError(
                f"{checkpoint} is of a run with other settings ({state.recipe}): go on with "
                "those, or give another folder with --out"
            )
        state.restore(model, optimiser)
        start, spent = state.step, state.seconds
    began = last = time.monotonic()
    smooth: float | None = None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, (folder / "log.jsonl").open("a") as log:
        task = progress.add_task("training", total=steps, completed=start)
        for step in range(start, steps):
            for group, rate in zip(optimiser.param_groups, rates(step), strict=True):
                group["lr"] = rate
            parts = losses(step)
            loss = sum((weight * part for weight, part in parts[1:]), parts[0][0] * parts[0][1])
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            progress.update(task, completed=step + 1, description=f"training, loss {smooth:.3f}")
            now = time.monotonic()
            if step % _LOG_EVERY == 0:
                told = [round(part.item(), 4) for _, part in parts]
                seconds = round(spent + now - began, 1)
                log.write(json.dumps({"step": step, "loss": told, "seconds": seconds}) + "\n")
                log.flush()
            if now - last > save_every or step + 1 == steps:
                last = now
                seconds = spent + now - began
                save()
                state = Checkpoint.of(model, optimiser, dict(recipe), step + 1, seconds)
                state.save(checkpoint)
    return spent + time.monotonic() - began
