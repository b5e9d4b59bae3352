"""What matters for a vector: GrAInS with one thing changed at a time (paper section 5.3, figure 3).

Run ``python -m experiments.ablations``.

Every ablation keeps all but one thing as the reference has it. What is left open, such as the
strength, is chosen on dev for each arm by itself; test is read once.

| name | what changes |
|---|---|
| `attribution` | how tokens are scored (table 6), none verified, random tokens among them |
| `objective` | preference against the likelihood of the good answer alone (table 8) |
| `k` | how many tokens are taken away per sign |
| `strength` | how hard the reference pushes |
| `layers` | which blocks are steered: all, one, a third |
| `pairs` | how many pairs are learnt from, in several orders: the learning curve |
| `tokens` | what taking attributed tokens away does to the preference (figure 3) |
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from pydantic import BaseModel
from rich.console import Console

from experiments.token_ablation import TokenAblation, token_ablation
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.cli.options import load_model, settings_of
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.evaluation.compare import Result, Trial
from steerable_llm.evaluation.comparison import Comparison
from steerable_llm.evaluation.recipes import Data, Recipe
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.files import check_writable
from steerable_llm.methods.build import build, validated
from steerable_llm.methods.grains.grains import GrainsConfig
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.page import Page, check_suffix
from steerable_llm.reports.parts import Heading, Part, Text
from steerable_llm.vector.calibration import Calibration

REFERENCE = "reference"
SIZES = (10, 25, 50, 100)
KS = (1, 3, 5, 10, 20)
STRENGTHS = (0.12, 0.3, 0.48, 0.72, 1.2)
_MOST_SINGLE_LAYERS = 6


@dataclass(frozen=True)
class Base:
    """What the arms of an ablation are made from.

    Attributes:
        config: Settings of GrAInS that all of them share.
        depth: Blocks of the model.
        pairs: How many there are.
        sizes: Of the learning curve.
        seeds: Orders of the learning curve, and draws of the random scores.
        chosen: What dev chose for the reference.
    """

    config: Mapping[str, Any]
    depth: int
    pairs: int
    sizes: Sequence[int]
    seeds: int
    chosen: Calibration | None

    def recipe(self, **changed: Any) -> Recipe:
        """The reference's recipe with other settings of GrAInS."""
        return Recipe("grains", ({**self.config, **changed},))

    def value(self, name: str) -> Any:
        """What the reference has for a setting."""
        return GrainsConfig.model_validate(self.config).model_dump()[name]


Arms = dict[str, tuple[Recipe, ...]]


@dataclass(frozen=True)
class Ablation:
    """One thing that is changed.

    Attributes:
        title: The heading.
        says: What changes and what stays.
        axis: What the picture's axis is called.
        arms: From the base to names and recipes; several recipes are averaged per prompt.
            An empty tuple stands for the reference.
    """

    title: str
    says: str
    axis: str
    arms: Callable[[Base], Arms] = field(repr=False)


def _attribution(base: Base) -> Arms:
    found: Arms = {}
    own = (base.value("attribution"), base.value("verified"))
    for name in ("conservative", "integrated_gradients", "smoothgrad", "gradient"):
        made = (base.recipe(attribution=name, verified=0),)
        found[_name("attribution", name)] = () if own == (name, 0) else made
    if base.value("verified"):
        found[_name("verified", base.value("verified"))] = ()
    found["attribution random"] = tuple(
        base.recipe(attribution="random", verified=0, seed=seed) for seed in range(base.seeds)
    )
    return found


def _settings(base: Base, setting: str, values: Sequence[Any]) -> Arms:
    return {
        _name(setting, value): ()
        if value == base.value(setting)
        else (base.recipe(**{setting: value}),)
        for value in values
    }


def _strength(base: Base) -> Arms:
    if base.chosen is None:  # the reference failed on dev, and the report says so
        return {}
    sign = 1 if base.chosen.strength > 0 else -1
    found: Arms = {}
    for size in sorted({*STRENGTHS, abs(base.chosen.strength)}):
        given = replace(base.chosen, strength=sign * size, remark="set by an ablation")
        made = (replace(base.recipe(), calibration=given),)
        name = _name("strength", f"{given.strength:+g}")
        found[name] = () if given.strength == base.chosen.strength else made
    return found


