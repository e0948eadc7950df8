"""A tiny checkpoint, a Hub on the loopback, llama.cpp's vocabularies, a SentencePiece trainer."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ferrule.checkpoint.gguf import read_gguf

_WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "while", "3", "dogs,", "über-quick,", "ran", "past"),
    *("42", "trees", "naïve", "café"),
]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 272,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "torch_dtype": "float32",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_tensors(config: dict = CONFIG) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names."""
    rng = np.random.default_rng(7)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items()
        }
    shapes["model.norm.weight"] = (hidden,)
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.normal(0, 0.08, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def _tokenizer() -> Tokenizer:
    """One token for each byte, then BOS and EOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="session")
def _tiny_llama_made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tiny_tensors(), folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE})
    )
    return folder


@pytest.fixture
def tiny_llama(_tiny_llama_made_once: Path, tmp_path: Path) -> Path:
    """The test's own directory with a Llama of two layers, a tokenizer and a chat template."""
    return Path(shutil.copytree(_tiny_llama_made_once, tmp_path / "tiny-llama"))


@pytest.fixture
def change_tensors():
    """``change_tensors(folder, drop=[...], add={...})`` rewrites a checkpoint's weights."""

    def change(folder: Path, *, drop=(), add=None, rename=lambda name: name) -> None:
        tensors = {**tiny_tensors(), **(add or {})}
        kept = {rename(name): each for name, each in tensors.items() if name not in drop}
        save_file(kept, folder / "model.safetensors")

    return change


@pytest.fixture(scope="session")
def vocab_metadata(data, tmp_path_factory) -> Callable[[str], Mapping[str, Any]]:
    """``vocab_metadata("qwen2")``: the metadata of one of llama.cpp's vocabulary files."""

    @functools.cache
    def read(name: str) -> Mapping[str, Any]:
        file = tmp_path_factory.mktemp("vocab") / f"{name}.gguf"
        file.write_bytes(gzip.decompress((data / f"vocab/ggml-vocab-{name}.gguf.gz").read_bytes()))
        return read_gguf(file).metadata

    return read


@pytest.fixture(scope="session")
def _interpreter() -> Iterator[subprocess.Popen[str]]:
    pytest.importorskip("triton", reason="triton exists for Linux only")
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("interpreter.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def interpreted(_interpreter) -> Callable[[str | Path], None]:
    """``interpreted(program)``: runs a text or a file in Triton's interpreter, which needs no GPU.

    Assertions are the program's own: it fails unless that runs to its end (interpreter.py).
    """

    def run(program: str | Path) -> None:
        is_file = isinstance(program, Path)
        asked = {
            "source": program.read_text() if is_file else program,
            "file": str(program) if is_file else "<program>",
        }
        _interpreter.stdin.write(json.dumps(asked) + "\n")
        _interpreter.stdin.flush()
        line = _interpreter.stdout.readline()
        assert line, "the interpreter's process has ended, and said why on stderr"
        answer = json.loads(line)
        assert answer["status"] == 0, answer["output"]

    return run


@pytest.fixture(scope="session")
def train_sentencepiece() -> Callable[..., bytes]:
    """``train_sentencepiece(model_type="unigram")``: a small model of the real trainer's making."""

    def train(**options: Any) -> bytes:
        rng = random.Random(0)
        lines = [" ".join(rng.choices(_WORDS, k=rng.randrange(3, 12))) for _ in range(300)]
        lines += ["".join(rng.choices("ab ", k=30)) for _ in range(100)]
        model = io.BytesIO()
        llama = {
            "model_type": "bpe",
            "vocab_size": 420,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "minloglevel": 2,
            # As in Llama's own model: several spaces may be one piece.
            "allow_whitespace_only_pieces": True,
            "split_by_whitespace": False,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **{**llama, **options}
        )
        return model.getvalue()

    return train


@pytest.fixture(scope="session")
def vectors(data) -> Callable[[str], list[tuple[str, list[int]]]]:
    """``vectors("qwen2")``: texts and the ids that llama.cpp's repository says are right."""

    def read(name: str) -> list[tuple[str, list[int]]]:
        base = data / f"vocab/ggml-vocab-{name}.gguf"
        texts = base.with_suffix(".gguf.inp").read_bytes().decode()
        lines = base.with_suffix(".gguf.out").read_text().splitlines()
        texts = texts.split("\n__ggml_vocab_test__\n")[:-1]
        return [
            (text, [int(token) for token in line.split()])
            for text, line in zip(texts, lines, strict=True)
        ]

    return read


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
