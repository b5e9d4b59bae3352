import pickle

import pytest

from steerable_llm import errors

CLASSES = [x for x in vars(errors).values() if isinstance(x, type)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_hangs_on_the_one_root(error):
    assert issubclass(error, errors.SteerableError)


@pytest.mark.parametrize("error", CLASSES)
def test_the_tree_in_the_docstring_names_every_error(error):
    assert error.__name__ in errors.__doc__.split("Catch ")[0].split()


def test_bad_input_can_be_caught_as_the_builtin_it_is():
    assert issubclass(errors.PairError, ValueError)
    assert issubclass(errors.ModelMismatchError, ValueError)
    assert issubclass(errors.UnknownStepError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_a_prompt_too_long_says_all_three_lengths_and_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.PromptTooLongError(300, 20, 256)))
    assert (error.prompt_tokens, error.max_new_tokens, error.context_window) == (300, 20, 256)
    message = str(error)
    assert "300" in message
    assert "20" in message
    assert "256" in message
    assert "\n" not in message
