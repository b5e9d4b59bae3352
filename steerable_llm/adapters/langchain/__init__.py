"""The model as LangChain knows models, and a recorder of its runs."""

from steerable_llm.adapters.langchain.chat_model import SteerableChatModel
from steerable_llm.adapters.langchain.log import AnswerLogHandler
from steerable_llm.adapters.surroundings import record_steering, steer_step

__all__ = ["AnswerLogHandler", "SteerableChatModel", "record_steering", "steer_step"]
