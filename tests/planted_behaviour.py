"""A tiny Llama whose behaviour is written into its weights, so that tests know what must come out.

It answers every prompt with one word, "good" or "bad", and ends its turn. Which word depends on
the sign of a margin that one attention layer computes from the prompt, so it varies smoothly over
prompts. One direction of the residual stream, `PLANTED`, decides between the two.
"""

from __future__ import annotations

import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.vector import SteeringVector

WIDTH, LAYERS = 32, 2
# Coordinates of the residual stream with a meaning; the others tell the prompt's words apart.
GOOD, BAD, END = 0, 1, 2
PLANTED = torch.zeros(WIDTH).index_fill(0, torch.tensor([GOOD]), 1.0)
PLANTED[BAD] = -1.0


def two_words(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Two words that are one token each."""
    words = sorted(token for token in tokenizer.get_vocab() if token.isascii() and token.isalpha())
    long = [word for word in words if len(word) >= 3]
    return long[0], long[-1]


def planted_llm(tokenizer: PreTrainedTokenizerFast) -> SteerableHFLLM:
    """The model described above."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=16,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    source = torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    good, bad = (tokenizer.convert_tokens_to_ids(word) for word in two_words(tokenizer))
    opening = tokenizer.convert_tokens_to_ids("<|assistant|>")
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        embeddings.copy_(torch.randn(embeddings.shape, generator=source))
        embeddings[:, :3] = 0.0
        embeddings[opening, [GOOD, BAD]] = 2.0
        embeddings[[good, bad], END] = 12.0
        for block in model.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
        attention = model.model.layers[0].self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()  # every word counts the same
        reader = torch.randn(WIDTH, generator=source)
        reader[:3] = 0.0
        # The template's own words weigh on every prompt alike; they are taken out of the margin.
        for token in tokenizer.all_special_ids:
            other = embeddings[token].clone()
            other[:3] = 0.0
            reader -= (reader @ other) / (other @ other) * other
        attention.v_proj.weight.copy_(reader.expand(WIDTH, WIDTH))
        attention.o_proj.weight[GOOD] = 0.4 / WIDTH
        attention.o_proj.weight[BAD] = -0.4 / WIDTH
        model.lm_head.weight.zero_()
        for token, place in ((good, GOOD), (bad, BAD), (tokenizer.eos_token_id, END)):
            model.lm_head.weight[token, place] = 20.0
    return SteerableHFLLM(model, tokenizer, model_id="planted")


def planted_vector(llm: SteerableHFLLM, name: str = "planted") -> SteeringVector:
    """The direction that decides, in every layer."""
    return SteeringVector(
        name=name,
        directions={layer: PLANTED.clone() for layer in range(LAYERS)},
        scales=dict.fromkeys(range(LAYERS), 12.0),
        fingerprint=llm.fingerprint,
        provenance=Provenance(method="planted", facts={"layers": [0, 1]}),
    )


def questions(
    llm: SteerableHFLLM, number: int, category: str = "conflict", seed: int = 0, want: str = "good"
) -> EvaluationSet:
    """Prompts of random words; unsteered, a bit under half of them get the wanted word.

    Args:
        llm: The planted model.
        number: How many.
        category: Of the items.
        seed: Of the words.
        want: "good", "bad" or "either": which of the two words is right.
    """
    source = random.Random(f"{category} {seed}")
    good, bad = two_words(llm.tokenizer)
    verdicts = {"good": ([good], [bad]), "bad": ([bad], [good]), "either": ([good, bad], [])}
    accept, reject = verdicts[want]
    items = []
    for place in range(number):
        words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(6)]
        items.append(
            EvaluationItem(
                id=f"{category}-{seed}-{place}",
                category=category,
                messages=" ".join(words),
                good=bad if want == "bad" else good,
                bad=good if want == "bad" else bad,
                accept=accept,
                reject=reject,
            )
        )
    return EvaluationSet(f"{category}-{seed}", items)
