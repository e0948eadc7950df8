"""Writers of small checkpoints with the formats' own packages, and a Hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gguf
import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def save_safetensors():
    def save(file: Path, **tensors) -> Path:
        """Float32 tensors of the given shapes, or the arrays given, under the given names."""
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            name.replace("__", "."): np.ones(value, np.float32)
            if isinstance(value, tuple)
            else value
            for name, value in tensors.items()
        }
        save_file(arrays, file)
        return file

    return save


@pytest.fixture
def save_model(save_safetensors):
    def save(folder: Path) -> Path:
        """A directory with config, tokenizer and one file of weights."""
        save_safetensors(folder / "model.safetensors", model__embed_tokens__weight=(4, 2))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return save


@pytest.fixture
def write_gguf():
    def write(
        file: Path,
        tensors: Mapping[str, np.ndarray] | None = None,
        fill: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
        kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    ) -> Path:
        """A GGUF file by the gguf package; ``kinds`` are the types of tensors given as uint8."""
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(file, "llama")
        fill(writer)
        for name, array in (tensors or {}).items():
            writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return write


@dataclass
class FakeHub:
    """The part of the Hub's HTTP interface that a download uses.

    Repositories are files by name, files are bytes; ``requests`` lists what was asked for.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    status: int | None = None
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose bytes were sent."""
        found = (re.search(r"GET .*/resolve/[^/]+/(.+)", request) for request in self.requests)
        return {match[1] for match in found if match}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, format, *args):
        pass

    def _answer(self):
        hub: FakeHub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if token := self.headers.get("authorization"):
            hub.tokens.add(token)
        if hub.status is not None:
            return self._send(hub.status, b"{}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        if api:
            return self._describe(hub, api[1], api[2], api[3] or "main")
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if file is None or file[1] not in hub.repos:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if file[1] in hub.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        data = hub.repos[file[1]].get(file[3])
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return self._send(200, data, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _describe(self, hub, repo, what, revision):
        if repo not in hub.repos:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = hub.repos[repo]
        if what == "tree":
            answer = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in files.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            answer = {"id": repo, "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub on the loopback; the environment points to it and to an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    fake = FakeHub(url=f"http://127.0.0.1:{server.server_port}")
    server.hub = fake
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield fake
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub_model(save_model, tmp_path: Path) -> dict[str, bytes]:
    """The files of a small model, as a repository has them, with what should not be fetched."""
    folder = save_model(tmp_path / "hub-model")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "README.md": b"# A model",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"the same weights again",
        "original/tokenizer.model": b"",
        "onnx/model.onnx": b"another form",
    }
