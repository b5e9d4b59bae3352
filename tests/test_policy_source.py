"""A policy file that changes counts from the next request on; a broken one changes nothing."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from policy_models import MODEL, VECTORS

from steerable_llm.errors import InvalidInputError, ModelMismatchError, PolicyError
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.source import PolicySource
from steerable_llm.vector.file import read_vector_file, write_vector_file

STEP = '[steps.answer]\nvectors = [{{ name = "{}", strength = {} }}]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for vector in VECTORS.values():
        vector.save(tmp_path / f"{vector.name}.safetensors")
    path = tmp_path / "policy.toml"
    path.write_text(STEP.format("faithful", 0.1))
    return path


def rewrite(path: Path, text: str) -> None:
    """Writes the file and makes sure that its time differs, as it does in life."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    later = max(path.stat().st_mtime_ns, before + 1_000_000)
    os.utime(path, ns=(later, later))


def source_of(path: Path) -> PolicySource:
    return PolicySource(path, lambda policy: policy.check(MODEL))


def strength(source: PolicySource) -> float:
    policy = source.current()
    assert policy is not None
    return policy.steering_for("answer").terms[0].strength


def test_a_changed_file_counts_from_the_next_request_on(file: Path) -> None:
    source = source_of(file)
    first = source.current()
    assert source.current() is first
    rewrite(file, STEP.format("faithful", 0.2))
    assert strength(source) == 0.2
    changed = source.current()
    assert changed is not first
    assert changed is not None
    assert first is not None
    assert changed.digest != first.digest


def test_a_file_of_the_same_size_counts_too(file: Path) -> None:
    source = source_of(file)
    rewrite(file, STEP.format("faithful", 0.3))
    assert strength(source) == 0.3


def test_a_file_that_was_replaced_with_the_same_time_and_size_counts_too(file: Path) -> None:
    source, before = source_of(file), file.stat()
    beside = file.with_suffix(".new")
    beside.write_text(STEP.format("faithful", 0.7))
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.replace(file)
    assert strength(source) == 0.7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[steps", "not valid TOML"),
        ("", "has no steps"),
        # What a file holds while an editor writes it, and what no parser goes through.
        ('vectors_dir = "."\n', "has no steps"),
        pytest.param(f"x = {'[' * 5000}{']' * 5000}", "not valid TOML", id="nested"),
        (STEP.format("fathful", 0.2), "did you mean 'faithful'"),
        ("enabld = false", "did you mean 'enabled'"),
        # What Python's own readers stumble over.
        pytest.param(STEP.format("faithful", "1" + 5_000 * "0"), "not valid TOML", id="digits"),
        pytest.param(STEP.format("faithful", "1" + 400 * "0"), "401 characters", id="no float"),
        pytest.param(STEP.format("faithful", "1e300"), "no model bears", id="overflows"),
        pytest.param(
            'vectors_dir = "' + 5_000 * "x" + '"\n' + STEP.format("faithful", 0.2),
            "check vectors_dir",
            id="long path",
        ),
        pytest.param(
            'vectors_dir = "a\\u0000b"\n' + STEP.format("faithful", 0.2),
            "not a known vector",
            id="no path",
        ),
        pytest.param("#" + 11_000_000 * "x", "more than 10 MB", id="huge file"),
        pytest.param(
            "[steps.a0]\n"
            + "".join(f'[steps.a{i}]\ninherits = "a{i - 1}"\n' for i in range(1, 3_000)),
            "inherits over more than 32 steps",
            id="inherits",
        ),
        pytest.param("[steps.answer]\ncontrast = 1e308", "less than or equal", id="contrast"),
    ],
)
def test_a_broken_file_keeps_the_old_policy_and_warns_once(
    file: Path, text: str, said: str
) -> None:
    source = source_of(file)
    before = source.current()
    rewrite(file, text)
    with pytest.warns(UserWarning, match="the policy read before stays") as caught:
        assert source.current() is before
    assert said in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.current() is before
    rewrite(file, STEP.format("faithful", 0.4))
    assert strength(source) == 0.4


