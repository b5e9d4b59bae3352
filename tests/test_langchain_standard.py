"""LangChain's own acceptance tests."""

from typing import Any

import pytest
from adapter_models import TOKENS, under_three_steps
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from steerable_llm.adapters.langchain import SteerableChatModel
from steerable_llm.model import SteerableHFLLM


@pytest.fixture(scope="module")
def engine(tiny_llm: SteerableHFLLM) -> SteerableHFLLM:
    """The tiny model under a policy whose three steps steer in three ways."""
    return under_three_steps(tiny_llm)


class TestStandardUnit(ChatModelUnitTests):
    """LangChain's own acceptance tests, those that need no answer."""

    @pytest.fixture(autouse=True)
    def _give_engine(self, engine: SteerableHFLLM) -> None:
        type(self).engine = engine  # type: ignore[attr-defined]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SteerableChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": type(self).engine}  # type: ignore[attr-defined]


# LangChain calls its third event protocol beta, and says so on each use.
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
class TestStandardIntegration(ChatModelIntegrationTests):
    """LangChain's own acceptance tests, those that ask for answers; tools are not supported yet."""

    @pytest.fixture(autouse=True)
    def _give_engine(self, engine: SteerableHFLLM) -> None:
        type(self).engine = engine  # type: ignore[attr-defined]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SteerableChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": type(self).engine}  # type: ignore[attr-defined]

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {**super().standard_chat_model_params, "max_tokens": TOKENS}

    @property
    def supports_model_override(self) -> bool:
        return False  # one object holds one model's weights
