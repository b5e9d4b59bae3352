"""Vectors that meet in a block: how they relate, and how they are kept apart."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_models import vector

from steerable_llm.errors import PolicyError
from steerable_llm.policy.check import meetings
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.steered_step import orthogonalise
from steerable_llm.vector.steering import Application, Steering, Unit, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

A = vector("a", 1, 0, 0, 0)
B = vector("b", 1, 1, 0, 0)
AGAINST = vector("against", -1, 0.1, 0, 0)

numbers = st.integers(-5, 5).map(float)
directions = st.tuples(numbers, numbers, numbers, numbers).filter(any)


def test_the_cosine_is_that_of_what_is_added_sign_included() -> None:
    [meeting] = meetings(A.steer(0.5) + B.steer(0.3, layers=(1,)))
    assert (meeting.first, meeting.second) == ("a", "b")
    assert meeting.cosines == {1: pytest.approx(0.5**0.5)}
    [turned] = meetings(A.steer(0.5) + B.steer(-0.3, layers=(1,)))
    assert turned.cosines == {1: pytest.approx(-(0.5**0.5))}


def test_vectors_that_undo_each_other_fight_and_others_do_not() -> None:
    [fight] = meetings(A.steer(0.5) + AGAINST.steer(0.5, layers=(0, 2)))
    assert fight.fights == (0, 2)
    [peace] = meetings(A.steer(0.5) + B.steer(0.5))
    assert peace.fights == ()
    assert meetings(A.steer(0.5, layers=(0,)) + B.steer(0.5, layers=(1,))) == []
    assert meetings(A.steer(0.5) + B.steer(0)) == []


@pytest.mark.parametrize("unit", ["total", "relative", "absolute"])
def test_a_block_where_nothing_is_left_leaves_the_others_as_they_were(unit: Unit) -> None:
    first = A.steer(0.5, layers=(0,), unit=unit)
    twisted = replace(B, directions={0: A.directions[0], 1: B.directions[1], 2: B.directions[2]})
    steering, _ = orthogonalise(first + twisted.steer(0.3, unit=unit))
    before, after = twisted.steer(0.3, unit=unit).terms[0], steering.terms[1]
    assert after.steered_layers == (1, 2)
    for layer in (1, 2):
        torch.testing.assert_close(after.delta(layer), before.delta(layer))


@given(
    st.lists(directions, min_size=2, max_size=4),
    st.sampled_from(["total", "relative", "absolute"]),
)
def test_what_is_left_is_orthogonal_and_adds_up_with_what_was_taken(
    rows: list[tuple[float, ...]], unit: Unit
) -> None:
    steering = Steering.none()
    for number, row in enumerate(rows):
        steering += vector(f"v{number}", *row).steer(0.7 - number, layers=(1,), unit=unit)
    rank = int(torch.linalg.matrix_rank(torch.tensor(rows, dtype=torch.float64)))
    if rank < len(rows):
        return
    apart, shares = orthogonalise(steering)
    left = [term.delta(1).double() for term in apart.terms]
    for place, one in enumerate(left):
        for other in left[place + 1 :]:
            assert abs(float(one @ other)) <= 1e-5 * float(one.norm() * other.norm()) + 1e-9
    for before, after, (_, kept) in zip(steering.terms, left, shares, strict=True):
        whole = before.delta(1).double()
        # A projection: what is left is as long as stated, and what was taken is orthogonal to it.
        assert float(after.norm()) == pytest.approx(float(whole.norm()) * kept[1], rel=1e-4)
        assert float(after @ (whole - after)) == pytest.approx(0, abs=1e-4 * float(whole.norm()))


def test_the_first_vector_stays_as_it_is_and_later_ones_are_told_apart_by_name() -> None:
    apart, shares = orthogonalise(A.steer(0.5) + B.steer(0.5))
    first, second = apart.terms
    assert first.vector is A
    assert second.vector.name == "b-orthogonalised"
    assert second.vector.fingerprint_id != B.fingerprint_id
    assert shares[1] == ("b", {0: pytest.approx(0.5**0.5), 1: pytest.approx(0.5**0.5),
                                   2: pytest.approx(0.5**0.5)})  # fmt: skip


def test_vectors_that_are_orthogonal_already_stay_the_same() -> None:
    other = vector("c", 0, 0, 1, 0)
    assert orthogonalise(A.steer(0.5) + other.steer(0.5))[0].terms[1].vector is other


def test_what_a_gate_adds_is_orthogonal_whatever_the_state() -> None:
    rows = torch.tensor([[1.0, 1, 0, 0], [1.0, 0, 2, 0]])
    own = WeighedVectors(torch.eye(2, 4), torch.zeros(2), rows)
    gated = replace(
        vector("gated", 2, 1, 2, 0),
        application=Application("block", "weigh", "absolute", "generated", True),
        weighed=dict.fromkeys(range(3), own),
    )
    _, second = orthogonalise(A.steer(0.5) + gated.steer(1.0))[0].terms
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    added = second.delta_at(1, states)
    taken = gated.steer(1.0).terms[0].delta_at(1, states) - added
    assert float(added.norm()) > 0.1 < float(taken.norm())
    assert float((added @ A.directions[1]).abs().max()) < 1e-6
    assert float((taken * torch.tensor([0.0, 1, 1, 1])).norm()) < 1e-6
    # What comes after it is kept apart from all that it may add.
    later = vector("later", 1, 2, 3, 4)
    last = orthogonalise(gated.steer(1.0) + later.steer(1.0))[0].terms[1]
    assert float((rows @ last.delta(1)).norm()) < 1e-5


def test_only_blocks_on_which_both_act_change() -> None:
    apart, shares = orthogonalise(A.steer(0.5, layers=(0,)) + B.steer(0.5))
    kept = shares[1][1]
    assert kept == {0: pytest.approx(0.5**0.5), 1: 1.0, 2: 1.0}
    deltas = [apart.terms[1].delta(layer) for layer in range(3)]
    for one, other in pairwise(deltas[1:]):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(deltas[1], B.steer(0.5).terms[0].delta(1))


def test_a_vector_acts_no_longer_where_nothing_of_it_is_left() -> None:
    same = vector("same", 2, 0, 0, 0)
    part = orthogonalise(A.steer(0.5, layers=(0, 1)) + same.steer(0.5))[0]
    assert part.terms[1].steered_layers == (2,)
    with pytest.raises(PolicyError, match="nothing is left of vector 'same'"):
        orthogonalise(A.steer(0.5) + same.steer(0.5))


def test_a_vector_at_strength_zero_takes_nothing_from_others() -> None:
    assert orthogonalise(A.steer(0) + B.steer(0.5))[0].terms[1].vector is B


def test_a_policy_orthogonalises_the_steps_that_ask_for_it() -> None:
    uses = [{"name": "a"}, {"name": "b"}]
    steps = {"apart": {"vectors": uses, "orthogonalise": True}, "both": {"vectors": uses}}
    policy = Policy.from_dict({"steps": steps}, {"a": A, "b": B})
    assert [term.vector.name for term in policy.steering_for("apart").terms] == [
        "a",
        "b-orthogonalised",
    ]
    assert policy.steering_for("both").terms[1].vector is B
    steps["apart"]["vectors"] = [{"name": "a"}, {"name": "a"}]
    with pytest.raises(PolicyError, match=r"step 'apart': nothing is left"):
        Policy.from_dict({"steps": steps}, {"a": A, "b": B})


def seeing(name: str, *patches: tuple[float, ...], words: float = 0.0) -> SteeringVector:
    """A vector that turns states of two blocks of a vision tower, and perhaps of the decoder."""
    tower = torch.tensor(patches)
    return replace(
        vector(name, words, 0, 0, 0),
        application=Application("mlp", "turn", "absolute", "all", True),
        tower={0: tower if len(patches) > 1 else tower[0], 1: torch.tensor([0.0, 0, 1])},
    )


def test_what_is_seen_is_kept_apart_patch_by_patch() -> None:
    first = seeing("first", (1.0, 0, 0), (0.0, 1, 0))
    second = seeing("second", (1.0, 1, 0), (1.0, 1, 0), words=1)
    term = orthogonalise(first.steer(0.9) + second.steer(0.9))[0].terms[1]
    torch.testing.assert_close(term.tower[0], torch.tensor([[0.0, 1, 0], [1.0, 0, 0]]))
    assert not term.tower[1].any()
    torch.testing.assert_close(term.vector.directions[0], second.directions[0])
    # Built from images of one size, and from those of many.
    mean = seeing("mean", (3.0, 0, 0))
    term = orthogonalise(first.steer(0.9) + mean.steer(0.9))[0].terms[1]
    torch.testing.assert_close(term.tower[0], torch.tensor([1.5, -1.5, 0]))
    term = orthogonalise(mean.steer(0.9) + first.steer(0.9))[0].terms[1]
    torch.testing.assert_close(term.tower[0], torch.tensor([[0.0, 0, 0], [0, 1, 0]]))


def test_a_vector_of_the_tower_alone_is_not_said_to_have_nothing_left() -> None:
    first, second = seeing("first", (1.0, 0, 0)), seeing("second", (1.0, 1, 0))
    term = orthogonalise(first.steer(0.9) + second.steer(0.9))[0].terms[1]
    torch.testing.assert_close(term.tower[0], torch.tensor([0.0, 1, 0]))
    both = seeing("both", (0.0, 2, 0), words=1)
    same = seeing("same", (0.0, 2, 1), words=1)
    term = orthogonalise(both.steer(0.9) + same.steer(0.9))[0].terms[1]
    assert not any(direction.any() for direction in term.vector.directions.values())
    torch.testing.assert_close(term.tower[0], torch.tensor([0.0, 0, 1]))
    with pytest.raises(PolicyError, match="nothing is left of vector 'both'"):
        orthogonalise(both.steer(0.9) + both.steer(0.9))
