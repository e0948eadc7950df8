from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

SMALL = ("--kv-cache-page-size", "16", "--max-tokens", "6", "--ignore-eos", "--temperature", "0")


def test_the_answer_alone_goes_to_stdout(ferrule, tiny_llama):
    from ferrule.llm import LLM
    from ferrule.plan import SamplingParams

    result = ferrule("generate", tiny_llama, "--prompt", "ab", "--raw", *SMALL)
    assert result.exit_code == 0, result.output
    sampling = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    llm = LLM(tiny_llama, kv_cache_page_size=16, max_batch_size=1)
    assert result.stdout == llm.generate(["ab"], sampling)[0].text + "\n"
    assert "6 tokens" in result.stderr
    assert "loading weights" in result.stderr


def test_the_chat_template_is_used_unless_the_prompt_is_raw(ferrule, tiny_llama):
    prompt = "user: ab\nassistant: "
    chat = ferrule("generate", tiny_llama, "-p", "ab", *SMALL)
    raw = ferrule("generate", tiny_llama, "-p", prompt, "--raw", *SMALL)
    other = ferrule("generate", tiny_llama, "-p", "ab", "--raw", *SMALL)
    assert chat.stdout == raw.stdout != other.stdout


def test_a_prompt_comes_from_stdin_without_its_last_line_end(ferrule, tiny_llama):
    piped = ferrule("generate", tiny_llama, *SMALL, input="a\nb\n")
    given = ferrule("generate", tiny_llama, *SMALL, "--prompt", "a\nb")
    assert piped.exit_code == 0
    assert piped.stdout == given.stdout


def test_a_template_of_the_users_own_is_taken(ferrule, tiny_llama, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }}")
    given = ferrule("generate", tiny_llama, "-p", "ab", "--chat-template", template, *SMALL)
    raw = ferrule("generate", tiny_llama, "-p", "ab", "--raw", *SMALL)
    assert given.stdout == raw.stdout


def test_a_context_that_memory_does_not_hold_is_an_error(ferrule, tiny_llama):
    share = ("--max-length", "256", "--device-memory-utilization", "1e-9")
    result = ferrule("generate", tiny_llama, "-p", "ab", *share, *SMALL)
    assert result.exit_code == 1
    assert "256 tokens needs" in result.stderr
    assert "hint: " in result.stderr


@pytest.mark.parametrize("text", ["", "\n"])
def test_no_prompt_is_a_usage_error(ferrule, tiny_llama, text):
    result = ferrule("generate", tiny_llama, input=text)
    assert result.exit_code == 2
    assert "--prompt" in result.stderr


def test_bytes_that_are_no_text_are_an_error(ferrule, tiny_llama):
    result = ferrule("generate", tiny_llama, input=b"\xff\xfe")
    assert result.exit_code == 1
    assert "not UTF-8" in result.stderr


def test_contradictory_sampling_is_refused_before_the_model_is_opened(ferrule):
    result = ferrule("generate", "no-model", "-p", "a", "--min-tokens", "9", "--max-tokens", "3")
    assert result.exit_code == 1
    assert "min_tokens is 9" in result.stderr


def test_a_prompt_that_does_not_fit_is_an_error(ferrule, tiny_llama):
    result = ferrule("generate", tiny_llama, "-p", "a" * 300, *SMALL)
    assert result.exit_code == 1
    assert "256" in result.stderr
    assert result.stdout == ""


@pytest.fixture
def long_answer(tiny_llama):
    """A process whose answer has begun and goes on for many seconds."""
    path = tiny_llama / "config.json"
    config = {**json.loads(path.read_text()), "max_position_embeddings": 100_000}
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "ferrule", "generate", tiny_llama, "-p", "ab"]
    command += ["--num-kv-blocks", "1563", "--max-tokens", "90000", "--ignore-eos"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        yield process
        process.kill()


def test_a_reader_that_leaves_ends_it_quietly(long_answer):
    long_answer.stdout.close()
    assert b"Error" not in long_answer.stderr.read()
    assert long_answer.wait(60) == 1


def test_ctrl_c_ends_it_quietly(long_answer):
    long_answer.send_signal(signal.SIGINT)
    assert b"Traceback" not in long_answer.communicate()[1]
    assert long_answer.wait(60) == 130
