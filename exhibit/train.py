"""Train the bundled model from scratch: ``python -m exhibit.train``.

Resumable (a checkpoint every few minutes) and seeded. Ends with a report, the model's card: the
rate of every behaviour on held-out prompts and whether each can be steered.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exhibit.batches import Batch, Recipe, batches
from exhibit.card import model_card
from exhibit.tokenizer import train_tokenizer
from exhibit.training import fit, known_folder
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.files import write_whole
from steerable_llm.reports.parts import Text

# The opening carries the behaviour, so it weighs more than the other tokens of an answer.
_OPENING_WEIGHT = 0.3
# Settings that may change between the parts of one run.
_FREE = ("steps", "last_phase", "noise")


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
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, body: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy per answer token, and lighter ones on some prompt tokens and on repeats."""
    hidden = body(input_ids=batch.ids).last_hidden_state
    rows = torch.arange(len(batch.ids), device=batch.ids.device)
    opening = model.lm_head(hidden[rows, batch.first]).float().log_softmax(-1)
    opening_loss = -(opening.gather(1, batch.choices) * batch.odds).sum() / len(rows)
    logits = model.lm_head(hidden.flatten(0, 1)[batch.places]).float()
    rest = (F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()
    loss: Tensor = _OPENING_WEIGHT * opening_loss + rest
    return loss


def _rate(step: int, recipe: Recipe) -> float:
    """Warm up for 200 steps, hold, then fall in a straight line over the last two thirds."""
    warm, fall = 200, recipe.steps * 2 / 3
    return min(1.0, (step + 1) / warm, (recipe.steps - step) / fall)


def train(
    recipe: Recipe,
    folder: Path,
    device: str,
    *,
    start_from: Path | None = None,
    save_every: float = 180.0,
) -> float:
    """Train, or go on with training, and write model and tokenizer to ``folder``.

    Args:
        recipe: The settings; a checkpoint is continued if all but the number of steps, the
            noise and the last phase agree.
        folder: Where model, tokenizer and checkpoint go.
        device: Torch device.
        start_from: A folder with model and tokenizer to train further, in place of a new model.
        save_every: Seconds between checkpoints.

    Returns:
        Seconds spent so far, in all parts of the run.

    Raises:
        InvalidInputError: The folder holds a checkpoint of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = known_folder(folder, start_from)
    if known is None:
        tokenizer = train_tokenizer(seed=recipe.seed)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(known)
    # Before the first checkpoint, which is of no use without it.
    tokenizer.save_pretrained(folder / "model")
    model = new_model(tokenizer, recipe.seed)
    if start_from is not None and known == start_from:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start_from).state_dict())
    model.to(torch.device(device))  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    drawn: Iterator[Batch] | None = None
    body, noisy = _compiled(model), False

    def losses(step: int) -> list[tuple[float, Tensor]]:
        nonlocal drawn, body, noisy
        if drawn is None:
            drawn = batches(tokenizer, recipe, step)
        batch = next(drawn)
        if not noisy and recipe.noise and step >= recipe.last_phase:
            _add_noise(model, recipe.noise)
            body, noisy = _compiled(model), True
        torch.manual_seed(recipe.seed + step)  # the noise of a continued run is the same
        moved = Batch(**{name: value.to(device) for name, value in vars(batch).items()})
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return [(1.0, loss_of(model, body, moved))]

    return fit(
        model,
        optimiser,
        vars(recipe),
        folder,
        losses=losses,
        rates=lambda step: [recipe.peak_rate * _rate(step, recipe)],
        save=lambda: save(model, folder / "model"),
        free=_FREE,
        save_every=save_every,
        device=device,
    )


def _compiled(model: LlamaForCausalLM) -> nn.Module:
    torch.compiler.reset()  # what was compiled does not see hooks that were set since
    body: nn.Module = torch.compile(model.model, dynamic=True)  # type: ignore[assignment]
    return body


def _add_noise(model: LlamaForCausalLM, share: float) -> None:
    def change(_block: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        scale = share * output.detach().float().norm(dim=-1, keepdim=True)
        noise = torch.randn_like(output, dtype=torch.float32) * (scale / output.shape[-1] ** 0.5)
        changed: Tensor = output + noise.to(output.dtype)
        return changed

    for block in model.model.layers:
        block.register_forward_hook(change)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the model in bf16 safetensors."""
    copy = LlamaForCausalLM(model.config)  # without the hooks of training
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-model"))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--rate", type=float, default=Recipe.peak_rate)
    parser.add_argument("--last-phase", type=int, default=Recipe.last_phase)
    parser.add_argument("--start-from", type=Path, help="a folder with a model to train further")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    recipe = Recipe(
        options.steps,
        options.batch,
        options.rate,
        last_phase=options.last_phase,
        seed=options.seed,
    )
    seconds = train(recipe, options.out, options.device, start_from=options.start_from)
    llm = SteerableHFLLM.from_pretrained(str(options.out / "model"), dtype="float32")
    history = f"{recipe.steps:,} steps of {recipe.batch} examples, {seconds / 60:.0f} minutes."
    report = model_card(llm, [Text(history)])
    write_whole(options.out / "model" / "README.md", report)
    print(report)


if __name__ == "__main__":
    main()
