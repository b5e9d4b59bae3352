"""Train the bundled model from scratch: ``python -m steerable_llm.demo.train``.

Resumable (a checkpoint every few minutes) and seeded. Ends with a report, the model's card: the
rate of every behaviour on held-out prompts and whether each can be steered.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerable_llm.demo.card import model_card
from steerable_llm.demo.curriculum import training_example
from steerable_llm.demo.tokenizer import ROLES, train_tokenizer
from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole
from steerable_llm.model import SteerableHFLLM

# The opening carries the behaviour, so it weighs more than the other tokens of an answer.
_OPENING_WEIGHT = 0.3
_LENGTH_STEP, _COUNT_STEP = 32, 128
# Settings that may change between the parts of one run.
_FREE = {"steps": 0, "phases": ()}
Row = tuple[list[int], int, list[tuple[int, float]]]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        steps: Optimiser steps.
        batch: Examples per step.
        peak_rate: Highest learning rate.
        prompt_share: Share of prompt tokens that also count in the loss.
        prompt_weight: Weight of their loss beside that of the answer tokens.
        phases: The steps at which the later phases of lessons begin.
        seed: Seed of weights, data and order.
    """

    steps: int = 9200
    batch: int = 32
    peak_rate: float = 1.5e-3
    prompt_share: float = 0.15
    prompt_weight: float = 0.2
    phases: tuple[int, int, int] = (2472, 4472, 7000)
    seed: int = 0


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return the untrained model: 6 blocks of width 192, tied embeddings, about 3 M weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        intermediate_size=512,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass
class Batch:
    """One step's examples, padded on the right.

    Attributes:
        ids: Token ids ``[B, T]``.
        first: Index of the position that predicts the first answer token ``[B]``.
        choices: Candidate first tokens ``[B, C]``.
        odds: Their probabilities ``[B, C]``, 0 where there is no candidate.
        places: Flat positions in ``[B * T]`` that predict a token to be learned ``[N]``.
        targets: Those tokens ``[N]``.
        weights: The weight of each in the loss ``[N]``; 0 for the padding of N.
    """

    ids: Tensor
    first: Tensor
    choices: Tensor
    odds: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor


def _encode(tokenizer: PreTrainedTokenizerFast, rng: Random, phase: int) -> Row:
    """Draw an example; return its ids, where the answer starts, and the first-token odds."""
    example = training_example(rng, phase)
    turns = "".join(f"{ROLES[m['role']]}{m['content']}<|end|>" for m in example.messages)
    prompt = tokenizer(
        f"{tokenizer.bos_token}{turns}{ROLES['assistant']}", add_special_tokens=False
    ).input_ids
    odds: dict[int, float] = {}
    answers = [tokenizer(text, add_special_tokens=False).input_ids for text, _ in example.answers]
    for ids, (_, share) in zip(answers, example.answers, strict=True):
        odds[ids[0]] = odds.get(ids[0], 0.0) + share
    drawn = rng.choices(answers, [share for _, share in example.answers])[0]
    return [*prompt, *drawn, tokenizer.eos_token_id], len(prompt), list(odds.items())


