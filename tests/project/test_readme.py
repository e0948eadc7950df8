"""The README: its set-up commands, its request and answer, and its script, on the real model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

FERRULE = [sys.executable, "-m", "ferrule"]
SECONDS = 200


@pytest.fixture
def readme(root, blocks):
    return [block for block in blocks if block.page == root / "README.md"]


@pytest.fixture
def request_and_answer(readme):
    """The README's curl command and the answer printed below it."""
    position = next(i for i, block in enumerate(readme) if block.text.startswith("curl "))
    return readme[position].text, json.loads(readme[position + 1].text)


@contextmanager
def demo_server():
    """``ferrule demo`` on a free port; gives its address when it is ready."""
    command = [*FERRULE, "demo", "--port", "0", "--devices", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = iter(process.stderr.readline, "")
            found = (re.search(r"Serving \S+ at (http://\S+)/v1", line) for line in said)
            match = next(filter(None, found), None)
            assert match is not None, "the server ended before it was ready"
            yield match[1]
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


def test_the_readme_has_exactly_the_two_set_up_commands(root):
    text = (root / "README.md").read_text()
    section = text.partition("## Set up\n")[2].partition("\n## ")[0]
    commands = re.findall(r"```console\n(.*?)\n```", section, re.S)
    assert commands == ["pip install . && ferrule demo", "pip install -e '.[dev]' && pytest"]


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text().splitlines()) <= 120


@pytest.mark.realmodel
def test_the_demo_answers_one_question_and_ends(demo_cache):
    asked = subprocess.run(
        [*FERRULE, "demo", "--ask", "What is the capital of South Korea?", "--devices", "cpu"],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert "Seoul" in asked.stdout
    assert "tokens" in asked.stderr


@pytest.mark.realmodel
def test_the_readmes_request_gets_the_readmes_answer(demo_cache, request_and_answer, blocks):
    curl, printed = request_and_answer
    url, body = re.search(r"curl (\S+).*?-d '(.*)'", curl, re.S).groups()
    (client_script,) = (b for b in blocks if b.note == "run with a server at http://127.0.0.1:8000")
    with demo_server() as address:
        url = url.replace("http://127.0.0.1:8000", address)
        answer = ask(url, body)
        more = {"logprobs": True, "top_logprobs": 2}
        described = ask(url, json.dumps(json.loads(body) | more))
        script = client_script.text.replace("http://127.0.0.1:8000", address)
        said = run_script(script)
    for one in (answer, printed):
        del one["id"], one["created"]
    assert answer == printed
    assert said.strip() == printed["choices"][0]["message"]["content"]
    # Sums in another order, of another processor say, must not turn the answer.
    for token in described["choices"][0]["logprobs"]["content"]:
        first, second = (top["logprob"] for top in token["top_logprobs"])
        assert first - second > 1, token


@pytest.mark.realmodel
def test_the_readmes_script_runs(readme, smollm2, tmp_path):
    (script,) = (block for block in readme if block.note == "run with a model at ./my-finetune")
    (tmp_path / "my-finetune").symlink_to(smollm2 / "llama")
    said = run_script(script.text, cwd=tmp_path)
    assert "Paris" in said
    assert "Seoul" in said


def ask(url, body):
    return httpx.post(url, content=body, timeout=SECONDS).raise_for_status().json()


def run_script(text, cwd=None):
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=SECONDS, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
