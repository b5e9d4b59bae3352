"""What a benchmark is: a task file of the lm-evaluation-harness, and what a report says of it.

The harness (0.4.13) reads the same files: `steerable lm-eval --include_path` with their folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from steerable_llm.errors import InvalidInputError, from_extra, unknown
from steerable_llm.evaluation.benchmarks.rows import ROWS

TASKS = Path(__file__).parent / "tasks"

Normalisation = Literal["sum", "token", "character"]
"""What a choice is scored by: the log-probability of its text, or the same per token or per
character. The end of turn is not counted, so that scores are those of the published protocols."""

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


@dataclass(frozen=True)
class Benchmark:
    """A task of the harness, and what its file says in `metadata`.

    Attributes:
        name: What it is called.
        config: The task file, as the harness takes it.
        title: What a report calls it; the name unless given.
        paper: Who proposed it, and the identifier of the paper.
        metric: What the score is, in words; the score itself is the first of `metric_list`.
        group: The column that groups questions, such as a subject; None for no groups.
        shots: Worked examples before each question, unless the user says otherwise.
        examples: The split that worked examples come from.
        normalise: What choices are scored by unless the user says otherwise.
        only_sums: Whether the metric is defined on plain log-probabilities alone.
        behaviour: Which strict instruction fits it; None where asking for better answers in so
            many words makes no sense.
        sample: Name of the bundled sample; the benchmark's own unless given.
        images: Columns that hold images. They stand where a prompt says `<image 1>` and so on, or
            else before it.
        facts: What else the task says of every question in numbers, such as whether the answer
            was yes.
        figures: What is reported beside the score: by name the facts whose sums are divided;
            a numerator alone is divided by the number of questions.
        plain: Those of the figures that are no shares.
        judged: Whether a judge rates the answers.
        configs: Whether the data set has a configuration for every group.
    """

    name: str
    config: Mapping[str, Any] = field(repr=False)
    title: str = ""
    paper: str = ""
    metric: str = ""
    group: str | None = None
    shots: int = 0
    examples: str | None = None
    normalise: Normalisation = "sum"
    only_sums: bool = False
    behaviour: str | None = None
    sample: str = ""
    images: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    figures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    judged: bool = False
    configs: bool = False

    @classmethod
    def load(cls, path: Path) -> Benchmark:
        """Read a task file.

        Raises:
            InvalidInputError: It is none, or an output type that cannot be compared.
            MissingExtraError: The harness is not installed.
        """
        config = _read(path)
        about = config.get("metadata") or {}
        name, kind = str(config.get("task", "")), config.get("output_type")
        if not name or kind not in ("multiple_choice", "generate_until"):
            raise InvalidInputError(
                f"{path} is no task that can be run: give it a name (task) and as output_type "
                "multiple_choice or generate_until"
            )
        for key, mend in (
            ("num_fewshot", "name shots and examples in metadata, and show the column `examples`"),
            ("gen_prefix", "let the answer begin by itself"),
        ):
            if config.get(key):
                raise InvalidInputError(
                    f"{path} has {key}, which is not known here: {mend}, or use `steerable lm-eval`"
                )
        known = {x.name for x in fields(cls)} - {"name", "config"}
        said = {key: value for key, value in about.items() if key in known}
        lists = {key: tuple(said[key]) for key in ("images", "facts", "plain") if key in said}
        unset = {"title": name, "metric": _score(config), "sample": name}
        return cls(name, config, **{**unset, **said, **lists})

    @property
    def chooses(self) -> bool:
        """Whether there are choices to score, and not an answer to write."""
        return bool(self.config["output_type"] == "multiple_choice")

    @property
    def score(self) -> str:
        """What the harness calls the score."""
        return _score(self.config)

    @property
    def split(self) -> str:
        """The part of the data that is asked."""
        return str(self.config.get("test_split") or self.config.get("validation_split") or "test")

    @property
    def max_new_tokens(self) -> int:
        """Where written answers are cut."""
        return int((self.config.get("generation_kwargs") or {}).get("max_gen_toks", 256))

    def shots_shown(self, wanted: int | None) -> int:
        """Return how many worked examples stand before each question.

        Raises:
            InvalidInputError: A negative number, or some where the benchmark has none.
        """
        if wanted is not None and wanted < 0:
            raise InvalidInputError(f"shots is {wanted}: give 0 or more")
        if wanted and not self.shots:
            raise InvalidInputError(f"{self.name} has no worked examples: leave shots out")
        return self.shots if wanted is None else wanted

    def normalisation(self, wanted: Normalisation | None) -> Normalisation | None:
        """Return what choices are scored by; None where answers are written.

        Raises:
            InvalidInputError: An unknown one, or one that the metric is not defined for.
        """
        if wanted is None:
            return self.normalise if self.chooses else None
        if wanted not in NORMALISATIONS:
            raise InvalidInputError(
                f"unknown normalisation {wanted!r}: choose one of {', '.join(NORMALISATIONS)}"
            )
        if not self.chooses or (self.only_sums and wanted != "sum"):
            raise InvalidInputError(
                f"{self.name} cannot be scored per {wanted}: its metric is {self.metric}; "
                "leave the normalisation out"
            )
        return wanted


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name, or by its task file.

    Raises:
        InvalidInputError: There is none; the message lists those there are.
        MissingExtraError: The harness is not installed.
    """
    if name in ROWS:
        return Benchmark.load(TASKS / f"{name}.yaml")
    if Path(name).suffix in (".yaml", ".yml"):
        return Benchmark.load(Path(name))
    raise InvalidInputError(unknown("benchmark", name, ROWS))


def _score(config: Mapping[str, Any]) -> str:
    first = (config.get("metric_list") or [{"metric": "acc"}])[0]["metric"]
    return str(getattr(first, "__name__", first))


def _read(path: Path) -> Mapping[str, Any]:
    """Read a task file with what it includes and the functions that it names."""
    with from_extra("benchmarks", "benchmarks need the lm-evaluation-harness"):
        from lm_eval.tasks._yaml_loader import load_yaml
    if not path.is_file():
        raise InvalidInputError(f"there is no task file {path}: give one of the harness's form")
    try:
        found: dict[str, Any] = load_yaml(path)
    # Whatever is wrong with a file of other people ends up here: its YAML, or its functions.
    except Exception as error:
        raise InvalidInputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return found
