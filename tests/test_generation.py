import math

import pytest
from conftest import LAYERS

from steerable_llm.answer.request import AppliedVector, GenerationRequest, Usage
from steerable_llm.errors import InvalidInputError
from steerable_llm.vector.steering import Steering


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "give at least 1"),
        ({"temperature": -1.0}, "greedy"),
        ({"temperature": math.nan}, "greedy"),
        ({"top_p": 0.0}, "above 0"),
        ({"top_p": 1.1}, "at most 1"),
        ({"top_k": -1}, "0 \\(off\\)"),
        ({"stop": ""}, "not empty"),
        ({"stop": ["a", ""]}, "not empty"),
        ({"stop": 5}, "list of texts"),
        ({"stop": [5]}, "not empty"),
        ({"max_new_tokens": "12"}, "whole number"),
        ({"max_new_tokens": 2.5}, "whole number"),
        ({"temperature": "0.5"}, "greedy"),
        ({"top_p": "0.5"}, "a number above 0"),
        ({"top_k": 2.5}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": 2**64}, "64 bits"),
        ({"steering": 0.1}, "vector.steer"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InvalidInputError, match=message):
        GenerationRequest("Hi", **setting)


def test_one_stop_text_may_be_given_without_a_list():
    assert GenerationRequest("Hi", stop="END").stops == ("END",)
    assert GenerationRequest("Hi", stop=["a", "b"]).stops == ("a", "b")
    assert GenerationRequest("Hi").stops == ()


def test_usage_adds_up():
    assert Usage(3, 4).total_tokens == 7


def test_an_applied_vector_is_plain_json(tiny_vector):
    (term,) = Steering.of(tiny_vector, -0.25).terms
    record = AppliedVector.of(term, 9).to_dict()
    assert record == {
        "name": tiny_vector.name,
        "fingerprint": tiny_vector.fingerprint_id,
        "strength": -0.25,
        "unit": "total",
        "scope": "generated",
        "layers": list(range(LAYERS)),
        "site": "block",
        "steered_tokens": 9,
    }
