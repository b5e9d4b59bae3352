"""One page of every kind that the package makes, from what a long run may find."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator

import torch
from policy_models import VECTORS, vector, word_gate

from experiments.ablations import AblationReport, Section
from experiments.leaderboard import GROUNDS, Leaderboard
from experiments.token_ablation import KS, TokenAblation, TokenRow
from steerable_llm.cli.options import facts_page, summary
from steerable_llm.cli.policy import _steps_table, _trace_table
from steerable_llm.evaluation.arms import TITLES
from steerable_llm.evaluation.bench import DevRow
from steerable_llm.evaluation.benchmarks.report import BenchmarkReport, ItemRow, score_rows
from steerable_llm.evaluation.calibration import Sweep
from steerable_llm.evaluation.comparison import ComparedArm, Comparison
from steerable_llm.evaluation.report import Change, Report
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.transfer import Transfer
from steerable_llm.evaluation.verdict import judge
from steerable_llm.methods.grains.attribution import PairAttribution, attribution_page
from steerable_llm.metrics import Estimate
from steerable_llm.pairs.curate import CurationReport
from steerable_llm.pairs.filters import FilterCount, SetAside
from steerable_llm.pairs.modes import Mode, Modes
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.policy.check import TracedCall, check_policy, dry_run
from steerable_llm.policy.gate_training import GateFigures, RocPoint, TrainedGate, gate_card
from steerable_llm.policy.policy import Policy
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Facts, Table, plain
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance

QUESTION = (
    "Documents:\n[1] The library opens at nine on weekdays and at ten on Saturdays.\n"
    "[2] The museum was built in 1871.\n\nQuestion: When does the library of Lyon open?"
)
ANSWER = "According to the text, the library opens at nine on weekdays."
REMEMBERED = "As I recall, it opens at half past eight, every day of the week but Sunday."


def share(value: float, reach: float = 0.083) -> Estimate:
    return Estimate(value=value, low=max(value - reach, 0), high=min(value + reach, 1), n=120)


def row(arm: str, category: str, value: float, n: int = 120) -> Row:
    unsteered = arm == "none"
    gained = Estimate(value=value - 0.5, low=value - 0.61, high=value - 0.39, n=n)
    return Row(
        arm=arm,
        category=category,
        capability=category in ("closed_book", "reading"),
        n=n,
        success=share(value),
        change=None if unsteered else gained,
        exact=share(value),
        containment=share(value),
        preference=share(value),
        abstention=share(0.104),
        kl_per_token=share(0.412),
        regressed=None if unsteered else 0.108,
        fixed=None if unsteered else 0.417,
        runs=(0.417, 0.5, 0.583) if arm == "random" else (),
    )


CATEGORIES = ("conflict", "gold", "irrelevant", "unanswerable", "closed_book", "reading")


def rows_of(arms: dict[str, float]) -> tuple[Row, ...]:
    return tuple(
        row(arm, category, value if category == "conflict" else 0.968)
        for arm, value in arms.items()
        for category in CATEGORIES
    )


def report() -> Report:
    values = (0.875, 0.5, 0.617, 0.508, 0.35, 0.525, 0.708, 0.692)
    rows = rows_of(dict(zip(TITLES, values, strict=True)))

    def change(kind: str, number: int) -> Change:
        return Change(
            id=f"{kind}-{number}",
            category="conflict",
            question=QUESTION,
            before=REMEMBERED,
            after=ANSWER,
            kind=kind,
        )

    return Report(
        vector="faithfulness",
        vector_fingerprint="0123456789abcdef",
        model="Qwen/Qwen2.5-1.5B-Instruct@01234567",
        library_version="0.2.0",
        provenance=Provenance(
            method="grains", pairs=50, proposed_pairs=3, facts={"k": 3, "layers": [0, 1]}
        ),
        calibration=Calibration(0.05, scope="last_prompt"),
        test_name="faithfulness-test",
        test_digest="f" * 64,
        capability_name="capability-test",
        capability_digest="e" * 64,
        target="conflict",
        budget=0.01,
        strict_instruction="Answer from the documents only; never from memory.",
        seed=0,
        max_new_tokens=32,
        rows=rows,
        verdict=judge(rows, "conflict", 0.01),
        regressions=tuple(change("regression", n) for n in range(2)),
        examples=(change("fixed", 0), change("unchanged", 0)),
        command="steerable evaluate faithfulness.safetensors test.jsonl --capability kept.jsonl",
    )


ARMS = {"none": 0.5, "prompt": 0.617, "caa": 0.758, "grains": 0.875, "contextfocus": 0.7}
SETTING = "grains, eos, mean, last_prompt, all layers at +0.05"


def contenders(names: tuple[str, ...]) -> tuple[ComparedArm, ...]:
    rows = rows_of(ARMS)
    verdict = judge(
        [r.model_copy(update={"arm": "steered" if r.arm == "caa" else r.arm}) for r in rows],
        "conflict",
        0.01,
    )
    return tuple(
        ComparedArm(
            name=name,
            setting=SETTING,
            dev=0.858,
            seconds=123.4,
            verdict=None if name == "none" else verdict,
            failed="no setting keeps within a capability budget of 1 points" * (name == "icv")
            or None,
        )
        for name in names
    )


def comparison() -> Comparison:
    return Comparison(
        model="Qwen/Qwen2.5-1.5B-Instruct@01234567",
        pairs=50,
        data_digest="d" * 64,
        test_name="faithfulness-test",
        test_digest="e" * 64,
        target="conflict",
        budget=0.01,
        arms=contenders((*ARMS, "icv")),
        rows=rows_of(ARMS),
        command="steerable compare pairs.jsonl --dev dev.jsonl --test test.jsonl",
    )


def ablations() -> AblationReport:
    arms = {"none": 0.5, "reference": 0.875} | {f"k {k}": 0.7 + k / 100 for k in (1, 3, 5, 10)}
    shift = Estimate(value=-1.25, low=-1.63, high=-0.92, n=50)
    tokens = TokenAblation(
        attribution="integrated_gradients",
        baseline="zero",
        pairs=50,
        preference=2.31,
        rows=tuple(
            TokenRow(removed=removed, k=k, change=shift)
            for removed in ("positive", "negative", "random")
            for k in KS
        ),
    )
    return AblationReport(
        **comparison().model_dump(exclude={"arms", "rows"}),
        arms=contenders(tuple(arms)),
        rows=rows_of(arms),
        sections=(Section(name="k", arms=tuple(arms)[1:]),),
        tokens=tokens,
    )


def transfer() -> Transfer:
    names = ("faithfulness", "toxicity", "truthfulness", "brevity", "citations")
    sets = {name: "a" * 64 for name in ("faithfulness", "toxicity", "truthfulness")}
    return Transfer(
        model="Qwen/Qwen2.5-1.5B-Instruct@01234567",
        vectors=dict.fromkeys(names, "0123456789abcdef"),
        sets=sets,
        rows=tuple(
            row(arm, f"{name}/{category}", 0.5 + 0.1 * place)
            for name in sets
            for category in ("conflict", "gold")
            for place, arm in enumerate(("none", *names))
        ),
        command="steerable transfer *.safetensors --test a.jsonl --test b.jsonl",
    )


def sweep() -> Sweep:
    rows = tuple(
        DevRow(
            arm="grains eos mean" if not control else "random",
            strength=strength,
            scope="last_prompt",
            layers=None,
            prompts=120,
            success=0.5 + 2 * strength,
            unsteered=0.5,
            capability={"closed_book": 0.99 - abs(strength), "reading": 0.98},
            loss={"closed_book": abs(strength), "reading": 0.0},
            complete=True,
            is_control=control,
        )
        for control in (False, True)
        for strength in (-0.1, -0.05, 0.05, 0.1)
    )
    kept = {"closed_book": 0.99, "reading": 0.98}
    return Sweep(VECTORS["faithful"], rows[3], rows, 0.5, kept, 0.01)


def benchmark() -> BenchmarkReport:
    label = "faithfulness +0.05"
    arms = ("none", label, f"{label}: random", f"{label}: sign_flipped", "prompt")
    groups = ("high_school_european_history", "professional_psychology")
    items = [
        ItemRow(
            id=str(n),
            group=groups[n % 2],
            arm=arm,
            run=run,
            question=QUESTION,
            expected="B",
            answer="B" if (n + place) % 3 else "D",
            score=float(bool((n + place) % 3)),
            kl_per_token=0.01 * place,
        )
        for place, arm in enumerate(arms)
        for run in range(3 if arm.endswith("random") else 1)
        for n in range(24)
    ]
    return BenchmarkReport(
        benchmark="mmlu",
        title="MMLU",
        paper="Hendrycks et al. 2021 (arXiv 2009.03300)",
        metric="share of questions whose likeliest choice is the right one",
        model="Qwen/Qwen2.5-1.5B-Instruct@01234567",
        data="cais/mmlu on the Hub, split test",
        data_digest="c" * 64,
        total=14042,
        left_out=("7",),
        seed=0,
        settings={"prompt": "5 examples of the same subject", "scoring": "log-likelihood"},
        subjects={label: {"strength": 0.05, "scope": "last_prompt", "layers": None}},
        rows=tuple(score_rows(items, 0)),
        group_rows=tuple(r for group in groups for r in score_rows(items, 0, group)),
        items=tuple(items),
        library_version="0.2.0",
        command="steerable evaluate faithfulness.safetensors --benchmark mmlu",
    )


def gate() -> Page:
    figures = GateFigures(
        auc=share(0.913),
        caught=share(0.85),
        false_alarms=share(0.075),
        roc=tuple(
            RocPoint(threshold=t / 20, caught=1 - t / 20, false_alarms=(1 - t / 20) ** 3)
            for t in range(21)
        ),
        bad=60,
        good=140,
    )
    training = {
        "reasons": ["rude"], "steps": None, "trained_on": {"bad": 140, "good": 320},
        "log_sha256": "b" * 64, "held_out": 0.3, "seed": 0,
    }  # fmt: skip
    made = word_gate("rude")
    described = type(made)(
        made.name, made.weights, made.bias, made.threshold, made.embedder,
        made.embedder_fingerprint, training,
    )  # fmt: skip
    return gate_card(TrainedGate(described, figures), "steerable policy train-gate answers.db")


def curation() -> CurationReport:
    def aside(by: str, why: str) -> SetAside:
        return SetAside(by, why, "run-0192-4711", "When does the library open?", ANSWER, REMEMBERED)

    why = "the good answer is not in the passages"
    return CurationReport(
        failures=83,
        pairs=41,
        by_source={"correction": 30, "another answer": 8, "proposal/steered": 3},
        left_out={"no good answer": 9},
        filters=(
            FilterCount("near duplicates", 60, {"says what another pair says": 4}),
            FilterCount("groundedness", 56, {why: 7}, not_judged=2),
        ),
        examples=(
            aside("near duplicates", "says what another pair says"),
            *(aside("groundedness", why) for _ in range(7)),
        ),
        wrong_retrieval=(aside("wrong retrieval", "no passage has the answer"),),
        misled=1,
        proposed=5,
        accepted=2,
        scrubbed={"email address": 12, "telephone number": 3},
        near_duplicates=True,
        judged=True,
    )


def modes() -> Modes:
    pairs = Pairs([PreferencePair(QUESTION, good=ANSWER, bad=REMEMBERED)])
    names = ("mode-1-when-does-the-library-of-lyon-open", "mode-2-what-does-the-order")
    return Modes(tuple(Mode(n, pairs[0], pairs) for n in names), {2: 0.31, 3: 0.22}, 0.18)


POLICY = """
default_step = "answer"

