"""The arguments of a call, as both frameworks name them, and how wrong ones are refused."""

from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import CoreSchema, core_schema

from steerable_llm.errors import InvalidInputError, first_problem, unknown
from steerable_llm.vector.steering import Steering

SAMPLING = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "chat_template_kwargs": "chat_template_kwargs",
}
"""Call argument -> the model's name for it. Each is also a field of the same meaning."""


class _AsItIs:
    """Tell pydantic to take a steering as it is, and not to look into its vectors."""

    def __get_pydantic_core_schema__(self, *_: Any) -> CoreSchema:
        return core_schema.is_instance_schema(Steering)


GivenSteering = Annotated[Steering, _AsItIs()]
"""A field that holds a steering."""


_LENGTH = "the length of an answer is max_tokens here"
_WINDOW = (
    "the window is the model's own; SteerableHFLLM.from_pretrained(..., context_window=) narrows it"
)
_SERVER = "the model runs in this process, and no server is asked: leave it out"
_LOADING = "give it to SteerableHFLLM.from_pretrained, which loads the model"
_WEIGHTS = "name the model to SteerableHFLLM.from_pretrained(...), and adapt what that returns"
_QUANTIZED = "give SteerableHFLLM.from_pretrained(..., quantization_config=), as in transformers"
_DEVICES = (
    "device_map= of SteerableHFLLM.from_pretrained says where the weights lie, "
    "torch.set_num_threads how many threads compute"
)
_DRAWING = "draw with temperature, top_p, top_k or min_p"
_PENALTY = "penalise what was said already with repetition_penalty"
_STOPS = "give stop texts: stop=['...']; the end of a turn is known"
_PER_CALL = "it is an argument of a call: give it to the call, or bind it"
_PER_MODEL = (
    "it is a field: give it with the model, as_langchain(steering=...) or as_llama_index(...)"
)
_FORM = "ask for objects with with_structured_output (LangChain) or structured_predict (LlamaIndex)"
_TEMPLATE = "give it to the chat template: chat_template_kwargs={...}"
_HINTS = {
    name: hint
    for names, hint in (
        ("max_new_tokens max_length num_predict max_completion_tokens max_output_tokens", _LENGTH),
        ("num_ctx n_ctx context_window max_input_tokens max_model_len", _WINDOW),
        ("base_url api_base openai_api_base organization keep_alive endpoint_url api_key", _SERVER),
        ("huggingfacehub_api_token openai_api_key api_version default_headers", _SERVER),
        ("timeout request_timeout max_retries", _SERVER),
        ("model_kwargs device torch_dtype dtype token revision cache_dir policy", _LOADING),
        ("trust_remote_code attn_implementation quantization_config tokenizer_name", _LOADING),
        ("tokenizer generation_defaults chat_template", _LOADING),
        ("model model_id model_name model_path model_file model_url repo_id filename", _WEIGHTS),
        ("load_in_4bit load_in_8bit quantization", _QUANTIZED),
        ("device_map n_gpu_layers gpu_layers num_gpu main_gpu tensor_split n_threads", _DEVICES),
        ("num_thread n_batch tensor_parallel_size gpu_memory_utilization", _DEVICES),
        ("typical_p tfs_z mirostat mirostat_eta mirostat_tau num_beams", _DRAWING),
        ("frequency_penalty presence_penalty repeat_last_n no_repeat_ngram_size", _PENALTY),
        ("stopping_ids stop_token_ids eos_token_id pad_token_id", _STOPS),
        ("tools tool_choice parallel_tool_calls context contrast", _PER_CALL),
        ("steering", _PER_MODEL),
        ("extra_body enable_thinking thinking reasoning_effort", _TEMPLATE),
        ("format json_mode response_format guided_json grammar", _FORM),
    )
    for name in names.split()
} | {
    **dict.fromkeys(
        ("pipeline_kwargs", "generate_kwargs", "generation_config", "additional_kwargs"),
        "give what it holds by name, such as max_tokens, temperature, top_p, stop",
    ),
    "do_sample": "a temperature above 0 draws, 0 takes the likeliest token",
    "return_full_text": "an answer never holds its prompt: leave it out",
    "repeat_penalty": "it is called repetition_penalty here",
    "stop_sequences": "stop texts are called stop here",
    "num_return_sequences": "n is how many answers generate of LangChain's model gives",
}
"""What to do instead, for names that models of other makers have."""


def refuse_unknown(kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise for the first name that is not known, with the nearest one that is, or a hint.

    Raises:
        InvalidInputError: A name is not known.
    """
    for name in sorted(set(given) - set(known)):
        if name in _HINTS:
            raise InvalidInputError(f"{name!r} is not a known {kind} of this model: {_HINTS[name]}")
        raise InvalidInputError(unknown(f"{kind} of this model", name, known))


def sampling_of(model: BaseModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's sampling in the model's words; the model's fields hold where it says None.

    Raises:
        InvalidInputError: A length that is none, told by its name here.
    """
    found = {
        theirs: getattr(model, ours) if given.get(ours) is None else given[ours]
        for ours, theirs in SAMPLING.items()
    }
    most = found["max_new_tokens"]
    if most is not None and not (isinstance(most, Integral) and int(most) >= 1):
        raise InvalidInputError(f"max_tokens is {most!r}: give at least 1, a whole number")
    own, told = model.chat_template_kwargs, given.get("chat_template_kwargs")  # type: ignore[attr-defined]
    if own and isinstance(told, Mapping):  # name by name
        found["chat_template_kwargs"] = {**own, **told}
    if isinstance(found["logit_bias"], Mapping):  # in JSON keys are texts
        found["logit_bias"] = {
            int(token) if isinstance(token, str) and token.isdecimal() else token: bias
            for token, bias in found["logit_bias"].items()
        }
    return found


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's fields as given, in the forms that models of other makers take, too.

    A sampling argument that is None means the default, which the checkpoint may tell, and one text
    in `stop` is one stop text.
    """
    named = {**SAMPLING, "stop": "stop"}
    own = getattr(given.get("llm"), "generation_defaults", {})
    made = {ours: own[theirs] for ours, theirs in named.items() if theirs in own}
    made |= {name: value for name, value in given.items() if value is not None or name not in named}
    if isinstance(made.get("stop"), str):
        made["stop"] = [made["stop"]]
    return made


def to_tool_choice(choice: Any) -> str | None:
    """Return a choice of tools as the model names it; whether there is such a tool it checks.

    Args:
        choice: None, a truth value, "any", "required", "auto", "none", a tool's name, or an OpenAI
            choice dict.

    Raises:
        InvalidInputError: A choice in a form that is not known.
    """
    named = choice
    if isinstance(choice, Mapping):
        named = (choice.get("function") or {}).get("name") or choice.get("type")
    if named is None or named is False:
        return None
    if named is True or named == "any":
        return "required"
    if not isinstance(named, str):
        raise InvalidInputError(
            f"tool_choice is {choice!r}: give auto, none, any, required or a tool's name"
        )
    return named


def explain(error: ValidationError) -> str:
    """Say in one line which field pydantic refused first, and why."""
    return f"{first_problem(error)} (got {error.errors()[0]['input']!r})"
