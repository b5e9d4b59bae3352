"""The card of a gate: what it was trained on, how well it does, and what it cannot do."""

from __future__ import annotations

from steerable_llm.metrics import Estimate
from steerable_llm.policy.gate_training import TrainedGate


def gate_card(trained: TrainedGate, command: str | None = None) -> str:
    """Return the card as Markdown.

    Args:
        trained: The gate with its figures.
        command: What made it, to make it again.
    """
    gate, figures, facts = trained.gate, trained.figures, trained.gate.training
    reasons = ", ".join(facts["reasons"] or ()) or "any reason"
    steps = (
        f", among the answers of the steps {', '.join(facts['steps'])}" if facts["steps"] else ""
    )
    used = facts["trained_on"]
    lines = [
        f"# Gate {gate.name}",
        "",
        "The probability, from the user's question alone, that an answer goes wrong "
        f"(verdict bad: {reasons}{steps}). A policy names it in a condition: "
        f'`when = {{ gate = {{ name = "{gate.name}" }} }}`.',
        "",
        "| | |",
        "|---|---|",
        f"| fingerprint | `{gate.fingerprint_id}` |",
        f"| embedding model | {gate.embedder} (weights `{gate.embedder_fingerprint}`) |",
        "| kind | logistic regression over the embedding of the last user message, retrieved text "
        "left out |",
        f"| log | sha256 `{facts['log_sha256'][:16]}` |",
        f"| trained on | {used['bad']} bad and {used['good']} good answers |",
        f"| measured on | {figures.bad} bad and {figures.good} good answers, held out "
        f"(share {facts['held_out']:g}, seed {facts['seed']}); no question and no document is on "
        "both sides |",
        "",
        "## Figures",
        "",
        "On the held-out answers, with 95 % intervals.",
        "",
        "| | |",
        "|---|---|",
        f"| area under the ROC curve | {_figure(figures.auc)} |",
        f"| threshold | {gate.threshold:.3f}, chosen by cross-validation on the training answers |",
        f"| bad answers caught at it | {_figure(figures.caught)} |",
        f"| false alarms at it | {_figure(figures.false_alarms)} |",
        "",
        "An area of 0.5 is chance. The curve:",
        "",
        "| probability from | caught | false alarms |",
        "|---|---|---|",
        *(
            f"| {point.threshold:.2f} | {point.caught:.3f} | {point.false_alarms:.3f} |"
            for point in figures.roc
        ),
        "",
        "## What it does not do",
        "",
        "It knows the question's wording and nothing else: not the documents, not the answer, not "
        "the turns before. The same question always gets the same probability; there is no "
        "hysteresis. Outside the kind of question that the log holds, the figures say nothing. "
        "Paraphrases of one question count as separate questions unless they quote the same "
        "document.",
    ]
    if command:
        lines += ["", "## To make it again", "", "```", command, "```"]
    return "\n".join(lines) + "\n"


def _figure(value: Estimate) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
