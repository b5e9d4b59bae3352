"""The harness's model: equal to its own `hf` without steering, and to the equations with it.

All of it runs the real lm-eval package, offline, on a random model and tasks made here.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Steerable, steerable
from gguf_models import write_gguf
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from steerable_llm import SteeringVector
from steerable_llm.adapters.lm_eval import SteerableLM, steering_from
from steerable_llm.errors import InvalidInputError, ModelMismatchError, UnknownStepError
from steerable_llm.vector.steering import Steering

__all__ = ["steerable"]

WINDOW = 256
LONG = (
    "The shop in Lyon opens at nine. According to the text, the refund period is thirty days. " * 9
)
#: Context and continuation: ordinary, empty, ending in a blank, letters that share a pass, and two
#: that are longer than the model's window.
SCORED = [
    ("The capital of France is", " Paris."),
    ("The capital of France is ", "Rome."),
    ("", "As I recall, the answer is forty two."),
    ("Question: When does the shop open?\nAnswer:", " A"),
    ("Question: When does the shop open?\nAnswer:", " B"),
    ("Question: When does the shop open?\nAnswer:", " C, at nine"),
    (LONG, " The text does not say."),
    (LONG, " It does."),
]


@pytest.fixture(scope="module")
def checkpoint(
    make_tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 3}


@pytest.fixture(scope="module")
def plain(checkpoint: str) -> HFLM:
    return HFLM(pretrained=checkpoint, **OPTIONS)


@pytest.fixture(scope="module")
def unsteered(checkpoint: str) -> SteerableLM:
    return SteerableLM(pretrained=checkpoint, **OPTIONS)


@pytest.fixture(scope="module")
def vector_file(
    unsteered: SteerableLM, make_vector: Any, tmp_path_factory: pytest.TempPathFactory
) -> str:
    vector = make_vector(unsteered.llm, seed=3, name="push")
    return str(vector.save(tmp_path_factory.mktemp("vectors") / "push.safetensors"))


def steered_with(unsteered: SteerableLM, steering: Steering) -> SteerableLM:
    """The same weights under another steering, without loading them again."""
    other: SteerableLM = object.__new__(SteerableLM)
    other.__dict__.update(unsteered.__dict__, steering=steering)
    return other


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=number)  # type: ignore[arg-type]
        for number, given in enumerate(arguments)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_unsteered_log_likelihoods_are_those_of_hf(
    plain: HFLM, unsteered: SteerableLM, batch_size: int | str
) -> None:
    requests = asked("loglikelihood", *SCORED)
    mine = steered_with(unsteered, Steering.none())
    mine.batch_size_per_gpu = batch_size
    found = mine.loglikelihood(requests, disable_tqdm=True)
    expected = plain.loglikelihood(requests, disable_tqdm=True)
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_gguf_file_scores_as_the_model_it_was_made_from(
    unsteered: SteerableLM, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", unsteered.llm.model, unsteered.llm.tokenizer)
    read = SteerableLM(pretrained=str(path), **OPTIONS)
    assert read.llm.model_id == str(path)
    found, expected = (
        lm.loglikelihood(asked("loglikelihood", *SCORED), disable_tqdm=True)
        for lm in (read, unsteered)
    )
    assert found == [(pytest.approx(value, abs=1e-3), greedy) for value, greedy in expected]


def test_what_greedy_decoding_would_write_is_told_as_hf_tells_it(
    plain: HFLM, unsteered: SteerableLM
) -> None:
    tokens = plain.tok_encode("The capital of France is")
    likeliest = plain.model(torch.tensor([tokens])).logits[0, -1].argmax()
    for token, greedy in ((int(likeliest), True), ((int(likeliest) + 1) % 300, False)):
        request = [(None, tokens, [token])]
        assert unsteered._loglikelihood_tokens(request, disable_tqdm=True)[0][1] is greedy
        assert plain._loglikelihood_tokens(request, disable_tqdm=True)[0][1] is greedy


def test_unsteered_rolling_log_likelihoods_are_those_of_hf(
    plain: HFLM, unsteered: SteerableLM
) -> None:
    assert len(plain.tok_encode(LONG)) > WINDOW  # so that windows are really needed
    requests = asked("loglikelihood_rolling", (LONG,), ("As I recall.",))
    found = unsteered.loglikelihood_rolling(requests, disable_tqdm=True)
    expected = plain.loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-3)


def test_unsteered_answers_are_those_of_hf(plain: HFLM, unsteered: SteerableLM) -> None:
    short = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    stopping = {"until": [" "], "max_gen_toks": 20}
    requests = asked(
        "generate_until",
        ("The capital of France is", short),
        ("As I recall, the", short),
        (LONG, short),  # cut from the left
        ("Documents:", stopping),
    )
    found = unsteered.generate_until(requests, disable_tqdm=True)
    assert found == plain.generate_until(requests, disable_tqdm=True)
    assert any(found)


def push(vector: SteeringVector, strength: float, start: int) -> Any:
    """Plain forward hooks that add the vector from a position on: the oracle of steering."""

    def hook_for(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden: Tensor = output[0] if isinstance(output, tuple) else output
            changed = hidden.clone()
            changed[:, start:] += strength * vector.directions[layer]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    return hook_for


def plain_log_likelihood(
    lm: HFLM, context: str, continuation: str, vector: SteeringVector, strength: float, scope: str
) -> float:
    """Token by token through transformers alone, with hooks of the test's own."""
    if context:
        before, after = lm._encode_pair(context, continuation)
    else:
        before, after = [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
    whole = (before + after)[-(WINDOW + 1) :]
    start = {"all": 0, "generated": len(whole) - len(after) - 1}[scope]
    hook_for = push(vector, strength, start)
    handles = [
        block.register_forward_hook(hook_for(layer))
        for layer, block in enumerate(lm.model.model.layers)
    ]
    try:
        with torch.no_grad():
            logits = lm.model(torch.tensor([whole[:-1]])).logits[0].double()
    finally:
        for handle in handles:
            handle.remove()
    log_probs = logits.log_softmax(-1)
    first = len(whole) - len(after)
    return sum(float(log_probs[first - 1 + i, token]) for i, token in enumerate(after))


@pytest.mark.parametrize("scope", ["all", "generated"])
def test_steered_log_likelihoods_equal_plain_transformers_with_hooks(
    plain: HFLM, unsteered: SteerableLM, make_vector: Any, scope: Any
) -> None:
    vector = make_vector(unsteered.llm, seed=3)
    steering = vector.steer(0.3, scope=scope, unit="absolute", renormalise=False)
    lm = steered_with(unsteered, steering)
    found = lm.loglikelihood(asked("loglikelihood", *SCORED), disable_tqdm=True)
    expected = [plain_log_likelihood(plain, *pair, vector, 0.3, scope) for pair in SCORED]
    assert [x for x, _ in found] == pytest.approx(expected, abs=1e-3)
    without = unsteered.loglikelihood(asked("loglikelihood", *SCORED), disable_tqdm=True)
    assert all(abs(x - y) > 1e-3 for (x, _), (y, _) in zip(found, without, strict=True))


def test_letters_that_share_a_pass_are_scored_as_if_alone(
    unsteered: SteerableLM, make_vector: Any
) -> None:
    lm = steered_with(unsteered, make_vector(unsteered.llm).steer(0.2))
    letters = [("Question: When?\nAnswer:", f" {letter}") for letter in "ABCD"]
    together = lm.loglikelihood(asked("loglikelihood", *letters), disable_tqdm=True)
    for pair, value in zip(letters, together, strict=True):
        [alone] = lm.loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)
        assert value == (pytest.approx(alone[0], abs=1e-5), alone[1])


