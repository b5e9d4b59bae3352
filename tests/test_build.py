"""The one call that turns pairs into a vector."""

import pytest
import torch

from steerable_llm.errors import AttributionError, InvalidInputError, PairError
from steerable_llm.methods.build import build, build_vector
from steerable_llm.pairs.pair import Pairs, PreferencePair

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")
PAIRS = Pairs(PreferencePair(f"Where is the shop in {c}?", "Here.", "There.") for c in "ABC")


def test_a_vector_says_where_it_comes_from(tiny_llm):
    vector = build_vector(tiny_llm, PAIRS, name="mine", preset="paper", k=2, progress=False)
    assert vector.name == "mine"
    assert vector.fingerprint == tiny_llm.fingerprint
    assert vector.provenance.method == "grains"
    assert vector.provenance.preset == "paper"
    assert vector.provenance.config["k"] == 2
    assert vector.provenance.data_digest == PAIRS.digest
    assert vector.calibration is None


def test_a_vector_says_how_many_of_its_pairs_were_proposed(tiny_llm):
    sources = ["log/x/proposal/refusal", "log/x/proposal/strict prompt/edited", "log/x/correction"]
    pairs = [
        PreferencePair(p.messages, p.good, p.bad, source=s)
        for p, s in zip(PAIRS, sources, strict=True)
    ]
    vector = build_vector(tiny_llm, pairs, method="caa", progress=False)
    assert (vector.provenance.pairs, vector.provenance.proposed_pairs) == (3, 2)


def test_the_same_pairs_give_the_same_vector(tiny_llm):
    one, two = (build_vector(tiny_llm, PAIRS, progress=False) for _ in range(2))
    assert one.fingerprint_id == two.fingerprint_id


def test_a_built_vector_can_be_saved_and_loaded(tiny_llm, tmp_path):
    vector = build_vector(tiny_llm, list(PAIRS), progress=False)
    loaded = type(vector).load(vector.save(tmp_path / "v.safetensors"), tiny_llm)
    assert all(torch.equal(loaded.directions[i], vector.directions[i]) for i in vector.layers)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "magic"}, "grains"),
        ({"preset": "thesis"}, "paper"),
        ({"k": 0}, "k"),
        ({"colour": 1}, "colour"),
        ({"baseline": "black"}, "baseline"),
    ],
)
def test_unknown_settings_are_refused_by_name(tiny_llm, options, problem):
    with pytest.raises(InvalidInputError, match=problem):
        build_vector(tiny_llm, PAIRS, progress=False, **options)


@pytest.mark.parametrize("method", ["prompt", "cad", "adacad"])
def test_what_learns_nothing_is_no_unknown_method_but_cannot_be_built(tiny_llm, method):
    with pytest.raises(
        InvalidInputError, match=f"no vector to build: .* compare --method {method}"
    ):
        build_vector(tiny_llm, PAIRS, method, progress=False)


def test_no_pairs_are_refused(tiny_llm):
    with pytest.raises(PairError, match="no pairs to build from: give at least one"):
        build_vector(tiny_llm, [], progress=False)


def test_progress_goes_to_stderr_with_the_pair_count(tiny_llm, capsys):
    build_vector(tiny_llm, PAIRS)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading pairs" in shown.err
    assert "3/3" in shown.err


def test_a_build_gives_the_vector_and_what_it_saw_in_each_pair_apart(tiny_llm):
    made = build(tiny_llm, PAIRS, progress=False)
    assert [one.pair_id for one in made.attributions] == [pair.id for pair in PAIRS]
    assert (
        made.vector.fingerprint_id == build_vector(tiny_llm, PAIRS, progress=False).fingerprint_id
    )
    assert build(tiny_llm, PAIRS, method="caa", progress=False).attributions == ()


def test_pairs_that_leave_nothing_but_zeros_are_an_error_and_no_vector(tiny_llm):
    """Centred components of deltas that are all the same are zero: such a vector steers nothing."""
    same = [PreferencePair("The shop opens at nine. When?", "At nine.", "At ten.")] * 3
    with pytest.raises(AttributionError, match="no direction in 3 pairs"):
        build_vector(tiny_llm, same, preset="paper", progress=False)
