"""ContextFocus: one direction from "has the context" (Anand et al. 2026, arXiv:2601.04131).

Per layer, with h_l(t) the output of block l at the last token of prompt t, the template's opening
of the answer included::

    v_l = mean over pairs of  h_l(system + context + question) - h_l(question)

The answers play no part, so logs without bad answers can be used. Applied at one layer by plain
addition with strength 2 on the vector as it is, `h' = h + 2 v_l`.
"""

from pydantic import BaseModel

from steerable_llm.chat.context import question_alone
from steerable_llm.chat.message import instructed
from steerable_llm.errors import PairError
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.states import chosen_layers, prompt_scales, read_prompt, read_states
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Deltas, Provenance
from steerable_llm.vector.steering import Application

INSTRUCTION = "Answer the question from the context that is given, not from memory."


class ContextFocusConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of ContextFocus.

    Attributes:
        layers: 0-based blocks to build directions for; None means all.
        instruction: The system message beside the context; None keeps the prompt's own.
    """

    layers: tuple[int, ...] | None = None
    instruction: str | None = INSTRUCTION


def extract_contextfocus(
    llm: HookedModel, pairs: Pairs, config: ContextFocusConfig, progress: Advance | None = None
) -> Extraction:
    """Build the mean difference between prompts with and without their context.

    Raises:
        PairError: No prompt has a context beside its question.
    """
    layers = chosen_layers(llm, config.layers)
    full, bare, places = [], [], []
    for place, pair in enumerate(pairs):
        question = question_alone(pair.messages)
        if question is None:
            continue
        bare.append(read_prompt(llm, instructed(question, None), pair.id))
        messages = pair.messages
        if config.instruction is not None:
            messages = instructed(messages, config.instruction)
        full.append(read_prompt(llm, messages, pair.id))
        places.append(place)
    if not full:
        raise PairError(
            "no prompt has a context beside its question, so there is nothing to contrast: mark "
            'the parts as "Context:" and "Question:", or choose another method'
        )
    deltas = read_states(llm, full) - read_states(llm, bare)
    if progress is not None:
        progress(len(pairs))
    return Extraction(
        directions={layer: deltas[:, layer].mean(0) for layer in layers},
        scales=prompt_scales(llm, pairs, layers),
        provenance=Provenance(
            deltas=Deltas(len(deltas)), facts={"without_context": len(pairs) - len(deltas)}
        ),
        differences=deltas[:, list(layers)],
        layers=layers,
        places=tuple(places),
    )


CONTEXTFOCUS = Method(
    ContextFocusConfig,
    extract_contextfocus,
    application=Application(unit="absolute", renormalise=False),
    grid=Grid(unit="absolute", scopes=("generated",), subsets="single"),
)