def test_a_file_that_goes_away_keeps_the_policy_until_it_is_back(file: Path) -> None:
    source = source_of(file)
    text = file.read_text()
    file.unlink()
    with pytest.warns(UserWarning, match="cannot read the policy file"):
        assert strength(source) == 0.1
    rewrite(file, text.replace("0.1", "0.5"))
    assert strength(source) == 0.5


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("strength", [1]),
        ("strength", None),
        ("strength", "much"),
        ("layers", "01"),
        ("layers", [[1]]),
        ("layers", [99]),
        ("scope", 3),
        ("unit", []),
        ("choice", 3),
        ("earlier", {"a": 1}),
    ],
)
def test_a_vector_whose_calibration_cannot_be_read_keeps_the_old_policy(
    file: Path, fact: str, value: Any
) -> None:
    source = source_of(file)
    path = file.with_name("polite.safetensors")
    content, directions, _, _ = read_vector_file(path)
    content["calibration"] = {**content["calibration"], fact: value}
    write_vector_file(path, content, directions)
    rewrite(file, '[steps.answer]\nvectors = [{ name = "polite" }]\n')
    with pytest.warns(UserWarning, match="the policy read before stays") as caught:
        assert strength(source) == 0.1
    assert "\n" not in str(caught[0].message)
    assert len(str(caught[0].message)) < 400


def test_an_error_that_nobody_thought_of_keeps_the_old_policy(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(file)
    rewrite(file, STEP.format("faithful", 0.2))

    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("line one\nline two")

    monkeypatch.setattr(Policy, "load", fail)
    with pytest.warns(UserWarning, match="ZeroDivisionError: line one line two"):
        assert strength(source) == 0.1


def test_a_mark_that_editors_write_before_a_file_is_read_over(file: Path) -> None:
    source = source_of(file)
    rewrite(file, "\ufeff" + STEP.format("faithful", 0.2))
    assert strength(source) == 0.2


def test_a_vector_of_another_model_keeps_the_old_policy(file: Path) -> None:
    other = MODEL.model_copy(update={"weights_hash": "x"})
    from dataclasses import replace

    foreign = replace(VECTORS["polite"], fingerprint=other)
    foreign.save(file.with_name("polite.safetensors"))
    source = source_of(file)
    rewrite(file, STEP.format("polite", 0.2))
    with pytest.warns(UserWarning, match="was built for"):
        assert strength(source) == 0.1


def test_at_the_start_a_broken_file_is_an_error(file: Path) -> None:
    rewrite(file, "[steps")
    with pytest.raises(PolicyError):
        source_of(file)
    rewrite(file, STEP.format("polite", 0.2))
    with pytest.raises(ModelMismatchError):
        PolicySource(file, lambda policy: policy.check(MODEL.model_copy(update={"num_layers": 5})))


def test_a_policy_that_is_no_file_stays() -> None:
    policy = Policy.from_dict({"steps": {"answer": {}}})
    assert PolicySource(policy, lambda _: None).current() is policy
    assert PolicySource(None, lambda _: None).current() is None


@pytest.mark.parametrize(("given", "kind"), [({"steps": {}}, "dict"), (5, "int"), (b"p", "bytes")])
def test_what_is_neither_a_policy_nor_a_path_is_told_in_one_line(given: Any, kind: str) -> None:
    for made in (lambda: PolicySource(given, lambda _: None), lambda: Policy.load(given)):
        with pytest.raises(InvalidInputError, match=f"policy is a {kind}: give the path") as caught:
            made()
        assert "\n" not in str(caught.value)


def test_threads_see_whole_policies_only_and_the_last_one_wins(file: Path) -> None:
    text = "[steps.{0}]\nvectors = [{{ name = '{0}', strength = {1} }}]\n"
    versions = [text.format(name, 0.1) for name in VECTORS]
    rewrite(file, versions[0])
    source = source_of(file)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            policy = source.current()
            assert policy is not None
            [step] = policy.steps
            if [term.vector.name for term in policy.steering_for(step).terms] != [step]:
                wrong.append(step)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(12):
        # In one step, as an editor that saves safely does: readers may not see half a file.
        beside = file.with_suffix(".new")
        beside.write_text(versions[number % 3])
        os.utime(beside, ns=(number * 10**9, number * 10**9))
        beside.replace(file)
        assert list(source.current().steps) == [list(VECTORS)[number % 3]]  # type: ignore[union-attr]
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_looking_whether_the_file_changed_reads_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(file)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the file was read")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert strength(source) == 0.1
