"""What a call may ask for beside its messages, in the words of other makers' chat models."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_models import QUESTION, TOKENS
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel
from scripted import byte_level, scripted_around, scripted_llm
from test_alternation import MARKS, STRICT
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import MinPLogitsWarper

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.adapters.llama_index import SteerableLlamaIndexLLM
from steerable_llm.answer import sampling
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.answer.sampling import probabilities
from steerable_llm.errors import InvalidInputError

# Penalties and biases.


def shaped(scores: torch.Tensor, prompt: list[int], said: list[int], **asked: Any) -> torch.Tensor:
    request = GenerationRequest("?", **asked)
    return sampling.shaped(request, [*prompt, *said], scores)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    scores = torch.randn(30, generator=torch.Generator().manual_seed(1))
    prompt, said = [3, 4, 4, 9], [9, 20]
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([prompt + said]), scores.clone()[None]
    )[0]
    torch.testing.assert_close(shaped(scores, prompt, said, repetition_penalty=penalty), theirs)


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_min_p_is_that_of_transformers(share: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(2)) * 2
    theirs = MinPLogitsWarper(share)(torch.tensor([[0]]), logits.clone()[None])[0].softmax(-1)
    torch.testing.assert_close(probabilities(logits, 1.0, min_p=share), theirs)


def test_a_bias_changes_its_own_token_alone_and_not_what_it_was_given() -> None:
    scores = torch.randn(9)
    before = scores.clone()
    made = shaped(scores, [1], [], logit_bias={2: 5.0})
    assert (made - before).tolist() == pytest.approx([0, 0, 5, 0, 0, 0, 0, 0, 0], abs=1e-6)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("penalty", [0.5, 1.5])
def test_what_an_answer_has_said_itself_is_penalised_too(
    tiny_llm: SteerableHFLLM, penalty: float
) -> None:
    prompt, said = tiny_llm.encode(QUESTION), []
    for _ in range(8):
        ids = torch.tensor([[*prompt, *said]])
        with torch.no_grad():
            scores = tiny_llm.model(ids).logits[:, -1].float()
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
        said.append(int(theirs.argmax()))
    asked = tiny_llm.generate(QUESTION, max_new_tokens=8, repetition_penalty=penalty)
    assert list(asked.token_ids) == said


def test_likelihoods_are_those_before_penalties_and_biases(tiny_llm: SteerableHFLLM) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 1, "logprobs": True, "top_logprobs": 5}
    bare = tiny_llm.generate(QUESTION, **asked).logprobs[0]
    other = bare[2].token_id
    forced = tiny_llm.generate(QUESTION, logit_bias={other: 1e6}, **asked).logprobs[0]
    assert forced[0].token_id == other
    assert forced[0].logprob == pytest.approx(bare[2].logprob, abs=1e-5)
    assert forced[1:] == bare[1:]


@pytest.mark.parametrize("adapter", ["as_langchain", "as_llama_index"])
def test_a_bias_forbids_and_forces_a_token(tiny_llm: SteerableHFLLM, adapter: str) -> None:
    first = tiny_llm.generate(QUESTION, max_new_tokens=1).token_ids[0]
    model = getattr(tiny_llm, adapter)(max_tokens=1, logprobs=True)

    def chosen(**asked: Any) -> str:
        if adapter == "as_langchain":
            told = model.invoke(QUESTION, **asked).response_metadata["logprobs"]
            return str(told["content"][0]["token"])
        return str(model.complete(QUESTION, **asked).logprobs[0][0].token)

    word = tiny_llm.tokenizer.decode([first])
    assert chosen() == word
    assert chosen(logit_bias={first: -100}) != word
    # JSON has texts for keys.
    assert chosen(logit_bias={"7": 1000.0}) == tiny_llm.tokenizer.decode([7])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"logit_bias": {"the": 1.0}}, "logit_bias is"),
        ({"logit_bias": {10**6: 1.0}}, "names token 1000000"),
        ({"top_logprobs": 3}, "logprobs=True"),
        ({"logprobs": True, "top_logprobs": 21}, "from 0 to 20"),
        ({"n": 0}, "n is 0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
        ({"max_tokens": 0}, "^max_tokens is 0: give at least 1"),
        ({"steering": 5}, "'steering' is not a known call argument .* as_langchain"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format is 5"),
        ({"step": 5}, "step is 5"),
        ({"context": 5}, "context is of type int"),
        (
            {"context": ["At nine.", 1]},
            "context has a int in it: give True, False, or a list",
        ),
        ({"contrast": 0.5}, "contrast is 0.5"),
        ({"tools": 5}, "tools are 5"),
    ],
)
def test_values_that_cannot_be_used(
    tiny_llm: SteerableHFLLM, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        tiny_llm.as_langchain(max_tokens=3).invoke(QUESTION, **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"constraint": 5}, "constraint is 5"),
        ({"max_tokens": 0}, "^max_tokens is 0: give at least 1"),
        ({"steering": 5}, "'steering' is not a known call argument .* as_llama_index"),
        ({"tools": 5}, "tools is 5"),
        ({"tools": {"type": "function"}}, "give a list"),
        ({"contrast": "cad"}, "contrast is 'cad'"),
        ({"context": [{"text": "At nine."}]}, "context has a dict in it"),
    ],
)
def test_arguments_of_a_call_of_llama_index_that_are_none(
    tiny_llm: SteerableHFLLM, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        tiny_llm.as_llama_index(max_tokens=3).chat([ChatMessage(QUESTION)], **asked)


class Hours(BaseModel):
    opening: int


def test_what_nobody_can_answer_is_told_in_the_words_of_who_asks(
    tiny_llm: SteerableHFLLM,
) -> None:
    chat, llm = tiny_llm.as_langchain(max_tokens=3), tiny_llm.as_llama_index(max_tokens=3)
    tries: list[tuple[Any, str]] = [
        (lambda: chat.invoke([]), "the prompt has no messages"),
        (lambda: llm.chat([]), "the prompt has no messages"),
        (lambda: llm.chat([{"role": "user"}]), "message 0 is a dict: give a list of ChatMessages"),
        (lambda: llm.predict("Hi"), "the prompt is 'Hi': give a prompt template"),
        (lambda: llm.structured_predict(Hours, "Hi"), "the prompt is 'Hi'"),
        (lambda: llm.complete("", formatted=True), "the prompt is empty"),
        (lambda: chat.bind_tools(5), "give a list of them"),
        (lambda: llm.as_structured_llm(None), "give a pydantic class"),
        (lambda: llm.structured_predict(int, PromptTemplate("?")), "a pydantic model"),
        (lambda: chat.with_structured_output(5), "the schema cannot be read"),
    ]
    for attempt, said in tries:
        with pytest.raises(InvalidInputError, match=said) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert not re.search(r"\b(pair|vector|evaluation)", str(caught.value))


# Likelihoods.


async def test_likelihoods_are_the_models_own_on_every_path(tiny_llm: SteerableHFLLM) -> None:
    chat = tiny_llm.as_langchain(max_tokens=TOKENS, logprobs=True, top_logprobs=3)
    message = chat.invoke(QUESTION)
    told = message.response_metadata["logprobs"]["content"]
    answer = tiny_llm.generate(QUESTION, max_new_tokens=TOKENS)
    assert len(told) == len(answer.token_ids)
    # The slow way: one pass over prompt and answer.
    prompt = tiny_llm.encode(QUESTION)
    with torch.no_grad():
        logits = tiny_llm.model(torch.tensor([[*prompt, *answer.token_ids]])).logits[0].float()
    for place, (token, entry) in enumerate(zip(answer.token_ids, told, strict=True)):
        row = logits[len(prompt) + place - 1].log_softmax(-1)
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        assert entry["token"] == tiny_llm.tokenizer.decode([token])
        best = [each["logprob"] for each in entry["top_logprobs"]]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
    assert (await chat.ainvoke(QUESTION)).response_metadata["logprobs"]["content"] == told
    assert list(chat.stream(QUESTION))[-1].response_metadata["logprobs"]["content"] == told
    hot = chat.invoke(QUESTION, temperature=5.0, seed=1).response_metadata["logprobs"]["content"]
    assert hot[0]["top_logprobs"] == told[0]["top_logprobs"]
    assert "logprobs" not in chat.invoke(QUESTION, logprobs=False, top_logprobs=0).response_metadata


@pytest.mark.parametrize("fallback", [False, True])
def test_the_bytes_of_tokens_are_those_of_the_text_also_where_tokens_share_a_character(
    fallback: bool,
) -> None:
    said = "Grüße, 日本 👋!"
    llm = scripted_llm({"Hi": said})
    if fallback:
        llm = scripted_around(byte_fallback(llm.tokenizer.chat_template), {"Hi": said})
    answer = llm.generate("Hi", max_new_tokens=60, logprobs=True, top_logprobs=1)
    assert answer.text == said
    assert any("\ufffd" in token.text for token, _ in answer.logprobs)
    written = b"".join(token.utf8 for token, _ in answer.logprobs)
    assert written.decode().startswith(said)
    chat = llm.as_langchain(max_tokens=60, logprobs=True)
    told = chat.invoke("Hi").response_metadata["logprobs"]["content"]
    assert bytes(byte for entry in told for byte in entry["bytes"]) == written


def byte_fallback(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that has letters and spells all other characters byte by byte."""
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"]
    spelt = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {piece: place for place, piece in enumerate([*special, *spelt, *letters])}
    pieces = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token=None))
    pieces.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


