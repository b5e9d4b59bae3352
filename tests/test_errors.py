import pickle

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from steerable_llm import errors

CLASSES = [x for x in vars(errors).values() if isinstance(x, type)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_hangs_on_the_one_root(error):
    assert issubclass(error, errors.SteerableError)


@pytest.mark.parametrize("error", CLASSES)
def test_the_tree_in_the_docstring_names_every_error(error):
    assert error.__name__ in errors.__doc__.split("Catch ")[0].split()


@pytest.mark.parametrize("error", CLASSES)
def test_no_error_is_one_that_frameworks_take_for_an_unreadable_answer(error):
    # LlamaIndex's synthesizers, extractors and selectors go on after any of these.
    assert not issubclass(error, ValueError | TypeError | AttributeError | LookupError)


def test_a_missing_package_can_be_caught_as_the_builtin_it_is():
    assert issubclass(errors.MissingExtraError, ImportError)


def test_a_validator_tells_pydantic_of_an_error_of_ours_and_where_it_was():
    class Basket(BaseModel):
        fruit: str
        eggs: int

        @field_validator("fruit")
        @classmethod
        @errors.told_to_pydantic()
        def _sound(cls, value):
            if value == "bad":
                raise errors.InvalidInputError("it is rotten")
            return {}[value]

    with pytest.raises(ValidationError) as caught:
        Basket(fruit="bad", eggs="many")
    assert [problem["loc"] for problem in caught.value.errors()] == [("fruit",), ("eggs",)]
    assert errors.first_problem(caught.value) == "fruit: it is rotten"
    with pytest.raises(KeyError):
        Basket(fruit="unheard of", eggs=1)


def test_a_prompt_too_long_says_all_three_lengths_and_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.PromptTooLongError(300, 20, 256, which="pair x")))
    assert (error.prompt_tokens, error.max_new_tokens, error.context_window) == (300, 20, 256)
    message = str(error)
    assert message.startswith("pair x: the prompt has")
    assert "300" in message
    assert "20" in message
    assert "256" in message
    assert "\n" not in message
