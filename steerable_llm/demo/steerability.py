"""Can the bundled model be steered at all? A supervised contrast answers before anything is built.

The contrast is the difference of the states after the first two answer tokens of good and bad
answers, the mean over pairs: it sees the answers, which no vector for use may. Where even this
moves nothing, the fault lies in the model's training data and no method can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steerable_llm import demo
from steerable_llm.calibration import calibrate
from steerable_llm.demo.datasets import build_evaluation_set
from steerable_llm.evaluate import evaluate
from steerable_llm.hooks import capture_block_outputs
from steerable_llm.logs import LoggedAnswer, pair_answers
from steerable_llm.model import SteerableHFLLM
from steerable_llm.pairs import Pairs
from steerable_llm.vector import SteeringVector

_OPENING = 2  # answer tokens that the contrast sees
#: The variant that each behaviour is about.
TARGETS: dict[demo.Behaviour, str] = {
    "faithfulness": "conflict",
    "toxicity": "civility",
    "truthfulness": "myth",
}


def supervised_contrast(llm: SteerableHFLLM, pairs: Pairs, name: str) -> SteeringVector:
    """Build the contrast vector of pairs that have a bad answer."""
    rows = []
    norms = []
    for pair in pairs:
        if pair.bad is None:
            continue
        prompt = llm.encode(pair.prompt)
        states = []
        for answer in (pair.good, pair.bad):
            ids = torch.tensor([[*prompt, *llm.encode_answer(answer)[:_OPENING]]])
            with torch.no_grad(), capture_block_outputs(llm.blocks) as outputs:
                llm.model(input_ids=ids.to(llm.device))
            states.append(torch.stack([outputs[layer][0] for layer in sorted(outputs)]).float())
        good, bad = states
        rows.append(good[:, -1] - bad[:, -1])
        norms.append(good[:, len(prompt) - 1].norm(dim=-1))
    direction, scale = torch.stack(rows).mean(0), torch.stack(norms).mean(0)
    layers = range(len(llm.blocks))
    return SteeringVector(
        name=name,
        directions={layer: direction[layer].cpu() for layer in layers},
        scales={layer: float(scale[layer]) for layer in layers},
        fingerprint=llm.fingerprint,
        provenance={"method": "supervised contrast", "pairs": len(rows)},
    )


@dataclass(frozen=True)
class Steerability:
    """What the contrast does to one behaviour on held-out prompts.

    Attributes:
        behaviour: The behaviour.
        before: Success without steering, from 0 to 1.
        after: Success with the contrast.
        capability_loss: Accuracy lost per capability, positive is worse.
        strength: The relative strength, chosen on dev.
    """

    behaviour: str
    before: float
    after: float
    capability_loss: dict[str, float]
    strength: float

    @property
    def passes(self) -> bool:
        """Whether the behaviour moves by 25 points at no more than one point of capability."""
        return self.after - self.before >= 0.25 and max(self.capability_loss.values()) <= 0.01


def check_steerability(
    llm: SteerableHFLLM, log: Sequence[LoggedAnswer], *, progress: bool = True
) -> list[Steerability]:
    """Build, calibrate on dev and measure on test the contrast of every behaviour.

    Args:
        llm: The model.
        log: Its own logged answers; see `generate.build_answer_log`.
        progress: Show progress bars on the error stream.
    """
    results = []
    for behaviour, target in TARGETS.items():
        contrast = supervised_contrast(
            llm,
            pair_answers(log, reasons=demo.REASONS[behaviour]).pairs,
            f"{behaviour}-contrast",
        )
        found = calibrate(
            llm,
            contrast,
            build_evaluation_set(behaviour, "dev").variant(target),
            build_evaluation_set("capability", "dev"),
            scopes=("generated",),
            controls=False,
            progress=progress,
        )
        report = evaluate(
            llm,
            found.vector,
            build_evaluation_set(behaviour, "test").variant(target),
            against=("none",),
            capability=build_evaluation_set("capability", "test"),
            progress=progress,
        )
        success = {
            (row.condition, row.variant): row.success.value
            for row in report.rows
            if row.success is not None
        }
        results.append(
            Steerability(
                behaviour,
                success["none", target],
                success["steered", target],
                {
                    variant: success["none", variant] - success["steered", variant]
                    for variant in ("closed_book", "reading")
                },
                found.best.strength,
            )
        )
    return results
