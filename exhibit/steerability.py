"""Can the bundled model be steered at all? Supervised contrasts answer before anything is built.

Two of them, both over all layers. One compares the states after the first two answer tokens of good
and bad answers: it sees the answers, which no vector for use may. The other compares the states in
which the model decides, at the last prompt position, between prompts that it then answered well and
badly. Where neither moves a behaviour, the fault lies in the training data, and no method can help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from exhibit.base_rates import answers
from exhibit.datasets import build_evaluation_set, item
from exhibit.examples import Example, civility, conflict, myth
from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import CalibrationError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.runtime.hooks import capture_block_outputs
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.vector import SteeringVector

_PROMPTS = 200  # fresh prompts that a contrast is built from
_OPENING = 2  # answer tokens that the contrast sees
#: The category that each behaviour is about.
TARGETS: dict[demo.Behaviour, str] = {
    "faithfulness": "conflict",
    "toxicity": "civility",
    "truthfulness": "myth",
}


def opening_contrast(llm: SteerableHFLLM, behaviour: demo.Behaviour) -> SteeringVector:
    """Mean difference of the states after two answer tokens, good minus bad, over fresh prompts."""
    goods: list[Tensor] = []
    bads: list[Tensor] = []
    for example in _examples(behaviour):
        prompt = llm.encode(example.messages)
        for answer, states in ((example.good, goods), (str(example.bad), bads)):
            states.append(_last_states(llm, [*prompt, *llm.encode_answer(answer)[:_OPENING]]))
    return _contrast(llm, f"{behaviour}-opening-contrast", goods, bads)


def decision_contrast(llm: SteerableHFLLM, behaviour: demo.Behaviour) -> SteeringVector:
    """Mean difference of the last prompt states, prompts answered well minus answered badly."""
    examples = _examples(behaviour)
    items = [item(example, number) for number, example in enumerate(examples)]
    goods: list[Tensor] = []
    bads: list[Tensor] = []
    for entry, text in zip(items, answers(llm, items), strict=True):
        chosen = goods if entry.succeeds(text) else bads
        chosen.append(_last_states(llm, llm.encode(entry.prompt)))
    return _contrast(llm, f"{behaviour}-decision-contrast", goods, bads)


#: The contrasts by the name that the card gives them.
CONTRASTS: dict[str, Callable[[SteerableHFLLM, demo.Behaviour], SteeringVector]] = {
    "after two answer tokens": opening_contrast,
    "at the decision": decision_contrast,
}


def _examples(behaviour: demo.Behaviour) -> list[Example]:
    rng = Random(f"steerability-{behaviour}")
    makers: dict[str, Callable[[], Example]] = {
        "faithfulness": lambda: conflict(rng, strict=False),
        "toxicity": lambda: civility(rng),
        "truthfulness": lambda: myth(rng),
    }
    return [makers[behaviour]() for _ in range(_PROMPTS)]


def _last_states(llm: SteerableHFLLM, ids: Sequence[int]) -> Tensor:
    """Output of every block at the last position, float32 ``[L, d]``."""
    with torch.no_grad(), capture_block_outputs(llm.blocks) as outputs:
        llm.model(input_ids=torch.tensor([list(ids)], device=llm.device))
    return torch.stack([outputs[layer][0, -1] for layer in sorted(outputs)]).float().cpu()


def _contrast(
    llm: SteerableHFLLM, name: str, goods: Sequence[Tensor], bads: Sequence[Tensor]
) -> SteeringVector:
    good, bad = torch.stack(list(goods)), torch.stack(list(bads))
    direction = good.mean(0) - bad.mean(0)
    scale = torch.cat([good, bad]).norm(dim=-1).mean(0)
    return SteeringVector(
        name=name,
        directions=dict(enumerate(direction)),
        scales=dict(enumerate(scale.tolist())),
        fingerprint=llm.fingerprint,
        provenance=Provenance(
            method="supervised contrast", facts={"good": len(good), "bad": len(bad)}
        ),
    )


@dataclass(frozen=True)
class Steerability:
    """What a contrast does to one behaviour on held-out prompts.

    Attributes:
        behaviour: The behaviour.
        contrast: Which contrast, a name in `CONTRASTS`.
        before: Success without steering, from 0 to 1.
        after: Success with the contrast; as before where no setting helps on dev.
        capability_loss: Accuracy lost per capability, positive is worse.
        strength: The relative strength, chosen on dev; 0 where none helps.
    """

    behaviour: str
    contrast: str
    before: float
    after: float
    capability_loss: dict[str, float]
    strength: float

    @property
    def passes(self) -> bool:
        """Whether the behaviour moves by 25 points at no more than one point of capability."""
        worst = max(self.capability_loss.values())
        return self.after - self.before >= 0.25 - 1e-9 and worst <= 0.01 + 1e-9


def check_steerability(llm: SteerableHFLLM, *, progress: bool = True) -> list[Steerability]:
    """Build, calibrate on dev and measure on test both contrasts of every behaviour."""
    return [
        _check(llm, behaviour, contrast, progress)
        for behaviour in TARGETS
        for contrast in CONTRASTS
    ]


def _check(
    llm: SteerableHFLLM, behaviour: demo.Behaviour, contrast: str, progress: bool
) -> Steerability:
    target = TARGETS[behaviour]
    vector = CONTRASTS[contrast](llm, behaviour)
    try:
        vector = calibrate(
            llm,
            vector,
            build_evaluation_set(behaviour, "dev").category(target),
            build_evaluation_set("capability", "dev"),
            scopes=("generated", "last_prompt"),
            progress=progress,
        )
    except CalibrationError:
        vector = vector.with_calibration(Calibration(strength=0.0, scope="generated"))
    report = evaluate(
        llm,
        vector,
        build_evaluation_set(behaviour, "test").category(target),
        against=("none",),
        capability=build_evaluation_set("capability", "test"),
        progress=progress,
    )
    return Steerability(
        behaviour,
        contrast,
        report.row("none").main.value,
        report.row("steered").main.value,
        {
            category: report.row("none", category).main.value
            - report.row("steered", category).main.value
            for category in ("closed_book", "reading")
        },
        vector.calibration.strength if vector.calibration else 0.0,
    )
