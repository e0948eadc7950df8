from __future__ import annotations

import signal

import pytest

from ferrule.cli.demo_model import SMOLLM2


@pytest.fixture
def cached(smollm2, tmp_path, monkeypatch):
    """The demo's model in the user's cache, and no package index to ask for it."""
    folder = tmp_path / "cache" / "ferrule"
    folder.mkdir(parents=True)
    (folder / SMOLLM2.member.rpartition("/")[2]).symlink_to(smollm2 / "smollm2-135m.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.realmodel
def test_demo_answers_a_question_offline(ferrule, cached):
    result = ferrule("demo", "--ask", "What is the capital of South Korea?")
    assert result.exit_code == 0, result.output
    assert "Seoul" in result.stdout


@pytest.mark.realmodel
def test_demo_serves_under_the_models_own_name(start, cached):
    server = start("demo", "--port", "0")
    server.wait_for("Serving SmolLM2-135M-Instruct at http://127.0.0.1:", seconds=120)
    server.wait_for("/v1/chat/completions")
    server.process.send_signal(signal.SIGTERM)
    server.end()
    assert server.process.returncode == 0