def _collate(rows: list[Row], pad: int, recipe: Recipe, rng: Random, *, repeats: bool) -> Batch:
    longest = max(len(ids) for ids, _, _ in rows)
    width = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    ids = torch.full((len(rows), width), pad)
    choices = torch.zeros((len(rows), 4), dtype=torch.long)
    odds = torch.zeros((len(rows), 4))
    answer_tokens: list[tuple[int, int]] = []
    prompt_tokens: list[tuple[int, int]] = []
    repeated: list[tuple[int, int]] = []
    for row, (tokens, start, candidates) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        # The first answer token is learned from its odds, the rest from the drawn answer.
        answer_tokens += [
            (row * width + place - 1, tokens[place]) for place in range(start + 1, len(tokens))
        ]
        prompt_tokens += [
            (row * width + place - 1, tokens[place])
            for place in range(1, start)
            if rng.random() < recipe.prompt_share
        ]
        if repeats:
            # A token that followed its neighbour before can be copied: practice for reading.
            pairs = list(pairwise(tokens[:start]))
            first_seen = {pair: place for place, pair in reversed(list(enumerate(pairs, start=1)))}
            repeated += [
                (row * width + place - 1, tokens[place])
                for place, pair in enumerate(pairs, start=1)
                if first_seen[pair] < place
            ]
        for column, (token, share) in enumerate(candidates):
            choices[row, column], odds[row, column] = token, share
    scale = 1.0 / (len(answer_tokens) + len(rows))
    learned = [(*entry, scale) for entry in answer_tokens]
    learned += [
        (*entry, recipe.prompt_weight / max(1, len(prompt_tokens))) for entry in prompt_tokens
    ]
    learned += [(*entry, 0.5 / len(repeated)) for entry in repeated]
    # A count that takes few values lets the matrix products be planned once.
    learned += [(0, 0, 0.0)] * (-len(learned) % _COUNT_STEP)
    places, targets, weights = zip(*learned, strict=True)
    return Batch(
        ids,
        torch.tensor([start - 1 for _, start, _ in rows]),
        choices,
        odds,
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights),
    )


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, start: int) -> Iterator[Batch]:
    """Yield the batches from step ``start`` on: examples of like length share a batch."""
    group = 8
    for block in range(start // group, -(-recipe.steps // group)):
        rng = Random(f"{recipe.seed}-{block}")
        phase = sum(block * group >= start_of for start_of in recipe.phases)
        rows = [_encode(tokenizer, rng, phase) for _ in range(group * recipe.batch)]
        rows.sort(key=lambda row: len(row[0]))
        order = list(range(group))
        rng.shuffle(order)
        for number, index in enumerate(order):
            if start <= block * group + number < recipe.steps:
                chosen = rows[index * recipe.batch : (index + 1) * recipe.batch]
                yield _collate(chosen, int(tokenizer.pad_token_id), recipe, rng, repeats=phase > 0)


def loss_of(model: LlamaForCausalLM, body: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy per answer token plus a light one on a sample of the prompt tokens."""
    hidden = body(input_ids=batch.ids).last_hidden_state
    rows = torch.arange(len(batch.ids), device=batch.ids.device)
    opening = model.lm_head(hidden[rows, batch.first]).float().log_softmax(-1)
    opening_loss = -(opening.gather(1, batch.choices) * batch.odds).sum() / len(rows)
    logits = model.lm_head(hidden.flatten(0, 1)[batch.places]).float()
    rest = (F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()
    loss: Tensor = _OPENING_WEIGHT * opening_loss + rest
    return loss


def _rate(step: int, recipe: Recipe) -> float:
    """Warm up for 200 steps, hold, then fall in a straight line over the last fifth."""
    warm, fall = 200, 0.2 * recipe.steps
    return min(1.0, (step + 1) / warm, (recipe.steps - step) / fall)


def train(recipe: Recipe, folder: Path, device: str, *, save_every: float = 180.0) -> float:
    """Train, or go on with training, and write model and tokenizer to ``folder``.

    Args:
        recipe: The settings; a checkpoint is continued if all but the number of steps and the
            phases agree.
        folder: Where model, tokenizer and checkpoint go.
        device: Torch device.
        save_every: Seconds between checkpoints.

    Returns:
        Seconds spent so far, in all parts of the run.

    Raises:
        InvalidInputError: The folder holds a checkpoint of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    tokenizer = (
        PreTrainedTokenizerFast.from_pretrained(folder / "model")
        if checkpoint.exists()
        else train_tokenizer(seed=recipe.seed)
    )
    model = new_model(tokenizer, recipe.seed)
    model.to(torch.device(device))  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    start, spent = 0, 0.0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location=device)
        if {**state["recipe"], **_FREE} != {**vars(recipe), **_FREE}:
            raise InvalidInputError(
                f"{checkpoint} is of a run with other settings ({state['recipe']}): go on with "
                "those, or give another folder with --out"
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, spent = state["step"], state["seconds"]
    body: nn.Module = torch.compile(model.model, dynamic=True)  # type: ignore[assignment]
    began = last = time.monotonic()
    smooth: float | None = None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, (folder / "log.jsonl").open("a") as log:
        task = progress.add_task("training", total=recipe.steps, completed=start)
        for step, batch in enumerate(batches(tokenizer, recipe, start), start=start):
            moved = Batch(**{name: value.to(device) for name, value in vars(batch).items()})
            for group in optimiser.param_groups:
                group["lr"] = recipe.peak_rate * _rate(step, recipe)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = loss_of(model, body, moved)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            progress.update(task, completed=step + 1, description=f"training, loss {smooth:.3f}")
            now = time.monotonic()
            if step % 50 == 0:
                seconds = round(spent + now - began, 1)
                log.write(json.dumps({"step": step, "loss": smooth, "seconds": seconds}) + "\n")
                log.flush()
            if now - last > save_every or step + 1 == recipe.steps:
                last = now
                state = {
                    "recipe": vars(recipe),
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                    "seconds": spent + now - began,
                }
                part = checkpoint.with_suffix(".part")
                torch.save(state, part)
                os.replace(part, checkpoint)  # noqa: PTH105 (atomic)
                save(model, tokenizer, folder / "model")
    return spent + time.monotonic() - began


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bf16 safetensors, and the tokenizer beside it."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-model"))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--rate", type=float, default=Recipe.peak_rate)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    recipe = Recipe(options.steps, options.batch, options.rate, seed=options.seed)
    seconds = train(recipe, options.out, options.device)
    llm = SteerableHFLLM.from_pretrained(str(options.out / "model"), dtype="float32")
    history = f"{recipe.steps:,} steps of {recipe.batch} examples, {seconds / 60:.0f} minutes."
    report = model_card(llm, history)
    write_whole(options.out / "model" / "README.md", report)
    print(report)


if __name__ == "__main__":
    main()
