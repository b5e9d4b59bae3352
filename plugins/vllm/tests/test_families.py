"""Each family that is steered answers as the hooked model does, for every scope."""

import json
import subprocess
from pathlib import Path

import pytest

from steerable_llm import Steering
from steerable_llm.answer.request import GenerationRequest
from steerable_vllm.terms import sent
from tests.serving import plain_environment
from tests.tiny import FAMILIES, Family, saved

SCOPES = ("all", "prompt", "generated", "last_prompt", "decision")
LENGTH = 6
TEXT = "The shop opens at nine and closes at six. When does the shop open?"


def steerings(family: Family) -> list[Steering]:
    """Return one per scope, one that mixes them, and none."""
    many = [family.vector.steer(2.0, scope=scope) for scope in SCOPES]
    mixed = many[0] + family.vector.steer(-1.0, layers=(1,), scope="generated", renormalise=False)
    return [*many, mixed, Steering.none()]


@pytest.fixture(scope="module")
def answered(tmp_path_factory, vllm_python) -> dict[str, tuple[Family, list[list[int]]]]:
    families = {name: saved(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}
    jobs = [
        {
            "model": str(family.folder / "model"),
            "vectors": str(family.folder / "vectors"),
            "length": LENGTH,
            "prompts": [
                [family.llm.encode(TEXT), sent(each) if each.is_active else None]
                for each in steerings(family)
            ],
        }
        for family in families.values()
    ]
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "told.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "inside" / "offline.py"
    command = [vllm_python, str(script), str(folder / "told.json"), str(folder / "answers.json")]
    # Not from here: the project's folder would come before what vLLM's Python has installed.
    own = {"cwd": folder, "env": plain_environment()}
    done = subprocess.run(command, capture_output=True, text=True, **own)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((folder / "answers.json").read_text())
    return dict(zip(families, zip(families.values(), answers, strict=True), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_answers_as_the_hooked_model_for_every_scope(name, answered) -> None:
    family, found = answered[name]
    end = family.llm.end_ids
    requests = [GenerationRequest(TEXT, each, max_new_tokens=LENGTH) for each in steerings(family)]
    wanted = [list(answer.token_ids) for answer in family.llm.generate_batch(requests)]
    cut = [_until(tokens, end) for tokens in found]
    assert cut == wanted
    assert len({tuple(tokens) for tokens in wanted}) >= 3, "the scopes make no difference"


def _until(tokens: list[int], end: frozenset[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in end:
            return tokens[: place + 1]
    return tokens
