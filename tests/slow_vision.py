"""Pairs with images, and what a model says and thinks of them the slow way; for oracles.

Inputs are those of transformers' own processor, and every answer is one plain pass of the whole
model. Where embeddings are altered, they are exchanged on their way into the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steerable_llm.pairs.pair import Pairs, PreferencePair


def picture(seed: int = 0) -> Image.Image:
    noise = torch.rand((50, 40, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((noise * 255).to(torch.uint8).numpy())


def pair(seed: int, good: str, bad: str, text: str = "What is on it?") -> PreferencePair:
    parts = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": text}]
    return PreferencePair([{"role": "user", "content": parts}], good, bad, id=f"p{seed}")


CONTEXT = "Context:\nThe shop is in Lyon.\n\nQuestion: Where is it?"
PAIRS = Pairs(
    [
        pair(0, "A shop.", "A cat."),
        pair(1, "A small cat.", "A ship, I recall.", CONTEXT),
        pair(2, "It is Rome.", "It is a big dog."),
        PreferencePair("Where is the shop?", "In Lyon.", "As I recall, in Nice.", id="p3"),
    ]
)


def slow_inputs(llm: Any, messages: Any, answer: list[int] = []) -> dict[str, Tensor]:  # noqa: B006
    """What transformers makes of a prompt, with an answer behind it."""
    processor = llm.chat_format.vision.processor
    content = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"}
                for p in message.parts
            ],
        }
        for message in messages
    ]
    images = [image.source for message in messages for image in message.images] or None
    text = processor.apply_chat_template(content, add_generation_prompt=True)
    inputs = dict(
        processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    )
    tail = torch.tensor([answer], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for kinds in ("token_type_ids", "mm_token_type_ids"):
        if kinds in inputs:
            inputs[kinds] = torch.nn.functional.pad(inputs[kinds], (0, len(answer)))
    return inputs


def slow_pass(
    llm: Any, inputs: dict[str, Tensor], row: Tensor | None = None, site: str = "block"
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Logits `[T, V]`, a site of every block `[T, ...]`, and the rows `[T, d]` of the decoder."""
    kept: dict[int, Tensor] = {}
    rows: list[Tensor] = []
    decoder = llm.model.model.language_model
    handles = []

    def change(_: Any, args: Any, named: dict[str, Any]) -> Any:
        own = named["inputs_embeds"]
        rows.append(own[0].detach())
        if row is None:
            return None
        return args, {**named, "inputs_embeds": torch.cat([row, own[0, len(row) :]])[None]}

    handles.append(decoder.register_forward_pre_hook(change, with_kwargs=True))
    for number, block in enumerate(llm.blocks):
        if site == "heads":
            handles.append(
                block.self_attn.o_proj.register_forward_pre_hook(
                    lambda _m, given, n=number: kept.__setitem__(n, given[0][0])
                )
            )
        else:
            handles.append(
                block.register_forward_hook(
                    lambda _m, _i, out, n=number: kept.__setitem__(
                        n, (out[0] if isinstance(out, tuple) else out)[0]
                    )
                )
            )
    try:
        logits = llm.model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, [kept[n] for n in sorted(kept)], rows[0]


def slow_log_prob(llm: Any, messages: Any, answer: str, row: Tensor | None = None) -> Tensor:
    """Log P of an answer, one token after the other."""
    ids = llm.encode_answer(answer)
    inputs = slow_inputs(llm, messages, ids)
    logits, _, _ = slow_pass(llm, inputs, row)
    total = torch.zeros(())
    for place, token in enumerate(ids):
        total = total + logits[place - len(ids) - 1].log_softmax(-1)[token]
    return total