[steps.answer]
vectors = [{ name = "faithful", strength = 0.25 }, { name = "polite" }]
match = { node = ["gen[1-9]"] }
when = { context = "present", conflict = { from = 1.0, to = 4.0 } }

[steps.condense_the_question]
inherits = "answer"
steer_structured = true

[steps.plain]
vectors = []
"""


def policy() -> Page:
    read = Policy.from_dict(tomllib.loads(POLICY), VECTORS)
    calls = [
        TracedCall(node="generate_an_answer", tags=("production", "steer:answer"), context=True),
        TracedCall(prompt_type="text_qa"),
    ]
    return Page("", [_steps_table(check_policy(read)), _trace_table(calls, dry_run(read, calls))])


def attribution() -> Page:
    tokens = ("<|bos|>", *QUESTION.split(" "))
    scores = torch.linspace(-1, 1.5, len(tokens))
    return attribution_page(
        [
            PairAttribution(
                pair_id="answer-0192-4711-of-the-library",
                token_ids=tuple(range(len(tokens))),
                tokens=tuple(f" {token}" for token in tokens),
                segments=("template", *["context"] * 20, *["question"] * (len(tokens) - 21)),
                scores=scores,
                selectable=(False, *[True] * (len(tokens) - 1)),
                positive=(len(tokens) - 1, len(tokens) - 2),
                negative=(1,),
                value=1.5,
                baseline_value=-0.5,
                completeness_error=0.07,
                good=ANSWER,
                bad=REMEMBERED,
            )
        ]
    )


def inspected() -> Page:
    shown = vector("faithfulness").with_evaluation(report().summary())
    return facts_page(summary(shown))


def board() -> Page:
    boards = {"faithfulness": comparison(), "toxicity": comparison()}
    ground = GROUNDS["smollm2"]
    return Leaderboard(ground, ground.size, boards, "cpu (x86_64), float32", "python -m x").page()


PAGES: dict[str, Callable[[], Page]] = {
    "report": lambda: report().page(),
    "report-terminal": lambda: report().table(),
    "comparison": lambda: comparison().page(),
    "comparison-terminal": lambda: comparison().table(),
    "ablations": lambda: ablations().page(),
    "leaderboard": board,
    "transfer": lambda: transfer().page(),
    "transfer-terminal": lambda: transfer().table(),
    "sweep-terminal": lambda: sweep().table(),
    "benchmark": lambda: benchmark().page(),
    "benchmark-terminal": lambda: benchmark().table(),
    "gate": gate,
    "curation": lambda: curation().page(),
    "modes": lambda: modes().page(),
    "policy-terminal": policy,
    "attribution": attribution,
    "inspect-terminal": inspected,
}


def strings(page: Page) -> Iterator[str]:
    """Every cell and heading of its tables."""
    for part in page.parts:
        if isinstance(part, Table):
            yield from (column.title for column in part.columns)
            yield from (plain(cell) for row in part.rows for cell in row)
        elif isinstance(part, Facts):
            yield from (word for name, words in part.rows for word in (name, plain(words)))
