"""Calls with a prompt, whose metadata tells the step: what LlamaIndex's engines make."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen

from steerable_llm.policy.policy_source import hold_policies
from steerable_llm.policy.step import steer_step


class PromptedLLM(LLM):
    """An LLM that knows the step of a call from its prompt."""

    @abstractmethod
    def _step_of(self, prompt: BasePromptTemplate | None = None, named: Any = None) -> str | None:
        """Return the step of a call that is made now."""

    @contextmanager
    def _told_by(self, prompt: BasePromptTemplate) -> Iterator[None]:
        # One policy tells the step and steers it, though its file may change in between.
        with hold_policies(), steer_step(self._step_of(prompt)):
            yield

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt."""
        with self._told_by(prompt):
            return super().predict(prompt, **prompt_args)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Answer a filled-in prompt while the event loop keeps turning."""
        with self._told_by(prompt):
            return await super().apredict(prompt, **prompt_args)

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Answer a filled-in prompt piece by piece."""
        with self._told_by(prompt):
            return super().stream(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Answer a filled-in prompt piece by piece while the event loop keeps turning."""
        with self._told_by(prompt):
            return await super().astream(prompt, **prompt_args)