def test_llama_index_has_them_in_its_own_form(tiny_llm: SteerableHFLLM) -> None:
    llm = tiny_llm.as_llama_index(max_tokens=3, logprobs=True, top_logprobs=2)
    told = llm.chat([ChatMessage(QUESTION)]).logprobs
    assert told is not None
    assert [len(place) for place in told] == [3, 3, 3]
    assert all(math.isfinite(one.logprob) and one.logprob <= 0 for one in told[0])
    assert llm.complete(QUESTION, logprobs=False, top_logprobs=0).logprobs is None


# Several answers.


async def test_several_answers_to_one_prompt(tiny_llm: SteerableHFLLM) -> None:
    chat = tiny_llm.as_langchain(max_tokens=TOKENS, temperature=3.0, seed=7)
    prompt = [[HumanMessage(QUESTION)]]
    [made] = chat.generate(prompt, n=3).generations
    alone = [chat.invoke(QUESTION, seed=7 + number).content for number in range(3)]
    assert [each.text for each in made] == alone
    assert len(set(alone)) == 3
    [again] = (await chat.agenerate(prompt, n=3)).generations
    assert [each.text for each in again] == alone
    [field] = tiny_llm.as_langchain(max_tokens=3, n=2).generate(prompt).generations
    assert len(field) == 2
    with pytest.raises(InvalidInputError, match="a stream is one answer"):
        list(chat.stream(QUESTION, n=2))