def _layers(base: Base) -> Arms:
    subsets: dict[str, tuple[int, ...]] = {}
    third = -(-base.depth // 3)
    for name, start in (("early third", 0), ("middle third", third), ("late third", 2 * third)):
        if members := tuple(range(start, min(start + third, base.depth))):
            subsets[name] = members
    step = max(1, -(-base.depth // _MOST_SINGLE_LAYERS))
    subsets |= {f"only {layer}": (layer,) for layer in range(0, base.depth, step)}
    found: Arms = {"layers all": ()}
    for name, members in subsets.items():
        search = {"layers": (members,)}
        found[_name("layers", name)] = (replace(base.recipe(), search=search),)
    return found


def _pairs(base: Base) -> Arms:
    fewer = [size for size in base.sizes if size < base.pairs]
    found: Arms = {
        _name("pairs", size): tuple(
            replace(base.recipe(), pairs=size, order=order) for order in range(base.seeds)
        )
        for size in fewer
    }
    found[_name("pairs", base.pairs)] = ()
    return found


def _name(ablation: str, value: object) -> str:
    return f"{ablation} {str(value).replace('_', ' ')}"


#: Every ablation that makes arms, by name; `tokens` is measured apart.
ABLATIONS: dict[str, Ablation] = {
    "attribution": Ablation(
        "How tokens are scored",
        "The tokens to take away are chosen by conservative gradients, by integrated gradients, "
        "by SmoothGrad, by the plain gradient, or at random (several draws, averaged per prompt), "
        "none of them verified; and by verified scores, where the reference has them. Paper, "
        "table 6.",
        "attribution",
        _attribution,
    ),
    "objective": Ablation(
        "What is attributed",
        "The preference of the good over the bad answer, or the likelihood of the good answer "
        "alone. Paper, table 8.",
        "objective",
        lambda base: _settings(base, "objective", ("preference", "likelihood")),
    ),
    "k": Ablation(
        "How many tokens per sign",
        "k of eq. 3.",
        "k",
        lambda base: _settings(base, "k", sorted({*KS, base.value("k")})),
    ),
    "strength": Ablation(
        "How hard to push",
        "Scope, layers and sign as dev chose them for the reference; the strength is set. These "
        "figures are read from test and choose nothing. Without a strength of the reference that "
        "helps on dev there is nothing to set others against.",
        "strength, in units of the residual norm, all blocks together",
        _strength,
    ),
    "layers": Ablation(
        "Which blocks are steered",
        "All blocks, a third of them, or one; strength and scope are chosen on dev for each.",
        "blocks",
        _layers,
    ),
    "pairs": Ablation(
        "How many pairs",
        "The learning curve: the first pairs of several random orders, so that fewer are always "
        "among more; averaged per prompt, every order is a small dot. All pairs have one order.",
        "pairs",
        _pairs,
    ),
}
NAMES = (*ABLATIONS, "tokens")


class Section(BaseModel, frozen=True, extra="forbid"):
    """Arms that differ in one thing.

    Attributes:
        name: Of what differs, such as "k"; in the names of files.
        arms: Their names, in order.
    """

    name: str
    arms: tuple[str, ...]


class AblationReport(Comparison):
    """A comparison of the settings of one method.

    Attributes:
        sections: Arms that belong together.
        tokens: What masking attributed tokens does, if that was measured.
    """

    sections: tuple[Section, ...] = ()
    tokens: TokenAblation | None = None

    @property
    def title(self) -> str:
        """The heading of all forms."""
        return f"What matters for changing {self.target}"

    def page(self) -> Page:
        """A picture and a table per section, then what every comparison shows."""
        parts: list[Part] = [Text(self.introduction)]
        for section in self.sections:
            told = ABLATIONS[section.name]
            picture = self.picture(section.name, section.arms, f"{section.name} ", told.axis)
            table = self.table_of(self._rows(section))
            parts += [Heading(told.title), Text(told.says), picture, table]
        if self.tokens is not None:
            parts += self.tokens.parts()
        return Page(self.title, [*parts, *self.tables()])

    def _rows(self, section: Section) -> list[Row]:
        """On the target: the unsteered model first, then in the section's order."""
        rows = {row.arm: row for row in self.rows if row.category == self.target}
        return [rows[name] for name in ("none", *section.arms) if name in rows]


def ablate(
    llm: SteerableHFLLM,
    pairs: Pairs,
    dev: EvaluationSet,
    test: EvaluationSet,
    ablations: Sequence[str] = NAMES,
    capability: EvaluationSet | None = None,
    *,
    dev_capability: EvaluationSet | None = None,
    config: Mapping[str, Any] | None = None,
    sizes: Sequence[int] = SIZES,
    seeds: int = 3,
    keep: str | os.PathLike[str] | None = None,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> AblationReport:
    """Change one thing at a time in GrAInS and measure what it does.

    Data, `keep` and settings are those of `compare`. The reference has the settings of GrAInS in
    `config`; `sizes` beyond the pairs at hand are left out of the learning curve, and `seeds`
    counts its orders, and the draws of random scores.

    Raises:
        InvalidInputError: An unknown ablation, setting or target, prompts that are not held out, or
            prompts that cannot be judged.
        PairError: No pairs.
    """
    wanted = list(dict.fromkeys(ablations))
    for name in wanted:
        if name not in NAMES:
            raise InvalidInputError(f"unknown ablation {name!r}: choose from {', '.join(NAMES)}")
    if seeds < 1 or not sizes or min(sizes) < 2:
        raise InvalidInputError("give at least one seed, and sizes of at least 2 pairs")
    shared = dict(config or {})
    validated("grains", GrainsConfig, shared)
    data = Data(pairs, dev, test, dev_capability, capability)
    trial = Trial.of(llm, data, replace(settings, **changes), keep)
    base = Base(shared, len(llm.blocks), len(pairs), sizes, seeds, None)
    results = [
        trial.run("none"),
        trial.run("prompt", Recipe("prompt")),
        trial.run(REFERENCE, base.recipe()),
    ]
    base = replace(base, chosen=next(iter(results[-1].calibrations), None))
    sections = []
    for name in wanted:
        if name in ABLATIONS:
            made = ABLATIONS[name].arms(base)
            results += [
                # The reference stands in each section, under the section's name for it.
                trial.run(arm, *by) if by else _renamed(results[2], arm)
                for arm, by in made.items()
            ]
            sections.append(Section(name=name, arms=tuple(made)))
    return AblationReport(
        **dict(trial.comparison(results)),
        sections=tuple(sections),
        tokens=_tokens(trial, shared) if "tokens" in wanted else None,
    )


def _renamed(result: Result, name: str) -> Result:
    arm = result.arm.model_copy(update={"name": name, "seconds": 0.0})
    rows = tuple(row.model_copy(update={"arm": name}) for row in result.rows if row.arm != "none")
    return result.model_copy(update={"arm": arm, "rows": rows})


def _tokens(trial: Trial, config: Mapping[str, Any]) -> TokenAblation:
    llm, pairs, how = trial.llm, trial.data.pairs, trial.settings
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the token scores miss", UserWarning)
        built = build(llm, pairs, name=REFERENCE, progress=how.progress, **config)
    chosen = GrainsConfig.model_validate(config)
    return token_ablation(
        llm, built.attributions, chosen.baseline, chosen.attribution, seed=how.seed
    )


def main() -> None:
    """Measure what is missing, write the reports and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablations", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("pairs", type=Path, help="pairs to learn from (JSON lines)")
    parser.add_argument("--dev", type=Path, required=True, help="evaluation set to choose on")
    parser.add_argument("--test", type=Path, required=True, help="held-out evaluation set")
    parser.add_argument("--ablation", action="append", choices=(*NAMES, "all"), default=None)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--size", action="append", type=int, help="of the learning curve")
    parser.add_argument("--seeds", type=int, default=3, help="orders, and draws of random scores")
    parser.add_argument("--sample", type=int, help="at most so many prompts of every category")
    parser.add_argument("--keep", type=Path, help="folder of finished results")
    parser.add_argument("--capability", type=Path, help="held-out set of what must not be lost")
    parser.add_argument("--dev-capability", type=Path, help="the same for choosing on dev")
    parser.add_argument("--target", help="category that is to be changed")
    parser.add_argument("--budget", type=float, default=0.01, help="share of capability to lose")
    parser.add_argument("--report", action="append", type=Path, default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo", help="Hugging Face id or folder, or 'demo'")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    given = parser.parse_args()
    try:
        found = _measured(given)
    except SteerableError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if given.json:
        print(found.model_dump_json(indent=2))
        return
    Console().print(found.table())
    for arm in found.arms:
        if arm.failed:
            print(f"{arm.name} did not take part: {arm.failed}")


def _measured(given: argparse.Namespace) -> AblationReport:
    for path in given.report:
        check_suffix(path, "a comparison")
        check_writable(path)
    named = {"dev": given.dev, "test": given.test}
    named |= {"capability": given.capability, "dev_capability": given.dev_capability}
    sets: dict[str, Any] = {n: EvaluationSet.from_jsonl(path) for n, path in named.items() if path}
    if given.sample is not None:
        sets = {name: items.sample(given.sample, given.seed) for name, items in sets.items()}
    asked = given.ablation or ["all"]
    found = ablate(
        load_model(given.model, None),
        Pairs.from_jsonl(given.pairs),
        **sets,
        ablations=NAMES if "all" in asked else asked,
        config=settings_of(given.settings),
        target=given.target,
        budget=given.budget,
        sizes=given.size or SIZES,
        seeds=given.seeds,
        seed=given.seed,
        progress=not given.json,
        command=f"python -m experiments.ablations {shlex.join(sys.argv[1:])}",
        keep=given.keep,
    )
    for path in given.report:
        found.save(path)
    return found


if __name__ == "__main__":
    main()
