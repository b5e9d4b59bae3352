"""A policy in one piece is the same policy, wherever it is opened."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from steerable_llm.errors import PolicyError
from steerable_llm.policy.packed import PackedPolicy
from steerable_llm.policy.policy import KILL_SWITCH, Policy

POLICIES = sorted((Path(__file__).resolve().parent.parent / "vectors" / "policies").glob("*.toml"))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_comes_out_as_it_went_in(path: Path) -> None:
    policy = Policy.load(path)
    opened = pickle.loads(pickle.dumps(PackedPolicy.of(policy))).open()
    assert opened.digest == policy.digest
    assert {name: each.fingerprint_id for name, each in opened.vectors.items()} == {
        name: each.fingerprint_id for name, each in policy.vectors.items()
    }
    assert {name: each.fingerprint_id for name, each in opened.gates.items()} == {
        name: each.fingerprint_id for name, each in policy.gates.items()
    }
    for step in policy.steps:
        assert opened.step_for(step) == step
        assert len(opened.steered_step(step).parts) == len(policy.steered_step(step).parts)


def test_what_was_changed_on_its_way_is_refused() -> None:
    packed = PackedPolicy.of(Policy.load(POLICIES[0]))
    name, file = next(iter(packed.vectors.items()))
    other = replace(packed, vectors={**packed.vectors, name: file[:-1] + bytes([file[-1] ^ 1])})
    with pytest.raises(PolicyError, match="own checksum"):
        other.open()


def test_a_policy_that_was_packed_obeys_the_switch_where_it_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = Policy.load(POLICIES[0])
    on, packed = policy.digest, PackedPolicy.of(policy)
    monkeypatch.setenv(KILL_SWITCH, "1")
    assert packed.open().off == policy.off is not None
    assert packed.open().digest == policy.digest != on
