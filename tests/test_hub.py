"""Vectors on the Hub, pushed to and loaded from a server that speaks its endpoints."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import steerable
from hub_server import READ_ONLY, TOKEN, hub
from huggingface_hub import constants

from steerable_llm.errors import HubError, InvalidInputError, ModelMismatchError
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.hub import hub_errors, local_file, push_to_hub
from steerable_llm.vector.vector import SteeringVector

__all__ = ["hub", "steerable"]

# The only tests with a socket, and it leads to this machine alone.
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
REPO = "acme/kindness"


@pytest.fixture
def vector(tiny_vector):
    return replace(tiny_vector, name="kindness").with_calibration(Calibration(0.08))


@pytest.fixture
def card(tmp_path):
    (tmp_path / "kindness.png").write_bytes(b"\x89PNG picture")
    (tmp_path / "kindness.sweep.png").write_bytes(b"\x89PNG sweep")
    path = tmp_path / "kindness.md"
    path.write_text(
        "# Steering vector `kindness`\n\n![Success](kindness.png)\n\n![Sweep](kindness.sweep.png)\n"
        "![Badge](https://example.org/badge.svg)\n"
    )
    return path


def test_a_vector_its_card_and_the_pictures_go_up_in_one_commit(hub, vector, card):
    pushed = push_to_hub(vector, REPO, card=card)
    [(commit, files)] = hub.repositories[REPO].commits
    assert pushed == f"hub:{REPO}@{commit}"
    assert sorted(files) == [
        "README.md", "kindness.png", "kindness.sweep.png", "vector.safetensors",
    ]  # fmt: skip
    front, _, text = files["README.md"].decode().removeprefix("---\n").partition("---\n")
    assert text.strip() == card.read_text().strip()
    assert "library_name: steerable-llm" in front
    assert "- steering-vector" in front
    assert files["kindness.png"] == card.with_name("kindness.png").read_bytes()


def test_what_was_pushed_is_what_is_loaded(hub, vector, tiny_llm, make_llm):
    pushed = push_to_hub(vector, REPO)
    for loaded in (
        SteeringVector.load(pushed, tiny_llm),
        SteeringVector.load(Path(f"hub:{REPO}")),
        SteeringVector.load(f"hub:{REPO}", tiny_llm),
    ):
        assert loaded.fingerprint_id == vector.fingerprint_id
        assert loaded.calibration == vector.calibration
    with pytest.raises(ModelMismatchError):
        SteeringVector.load(f"hub:{REPO}", make_llm("mistral"))


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub
def test_large_files_go_through_lfs(hub, vector):
    hub.large = (".safetensors",)
    assert SteeringVector.load(push_to_hub(vector, REPO)).fingerprint_id == vector.fingerprint_id
    assert len(hub.uploads) == 1


def test_a_commit_pins_a_vector(hub, vector):
    first = push_to_hub(vector, REPO)
    push_to_hub(vector.negated(), REPO)
    commit = first.partition("@")[2]
    assert SteeringVector.load(first).fingerprint_id == vector.fingerprint_id
    assert SteeringVector.load(f"hub:{REPO}@{commit}").fingerprint_id == vector.fingerprint_id
    assert SteeringVector.load(f"hub:{REPO}").fingerprint_id == vector.negated().fingerprint_id


def test_what_was_loaded_once_is_there_without_a_network(hub, vector, monkeypatch):
    pushed = push_to_hub(vector, REPO)
    local_file(pushed)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert SteeringVector.load(pushed).fingerprint_id == vector.fingerprint_id
    assert len(hub.requests) == asked
    with pytest.raises(HubError, match=r"acme/other.*HF_HUB_OFFLINE"):
        SteeringVector.load("hub:acme/other")


def test_a_repository_is_private_unless_asked_otherwise(hub, vector):
    push_to_hub(vector, REPO)
    push_to_hub(vector, "acme/open", private=False)
    assert hub.repositories[REPO].private
    assert not hub.repositories["acme/open"].private


def test_what_is_to_be_private_does_not_go_to_a_public_repository(hub, vector):
    push_to_hub(vector, REPO, private=False)
    with pytest.raises(HubError, match=r"public already.*--public"):
        push_to_hub(vector, REPO)
    assert len(hub.repositories[REPO].commits) == 1
    push_to_hub(vector.negated(), REPO, private=False)
    assert len(hub.repositories[REPO].commits) == 2


def test_without_a_card_the_readme_says_that_nothing_is_proven(hub, vector):
    push_to_hub(vector, REPO)
    text = hub.repositories[REPO].commits[0][1]["README.md"].decode()
    assert "No evaluation came with this vector" in text
    assert "images" not in text


def test_without_a_card_the_readme_says_how_much_of_what_was_selected_is_image(hub, vector):
    provenance = replace(vector.provenance, facts={"image_share": 0.5})
    push_to_hub(replace(vector, provenance=provenance), REPO)
    text = hub.repositories[REPO].commits[0][1]["README.md"].decode()
    assert "| Selected positions in images | 50 % |" in text
    assert f'SteeringVector.load("hub:{REPO}")' in text
    assert "base_model" not in text


@pytest.mark.parametrize(
    ("model_id", "named"),
    [("Qwen/Qwen2.5-1.5B", True), ("steerable-llm/demo", False), ("/models/x", False)],
)
def test_the_base_model_is_named_where_the_hub_has_it(hub, model_id, named, vector):
    fingerprint = vector.fingerprint.model_copy(update={"model_id": model_id})
    push_to_hub(replace(vector, fingerprint=fingerprint), REPO)
    text = hub.repositories[REPO].commits[0][1]["README.md"].decode()
    assert (f"base_model: {model_id}" in text) == named


def test_front_matter_of_a_card_is_kept(hub, vector, card):
    card.write_text("---\nlicense: mit\n---\n\n# Mine\n")
    push_to_hub(vector, REPO, card=card)
    assert hub.repositories[REPO].commits[0][1]["README.md"].decode() == card.read_text()


def test_front_matter_that_the_hub_does_not_take_is_refused(hub, vector, card):
    card.write_text("---\nlicense: [\n---\n\n# Mine\n")
    with pytest.raises(HubError, match="license is not valid"):
        push_to_hub(vector, REPO, card=card)
    assert hub.repositories[REPO].commits == []


@pytest.mark.parametrize("name", ["vector.safetensors", "README.md"])
def test_no_picture_takes_the_place_of_the_vector_or_of_the_card(hub, vector, card, name):
    (card.parent / name).write_bytes(b"no vector")
    card.write_text(f"![x]({name})")
    with pytest.raises(InvalidInputError, match="take the place of the vector"):
        push_to_hub(vector, REPO, card=card)
    assert REPO not in hub.repositories


def test_a_card_in_another_encoding_is_one_line(hub, vector, card):
    card.write_bytes("# Güte".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="is not UTF-8 text"):
        push_to_hub(vector, REPO, card=card)


def test_a_picture_whose_name_has_blanks_goes_up_under_that_name(hub, vector, card):
    (card.parent / "my güte.png").write_bytes(b"\x89PNG mine")
    card.write_text("![x](my%20g%C3%BCte.png)")
    push_to_hub(vector, REPO, card=card)
    assert hub.repositories[REPO].commits[-1][1]["my güte.png"] == b"\x89PNG mine"


@pytest.mark.parametrize(
    "picture", ["missing.png", "../secret.png", "..%2Fsecret.png", "/etc/hostname"]
)
def test_a_card_takes_no_other_files_along(hub, vector, card, picture):
    (card.parent.parent / "secret.png").write_bytes(b"secret")
    card.write_text(f"![x]({picture})")
    with pytest.raises(InvalidInputError, match="does not lie beside it"):
        push_to_hub(vector, REPO, card=card)
    assert hub.requests == []


def test_a_missing_card_is_named(hub, vector, tmp_path):
    with pytest.raises(InvalidInputError, match=r"no card .*none\.md"):
        push_to_hub(vector, REPO, card=tmp_path / "none.md")
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_wrongOne", READ_ONLY])
def test_a_token_without_the_right_is_told_and_never_printed(hub, vector, token):
    with pytest.raises(HubError, match=r"refuses \(40[13]\).*hf auth login") as caught:
        push_to_hub(vector, REPO, token=token)
    assert token not in str(caught.value)
    assert hub.repositories == {}


def test_a_private_vector_needs_a_login(hub, vector, monkeypatch):
    push_to_hub(vector, REPO)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(HubError, match=r"hub:acme/kindness.*hf auth login"):
        SteeringVector.load(f"hub:{REPO}")
    assert (
        SteeringVector.load(f"hub:{REPO}", token=READ_ONLY).fingerprint_id == vector.fingerprint_id
    )


def test_missing_repositories_revisions_and_files_are_told_apart(hub, vector):
    push_to_hub(vector, REPO)
    hub.repositories[REPO].commits.append(("f" * 40, {"README.md": b"nothing else"}))
    for name, problem in (
        ("acme/none", "no such repository"),
        (f"{REPO}@v9", "no such revision"),
        (REPO, r"no vector\.safetensors"),
    ):
        with pytest.raises(HubError, match=problem):
            SteeringVector.load(f"hub:{name}")


def test_a_hub_that_is_not_there_is_told(hub, vector, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it tries again"))
    monkeypatch.setattr("huggingface_hub.utils._http.time", time)
    with pytest.raises(HubError, match="cannot be reached"):
        push_to_hub(vector, REPO)
    with pytest.raises(HubError, match="cannot be reached"):
        SteeringVector.load(f"hub:{REPO}")


@pytest.mark.parametrize("name", ["hub:kindness", "hub:a/b/c", "hub:", "hub:a/b@"])
def test_names_that_are_no_repository_are_refused(name):
    with pytest.raises(InvalidInputError, match="hub:organisation/name"):
        SteeringVector.load(name)


@pytest.mark.parametrize("name", ["kindness", "a/b/c"])
def test_a_repository_has_an_organisation(name, vector):
    with pytest.raises(InvalidInputError, match="organisation/name"):
        push_to_hub(vector, name)


def test_names_that_the_hub_does_not_allow_are_refused():
    with pytest.raises(HubError, match="cannot load hub:a/--b"):
        SteeringVector.load("hub:a/--b")


def test_a_token_in_a_message_would_not_be_printed():
    with pytest.raises(HubError) as caught, hub_errors("push"):
        raise RuntimeError(f"Authorization: Bearer {TOKEN}")
    assert str(caught.value) == "cannot push: Authorization: Bearer hf_***"


def test_faults_of_this_library_stay_what_they_are():
    with pytest.raises(KeyError), hub_errors("push"):
        raise KeyError("name")


def test_a_vector_is_not_saved_onto_the_hub(vector):
    with pytest.raises(InvalidInputError, match="steerable push"):
        vector.save("hub:acme/kindness")


def test_the_command_line_takes_the_hub_and_the_token_from_its_environment(
    hub, vector, card, tmp_path
):
    vector.save(tmp_path / "kindness.safetensors")
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN": TOKEN,
    }
    command = [
        sys.executable,
        "-m",
        "steerable_llm",
        "push",
        "kindness.safetensors",
        REPO,
        "--json",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    [(commit, files)] = hub.repositories[REPO].commits
    assert json.loads(done.stdout) == {"vector": f"hub:{REPO}@{commit}", "card": "kindness.md"}
    assert "kindness.sweep.png" in files
    assert TOKEN not in done.stdout + done.stderr


def test_every_command_reads_a_vector_from_the_hub(hub, vector, steerable):
    pushed = push_to_hub(vector, REPO)
    assert steerable.json("inspect", pushed)["fingerprint"] == vector.fingerprint_id
    steerable("export", pushed, "--format", "svec", "--out", "kindness.svec")
    assert Path("kindness.svec").is_file()


def test_a_refused_push_is_one_line_without_the_token(hub, vector, steerable, monkeypatch):
    push_to_hub(vector, REPO)
    vector.save("kindness.safetensors")
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    error = steerable.error("push", "kindness.safetensors", REPO)
    assert error.startswith(f"steerable: cannot push to {REPO}: the Hub refuses (403)")
    assert READ_ONLY not in error
