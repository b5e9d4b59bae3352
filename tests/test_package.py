import subprocess
import sys

import pytest

import steerable_llm


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = (
        "import sys, steerable_llm; "
        "print([x for x in ('torch', 'transformers', 'langchain_core') if x in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", steerable_llm.__all__)
def test_every_public_name_loads(name):
    assert getattr(steerable_llm, name) is not None
    assert name in dir(steerable_llm)


def test_an_unknown_name_is_refused_like_in_any_module():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = steerable_llm.nonsense
