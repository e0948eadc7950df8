from __future__ import annotations

import pytest

from ferrule.cli.answering import answer, load
from ferrule.engine.options import EngineOptions
from ferrule.errors import RequestError


@pytest.fixture
def llm(tiny_llama):
    options = EngineOptions(model=str(tiny_llama), kv_cache_page_size=16, max_batch_size=1)
    return load(options)


def test_figures_tell_how_many_tokens_came_and_why_they_ended(llm, capsys):
    capsys.readouterr()
    answer(llm, "ab", {"max_tokens": 4, "ignore_eos": True})
    said = capsys.readouterr().err
    assert said.startswith("4 tokens, the first after ")
    assert "a second; cut by the limit on its length" in said


def test_a_single_token_has_no_rate(llm, capsys):
    capsys.readouterr()
    answer(llm, "ab", {"max_tokens": 1})
    assert "a second" not in capsys.readouterr().err


def test_options_reach_the_engine(llm):
    assert (llm.info.block_size, llm.info.max_batch_size) == (16, 1)


def test_a_model_without_a_tokenizer_says_what_it_can_do(tiny_llama):
    (tiny_llama / "tokenizer.json").unlink()
    llm = load(EngineOptions(model=str(tiny_llama), max_batch_size=1))
    with pytest.raises(RequestError, match="no tokenizer"):
        answer(llm, "ab", {}, is_raw=True)