# Counting and trimming.

TALK = [
    SystemMessage("Be kind."),
    HumanMessage("Find it"),
    AIMessage("", tool_calls=[{"id": "1", "name": "f", "args": {"a": 1}}]),
    ToolMessage("Lyon", tool_call_id="1"),
    AIMessage("In Lyon."),
    HumanMessage("When?"),
    AIMessage("", tool_calls=[{"id": "2", "name": "f", "args": {"a": 1}}]),
    ToolMessage("Nine", tool_call_id="2"),
]


@pytest.mark.parametrize("family", ["hermes", "mistral", "none", "strict"])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("strategy", ["last", "first"])
def test_a_history_with_tools_is_trimmed_with_the_model_as_counter(
    family: str, partial: bool, strategy: Any
) -> None:
    strict = family == "strict"
    llm = scripted_around(byte_level(STRICT, MARKS, []), {}) if strict else scripted_llm({}, family)
    chat = llm.as_langchain()
    whole = chat.get_num_tokens_from_messages(TALK)
    for most in (1, whole // 2, whole):
        kept = trim_messages(
            TALK, max_tokens=most, token_counter=chat, strategy=strategy, allow_partial=partial
        )
        assert chat.get_num_tokens_from_messages(kept) <= most
    assert [message.type for message in kept] == [message.type for message in TALK]
    assert chat.get_num_tokens_from_messages([]) == 0


# Names of other makers.


@pytest.mark.parametrize("adapter", ["as_langchain", "as_llama_index"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("num_ctx", "context_window="),
        ("max_new_tokens", "max_tokens"),
        ("num_predict", "max_tokens"),
        ("do_sample", "temperature"),
        ("base_url", "no server is asked"),
        ("repeat_penalty", "repetition_penalty"),
        ("model_kwargs", "from_pretrained"),
        ("pipeline_kwargs", "by name"),
        ("n_ctx", "context_window="),
        ("max_length", "max_tokens"),
        ("model_path", "from_pretrained"),
        ("device_map", "from_pretrained"),
        ("n_gpu_layers", "device_map="),
        ("load_in_4bit", "quantization_config="),
        ("tools", "argument of a call"),
        ("json_mode", "with_structured_output"),
        ("mirostat", "min_p"),
    ],
)
def test_a_name_that_others_have_gets_a_hint(
    tiny_llm: SteerableHFLLM, adapter: str, name: str, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"'{name}' is not a known field.*{said}"):
        getattr(tiny_llm, adapter)(**{name: 1})


def test_a_chat_model_from_the_name_of_its_model(tmp_path: Path) -> None:
    llm = SteerableHFLLM.demo()
    llm.model.save_pretrained(tmp_path)
    llm.tokenizer.save_pretrained(tmp_path)
    chat = SteerableChatModel.from_model_id(str(tmp_path), max_tokens=5, dtype="float32")
    assert (chat.model_name, chat.max_tokens) == (str(tmp_path), 5)
    assert chat.invoke("Hello").content == llm.as_langchain(max_tokens=5).invoke("Hello").content
    with pytest.raises(InvalidInputError, match="did you mean 'dtype'"):
        SteerableChatModel.from_model_id(str(tmp_path), dtyp="float32")


@pytest.mark.parametrize("adapter", [SteerableChatModel, SteerableLlamaIndexLLM])
def test_a_bundled_model_has_the_name_of_the_command_line(adapter: Any) -> None:
    assert adapter.from_model_id("demo").llm.model_id == SteerableHFLLM.demo().model_id