def test_steered_answers_are_those_of_the_model_itself(
    unsteered: SteerableLM, make_vector: Any
) -> None:
    steering = make_vector(unsteered.llm).steer(0.5)
    lm = steered_with(unsteered, steering)
    llm = unsteered.llm
    prompts = [llm.render("When does the shop open?"), llm.render("What is the capital?")]
    settings = {"until": [], "max_gen_toks": 10, "do_sample": False}
    found = lm.generate_until(
        asked("generate_until", *((prompt, settings) for prompt in prompts)), disable_tqdm=True
    )
    own = [
        llm.generate(text, steering=steering, max_new_tokens=10).token_ids
        for text in ("When does the shop open?", "What is the capital?")
    ]
    # The harness shows half a character at the end as a mark, and the model leaves it out.
    assert found == [llm.tokenizer.decode(ids, skip_special_tokens=True) for ids in own]
    assert llm.generate("When does the shop open?", max_new_tokens=10).token_ids != own[0]


def test_an_answer_longer_than_the_window_is_refused(unsteered: SteerableLM) -> None:
    with pytest.raises(InvalidInputError, match="the answer must fit"):
        unsteered._loglikelihood_tokens([(None, [1], [2] * (WINDOW + 1))], disable_tqdm=True)


@pytest.fixture(autouse=True)
def no_description_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks half a dozen programs what the machine is, seconds for every run."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of the harness in a folder of their own: a choice, and written answers."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"The shop opens at {hour}. When?",
            "choices": ["At nine.", "At ten."],
            "answer": number % 2,
        }
        for number, hour in enumerate(["nine", "ten", "nine", "ten"])
    ]
    (folder / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"""
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / "shop.jsonl"}
  cache_dir: {folder / "cache"}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
"""
    (folder / "shop_choice.yaml").write_text(
        f"task: shop_choice\noutput_type: multiple_choice\n{common}"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n'
    )
    (folder / "shop_written.yaml").write_text(
        f"task: shop_written\noutput_type: generate_until\n{common}"
        'doc_to_target: "{{choices[answer]}}"\n'
        'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 8\n'
        "metric_list:\n  - metric: exact_match\n"
    )
    return folder


def harness(tasks: Path, model: str, checkpoint: str, **arguments: Any) -> Any:
    return simple_evaluate(
        model=model,
        model_args={"pretrained": checkpoint, "dtype": "float32", **arguments},
        tasks=["shop_choice", "shop_written"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=2,
        device="cpu",
        bootstrap_iters=0,
        apply_chat_template=True,
    )


def responses(results: Any) -> list[Any]:
    found: list[Any] = []
    for task in ("shop_choice", "shop_written"):
        for sample in results["samples"][task]:
            for given in sample["resps"]:
                [value] = given
                found.append(value if isinstance(value, str) else pytest.approx(value[0], abs=1e-4))
    return found


def numbers(results: Any) -> list[Any]:
    """The same, as plain values."""
    return [x.expected if hasattr(x, "expected") else x for x in responses(results)]


def test_the_harness_runs_it_on_local_tasks_with_its_chat_template(
    tasks: Path, checkpoint: str, vector_file: str
) -> None:
    hf = harness(tasks, "hf", checkpoint)
    none = harness(tasks, "steerable", checkpoint)
    assert numbers(none) == responses(hf)
    assert none["results"]["shop_choice"]["acc,none"] == hf["results"]["shop_choice"]["acc,none"]
    assert none["config"]["steered"] == []

    steered = harness(tasks, "steerable", checkpoint, vector=vector_file, strength=0.4)
    assert numbers(steered) != responses(hf)
    [record] = steered["config"]["steered"]
    assert record["vector"].startswith("push@")
    assert (record["strength"], record["scope"]) == (0.4, "generated")


def test_the_command_line_of_the_harness_knows_the_model(
    tasks: Path,
    checkpoint: str,
    vector_file: str,
    unsteered: SteerableLM,
    tmp_path: Path,
    steerable: Steerable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Reading the harness's own 14,000 task files takes most of a run.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    steerable(
        *("lm-eval", "--model", "steerable"),
        *("--model_args", f"pretrained={checkpoint},vector={vector_file},strength=0.4"),
        *("--tasks", "shop_choice", "--include_path", tasks, "--device", "cpu"),
        *("--output_path", tmp_path / "out", "--log_samples", "--batch_size", 2),
    )
    [written] = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())
    assert results["config"]["model"] == "steerable"
    assert results["config"]["steered"][0]["strength"] == 0.4
    assert "acc,none" in results["results"]["shop_choice"]
    # What was written is what the same steering gives here.
    [file] = (tmp_path / "out").rglob("samples_*.jsonl")
    [first, *_] = [json.loads(line) for line in file.read_text().splitlines()]
    context, choice = (
        first["arguments"]["gen_args_0"]["arg_0"],
        first["arguments"]["gen_args_0"]["arg_1"],
    )
    steering = SteeringVector.load(vector_file).steer(0.4)
    lm = steered_with(unsteered, steering)
    [(expected, _)] = lm.loglikelihood(asked("loglikelihood", (context, choice)), disable_tqdm=True)
    assert float(first["resps"][0][0][0]) == pytest.approx(expected, abs=1e-4)


def given(llm: Any, **arguments: Any) -> Steering:
    names = ("vector", "strength", "scope", "layers", "unit", "policy", "step")
    defaults: dict[str, Any] = {**dict.fromkeys(names), "vector": (), "force": False}
    return steering_from(llm, **{**defaults, **arguments})


def test_several_vectors_add_up_each_at_its_strength(
    unsteered: SteerableLM, vector_file: str
) -> None:
    steering = given(
        unsteered.llm,
        vector=[vector_file, vector_file],
        strength=[0.1, -0.2],
        scope="all",
        layers=1,
        unit="absolute",
    )
    assert [term.strength for term in steering.terms] == [0.1, -0.2]
    assert {(term.scope, term.layers, term.unit) for term in steering.terms} == {
        ("all", (1,), "absolute")
    }


def test_a_policy_steers_with_its_step(
    unsteered: SteerableLM, vector_file: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'vectors_dir = "{Path(vector_file).parent}"\n'
        '[steps.answer]\nvectors = [{ name = "push", strength = 0.3 }]\n'
        "[steps.condense]\n"
    )
    steering = given(unsteered.llm, policy=str(policy), step="answer")
    assert [term.strength for term in steering.terms] == [0.3]
    assert not given(unsteered.llm, policy=str(policy), step="condense").is_active
    with pytest.raises(UnknownStepError, match="anser"):
        given(unsteered.llm, policy=str(policy), step="anser")
    with pytest.raises(InvalidInputError, match=r"no default step.*answer, condense"):
        given(unsteered.llm, policy=str(policy))
    with pytest.raises(InvalidInputError, match="vectors or a policy, not both"):
        given(unsteered.llm, policy=str(policy), vector=vector_file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"strength": 0.1}, "strength is given without a vector"),
        ({"scope": "all"}, "scope is given without a vector"),
        ({"step": "answer"}, "without a policy"),
        ({"vector": "PUSH", "strength": [0.1, 0.2]}, "2 strengths for 1 vectors"),
        ({"vector": "PUSH"}, "not calibrated"),
        ({"vector": "PUSH", "strength": 0.1, "scope": "everywhere"}, "unknown scope"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(
    unsteered: SteerableLM, vector_file: str, arguments: dict[str, Any], said: str
) -> None:
    real = {k: vector_file if v == "PUSH" else v for k, v in arguments.items()}
    with pytest.raises(InvalidInputError, match=said):
        given(unsteered.llm, **real)


def test_a_vector_of_another_model_is_refused(
    unsteered: SteerableLM, make_llm: Any, make_vector: Any, tmp_path: Path
) -> None:
    file = make_vector(make_llm("qwen2")).save(tmp_path / "other.safetensors")
    with pytest.raises(ModelMismatchError):
        given(unsteered.llm, vector=str(file), strength=0.1)


class FakeHook:
    """The part of the harness's cache that is looked at."""

    def __init__(self, store: dict[str, Any] | None) -> None:
        self.dbdict = store


def test_a_cache_that_another_steering_filled_is_refused(
    unsteered: SteerableLM, make_vector: Any
) -> None:
    store: dict[str, Any] = {}
    weak = steered_with(unsteered, make_vector(unsteered.llm).steer(0.1))
    strong = steered_with(unsteered, make_vector(unsteered.llm).steer(0.2))
    weak.set_cache_hook(FakeHook(store))
    weak.set_cache_hook(FakeHook(store))
    with pytest.raises(InvalidInputError, match="--use_cache"):
        strong.set_cache_hook(FakeHook(store))
    strong.set_cache_hook(FakeHook(None))  # no cache, nothing to refuse
