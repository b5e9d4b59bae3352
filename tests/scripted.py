"""A real hooked model that says what a test wants it to say.

A tiny random Llama with a real byte-level tokenizer and a real chat template for tools. Only its
last scores are pushed towards a script; tokens, masks, steering hooks, caches, stop texts, sampling
and grammars are those of every other model. What a grammar forbids is not said, script or no.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerable_llm.answer.llm import SteerableHFLLM

Script = Callable[[str], str]
"""From the rendered prompt to the answer, end of turn left out."""

SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
HERMES_MARKS = ["<tool_call>", "</tool_call>"]  # in the vocabulary, but not special, as Qwen has it
MISTRAL_MARKS = ["[TOOL_CALLS]", "[ARGS]"]
LLAMA_MARKS = ["<|python_tag|>"]

_TURNS = """<|bos|>
{%- if tools %}<|system|>Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %} %HOW%<|end|>
{%- endif %}{% for message in messages %}<|{{ message.role }}|>
{%- if message.name is defined and message.role != "tool" %}({{ message.name }}) {% endif %}
{{- message.content }}{% for call in message.tool_calls or [] %}%CALL%{% endfor %}<|end|>
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
_NAME_AND = '{"name": "{{ call.function.name }}", "%s": {{ call.function.arguments | tojson }}}'
TEMPLATES = {
    "none": _TURNS.partition("{%- if tools")[0]
    + _TURNS.partition("{%- endif %}")[2].replace("%CALL%", ""),
    "hermes": _TURNS.replace("%HOW%", "Answer with <tool_call>{...}</tool_call>.").replace(
        "%CALL%", "<tool_call>\n" + _NAME_AND % "arguments" + "\n</tool_call>"
    ),
    "llama3": _TURNS.replace("%HOW%", "Or <|python_tag|>.").replace(
        "%CALL%", _NAME_AND % "parameters"
    ),
    "mistral": _TURNS.replace("%HOW%", "").replace(
        "%CALL%", "[TOOL_CALLS][" + _NAME_AND % "arguments" + "]"
    ),
    "mistral-args": _TURNS.replace("%HOW%", "").replace(
        "%CALL%", "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}"
    ),
}
_CORPUS = [
    '{"name": "multiply", "arguments": {"a": 3, "b": 4}} {"type": "object", "properties": {',
    '"description": "required": "title": "string", "integer", "parameters": "function": {',
    "The answer is twelve. The shop in Lyon opens at nine. Use this tool to get the result.",
]


@cache
def scripted_tokenizer(family: str) -> PreTrainedTokenizerFast:
    marks = {"mistral": MISTRAL_MARKS, "mistral-args": MISTRAL_MARKS, "llama3": LLAMA_MARKS}
    special = [*SPECIAL, *marks.get(family, [])]
    added = HERMES_MARKS if family == "hermes" else []
    return byte_level(TEMPLATES[family], special, added)


def byte_level(
    template: str,
    special: list[str],
    added: list[str],
    begin: str = "<|bos|>",
    end: str = "<|end|>",
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template and its tokens.

    Args:
        template: the chat template.
        special: its special tokens, one for padding among them: the first.
        added: tokens of its own that are not special.
        begin: the special token that begins a text.
        end: the one that ends a turn.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _CORPUS * 3,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=begin,
        eos_token=end,
        pad_token=special[0],
        additional_special_tokens=[mark for mark in special[1:] if mark not in (begin, end)],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in added])
    tokenizer.chat_template = template
    return tokenizer


class Control:
    """What a test may do to the running model, and what it may count."""

    def __init__(self) -> None:
        self.forwards: list[int] = []  # the rows of each forward pass
        self.said: dict[tuple[int, ...], str] = {}  # what the script says to each prompt
        self.gate: threading.Semaphore | None = None  # each pass waits for a permit

    def enter(self, rows: int) -> None:
        if self.gate is not None:
            assert self.gate.acquire(timeout=30), "the test gave no permit"
        self.forwards.append(rows)


class ScriptedLlama(LlamaForCausalLM):
    """Llama, its last scores pushed towards what the script says next."""

    script: Script
    control: Control
    tokenizer: PreTrainedTokenizerFast
    # The decoding loop asks for the inputs of each pass right before it, in the same thread.
    _asked = threading.local()

    @wraps(LlamaForCausalLM.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        self._asked.whole = input_ids
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        # Where the answers begin is told once, and goes along with the cache.
        if kwargs.get("is_first_iteration"):
            inputs["past_key_values"] = DynamicCache(config=self.config)
            inputs["past_key_values"].start = input_ids.shape[1]
        return inputs

    # The decoding loop reads the signature to know what it may pass.
    @wraps(LlamaForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        start = getattr(kwargs.get("past_key_values"), "start", None)
        if start is not None:
            whole = self._asked.whole
            self.control.enter(len(whole))
            for row, ids in enumerate(whole.tolist()):
                output.logits[row, -1, self._next(ids, start)] += 1000.0
        return output

    def _next(self, ids: list[int], start: int) -> int:
        """The token that goes on with the script; the end of turn where there is no way on."""
        padding = self.tokenizer.pad_token_id  # looked up by name each time, which is slow
        asked = tuple(token for token in ids[:start] if token != padding)
        if asked not in self.control.said:
            self.control.said[asked] = self.script(self.tokenizer.decode(asked))
        said = self.control.said[asked]
        written = self.tokenizer.decode(ids[start:])
        if said.startswith(written) and len(said) > len(written):
            rest = self.tokenizer(said[len(written) :], add_special_tokens=False).input_ids
            return int(rest[0])
        whole = self.tokenizer(said, add_special_tokens=False).input_ids
        if whole[: len(ids) - start] == ids[start:] and len(whole) > len(ids) - start:
            return int(whole[len(ids) - start])  # in the middle of a character
        return int(self.tokenizer.eos_token_id)


def by_ending(answers: Mapping[str, str], otherwise: str = "I do not know.") -> Script:
    """A script that looks for known words in the last message before the answer."""

    def say(prompt: str) -> str:
        last = prompt.removesuffix("<|assistant|>").removesuffix("<|end|>").rpartition("<|end|>")[2]
        return next((said for words, said in answers.items() if words in last), otherwise)

    return say


def calling(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as Hermes models write it."""
    made = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{made}\n</tool_call>"


def scripted_llm(
    script: Script | Mapping[str, str], family: str = "hermes", **options: Any
) -> SteerableHFLLM:
    """A hooked model that follows a script.

    Its counts and its brake are `llm.model.control`.

    Args:
        script: from prompt to answer, or answers by words of the last message.
        family: hermes, llama3, mistral, mistral-args, or none for a template without tools.
        **options: for SteerableHFLLM.
    """
    return scripted_around(scripted_tokenizer(family), script, **options)


def scripted_around(
    tokenizer: PreTrainedTokenizerFast, script: Script | Mapping[str, str], **options: Any
) -> SteerableHFLLM:
    """A hooked model that follows a script, with a tokenizer of the test's own."""
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=8192,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ScriptedLlama(config)
    model.script = by_ending(script) if isinstance(script, Mapping) else script
    model.control, model.tokenizer = Control(), tokenizer
    return SteerableHFLLM(model.eval(), tokenizer, **{"model_id": "scripted", **options})
