from __future__ import annotations

import json
import shlex

import msgspec
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from ferrule.cli.summary import base_url, curl, show_summary
from ferrule.engine.messages import EngineInfo
from ferrule.frontend.model import ServedModel
from ferrule.plan import LoraInfo, SamplingParams
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.tokenizer import Tokenizer

INFO = EngineInfo(
    architecture="llama",
    weight_adapter="torch-compile + huggingface",
    dtype="bfloat16",
    device="cuda:0",
    max_length=8192,
    vocab_size=300,
    num_blocks=100,
    block_size=64,
    max_batch_size=256,
    weight_bytes=3 * 1024**3,
    kv_bytes=5 * 1024**2,
    notes=["the file counts"],
)


def served(*, has_tokenizer=True, has_template=True, name="mine"):
    tokenizer = Tokenizer(Backend(models.BPE(vocab={"a": 0}, merges=[])), special_tokens={})
    return ServedModel(
        names=(name,),
        created=0,
        tokenizer=tokenizer if has_tokenizer else None,
        template=ChatTemplate("", {}) if has_template else None,
        sampling=SamplingParams(),
        notes=("num_beams is not used",),
    )


def parsed(command):
    """The URL's path and the body that a shell would hand to curl."""
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:1] == ["curl"]
    assert "Content-Type: application/json" in words
    return words[1].removeprefix("http://h:1"), json.loads(words[words.index("-d") + 1])


def test_a_model_with_a_template_is_asked_through_chat():
    path, body = parsed(curl(served(), "http://h:1"))
    assert path == "/v1/chat/completions"
    assert body["model"] == "mine"
    assert body["messages"][0]["role"] == "user"


def test_a_model_without_a_template_gets_a_text_to_continue():
    path, body = parsed(curl(served(has_template=False), "http://h:1"))
    assert path == "/v1/completions"
    assert isinstance(body["prompt"], str)


def test_a_model_without_a_tokenizer_gets_token_ids():
    path, body = parsed(curl(served(has_tokenizer=False, has_template=False), "http://h:1"))
    assert path == "/v1/completions"
    assert body["return_token_ids"] is True
    assert all(isinstance(token, int) for token in body["prompt"])


def test_a_name_with_quotes_can_be_pasted():
    _, body = parsed(curl(served(name='it\'s "mine" $HOME'), "http://h:1"))
    assert body["model"] == 'it\'s "mine" $HOME'


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box.lan", "http://box.lan:80"),
    ],
)
def test_the_address_is_one_that_a_client_here_can_use(host, url):
    assert base_url(host, 80) == url


def test_the_summary_tells_what_is_served_and_where(capsys):
    show_summary(served(), INFO, host="0.0.0.0", port=8123)
    text = " ".join(capsys.readouterr().err.split())
    for part in (
        "llama, weights read by torch-compile + huggingface",
        "3 GiB as bfloat16 on cuda:0",
        "8192 tokens",
        "6400 tokens, 5 MiB",
        "up to 256 requests",
        "note the file counts",
        "note num_beams is not used",
        "Serving mine at http://127.0.0.1:8123/v1 (on every interface of this machine)",
    ):
        assert part in text


def adapter(summary, *kinds):
    return LoraInfo(content=summary, location="here", kinds=list(kinds), summary=summary)


def test_what_adapters_touch_alike_is_told_once(capsys):
    loras = {
        "a": adapter("rank 8, scale 2, 60 modules, 1.8 MB", "q_proj", "v_proj"),
        "b": adapter("rank 4, scale 1, 30 modules, 0.4 MB", "up_proj"),
        "c": adapter("rank 16, scale 1, 60 modules, 3.7 MB", "q_proj", "v_proj"),
    }
    info = msgspec.structs.replace(INFO, loras=loras, max_lora_rank=16, lora_bytes=1024**2)
    show_summary(served(), info, host="h", port=1)
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("adapters"))
    assert lines[start].endswith("3 loaded, up to rank 16, 1 MiB on the device")
    assert [line.lstrip() for line in lines[start + 1 : start + 6]] == [
        "in q_proj, v_proj:",
        "a: rank 8, scale 2, 60 modules, 1.8 MB",
        "c: rank 16, scale 1, 60 modules, 3.7 MB",
        "in up_proj:",
        "b: rank 4, scale 1, 30 modules, 0.4 MB",
    ]
