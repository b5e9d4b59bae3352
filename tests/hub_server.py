"""A small Hugging Face Hub on 127.0.0.1: the endpoints that huggingface_hub calls, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote

import huggingface_hub
import pytest
from huggingface_hub import constants

TOKEN = "hf_theRightOne"
READ_ONLY = "hf_mayOnlyRead"


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else None
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """What the server holds and has been asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.large: tuple[str, ...] = ()  # suffixes that go through git LFS
        self.uploads: dict[str, bytes] = {}
        self.endpoint = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._handle()

    do_PUT = do_GET = do_HEAD = do_POST

    def _handle(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                method(self, body, *found.groups())
                return
        self._reply(404, {"error": "no such endpoint"})

    def _reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _may(self, *tokens: str) -> bool:
        return self.headers.get("Authorization") in {f"Bearer {token}" for token in tokens}

    def _repository(self, name: str, write: bool = False) -> Repository | None:
        """The repository, if it is there for whoever asks; else the reply is sent."""
        found = self.hub.repositories.get(name)
        if found and (not found.private or self._may(TOKEN, READ_ONLY)):
            if not write or self._may(TOKEN):
                return found
            self._reply(403, {"error": "You have no right to write here"})
            return None
        # As on the Hub, what one may not see is not there.
        status = 404 if self._may(TOKEN, READ_ONLY) else 401
        self._reply(status, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        return None

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self._may(TOKEN):
            status = 403 if self._may(READ_ONLY) else 401
            self._reply(status, {"error": "You have no right to this"})
        elif name in self.hub.repositories:
            url = f"{self.hub.endpoint}/{name}"
            self._reply(409, {"error": "You already created this model repo", "url": url})
        else:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.hub.repositories[name] = Repository(private)
            self._reply(200, {"url": f"{self.hub.endpoint}/{name}"})

    def info(self, _body: bytes, name: str) -> None:
        if repository := self._repository(name):
            self._reply(200, {"id": name, "private": repository.private})

    def revision(self, _body: bytes, name: str, revision: str) -> None:
        if repository := self._repository(name):
            commit, files = repository.at(revision) or ("", {})
            siblings = [{"rfilename": file} for file in files]
            self._reply(200, {"id": name, "sha": commit, "siblings": siblings})

    def tree(self, _body: bytes, name: str, revision: str, folder: str | None = None) -> None:
        """List a folder, and what lies in those below it only if that is asked for."""
        if repository := self._repository(name):
            _, files = repository.at(revision) or ("", {})
            above = f"{folder}/" if folder else ""
            entries: dict[str, dict[str, Any]] = {}
            for path, content in files.items():
                below, _, further = path.removeprefix(above).partition("/")
                if not path.startswith(above):
                    continue
                if further:
                    one = above + below
                    entries[one] = {"type": "directory", "path": one, "oid": "0" * 40}
                if not further or "recursive=true" in self.path.lower():
                    size = len(content)
                    entries[path] = {"type": "file", "path": path, "size": size, "oid": "0" * 40}
            status = 200 if entries or not folder else 404
            self._reply(status, list(entries.values()), {"X-Error-Code": "EntryNotFound"})

    def paths(self, body: bytes, name: str, revision: str) -> None:
        """Tell of single files, as `datasets` asks before it reads one."""
        if repository := self._repository(name):
            _, files = repository.at(revision) or ("", {})
            asked = parse_qs(body.decode())["paths"]
            self._reply(200, [
                {"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40}
                for path in asked
                if path in files
            ])  # fmt: skip

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        if "license: [" in text:
            self._reply(400, {"errors": [{"message": "license is not valid"}], "warnings": []})
        else:
            self._reply(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, _revision: str) -> None:
        if self._repository(name, write=True):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(self.hub.large) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        if self._repository(name, write=True):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._reply(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        self.hub.uploads[oid] = body
        self._reply(200, b"")

    def commit(self, body: bytes, name: str, _revision: str) -> None:
        repository = self._repository(name, write=True)
        if repository is None:
            return
        files = dict(repository.commits[-1][1]) if repository.commits else {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        oid = hashlib.sha1(f"{name}{len(repository.commits)}".encode()).hexdigest()
        repository.commits.append((oid, files))
        url = f"{self.hub.endpoint}/{name}/commit/{oid}"
        self._reply(200, {"success": True, "commitUrl": url, "commitOid": oid})

    def resolve(self, _body: bytes, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        found = repository.at(revision)
        if found is None:
            self._reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file not in found[1]:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
        else:
            etag = hashlib.sha256(found[1][file]).hexdigest()
            self._reply(200, found[1][file], {"X-Repo-Commit": found[0], "ETag": f'"{etag}"'})


_REPO = r"([\w.-]+/[\w.-]+)"
_DATA = r"(datasets/[\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"POST /api/repos/create", _Handler.create),
    (rf"GET /api/models/{_REPO}", _Handler.info),
    (rf"GET /api/models/{_REPO}/revision/([\w.-]+)", _Handler.revision),
    (rf"GET /api/models/{_REPO}/tree/([\w.-]+)", _Handler.tree),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPO}/preupload/(\w+)", _Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.upload),
    (rf"POST /api/models/{_REPO}/commit/(\w+)", _Handler.commit),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/([\w.-]+)/([\w.-]+)", _Handler.resolve),
    (rf"GET /api/{_DATA}", _Handler.info),
    (rf"GET /api/{_DATA}/revision/([\w.-]+)", _Handler.revision),
    (rf"GET /api/{_DATA}/tree/([\w.-]+)(?:/(.+))?", _Handler.tree),
    (rf"POST /api/{_DATA}/paths-info/([\w.-]+)", _Handler.paths),
    (rf"(?:GET|HEAD) /{_DATA}/resolve/([\w.-]+)/(.+)", _Handler.resolve),
]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve an empty Hub for the length of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running Hub, with the right token; huggingface_hub has read its environment long ago."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
        # What cannot be reached is tried again at once; the waits come to minutes.
        unhurried = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
        monkeypatch.setattr("huggingface_hub.utils._http.time", unhurried)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        huggingface_hub.close_session()
