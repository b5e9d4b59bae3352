"""The verb that runs EleutherAI's lm-evaluation-harness with steered models."""

from __future__ import annotations

import sys

import typer

from steerable_llm.errors import MissingExtraError


def lm_eval(context: typer.Context) -> None:
    """Run the lm-evaluation-harness, with steered models.

    Everything after the verb goes to `lm_eval` as it is, which then knows one model more:
    `--model steerable`, steered by --model_args vector=FILE,strength=0.05 or policy=FILE,step=NAME.
    """
    try:
        from lm_eval.__main__ import cli_evaluate

        # Registers the model; the harness looks for no plugins by itself.
        import steerable_llm.adapters.lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"the harness is not installed ({error}): pip install 'steerable-llm[benchmarks]'"
        ) from error
    sys.argv = ["lm_eval", *context.args]
    cli_evaluate()
