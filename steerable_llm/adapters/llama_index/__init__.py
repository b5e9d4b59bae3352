"""The model as LlamaIndex knows models, and a recorder of its runs."""

from steerable_llm.adapters.llama_index.llm import SteerableLlamaIndexLLM
from steerable_llm.adapters.llama_index.log import record_answers
from steerable_llm.adapters.llama_index.steps import tag_prompts
from steerable_llm.adapters.surroundings import record_steering, steer_step

__all__ = [
    "SteerableLlamaIndexLLM",
    "record_answers",
    "record_steering",
    "steer_step",
    "tag_prompts",
]
