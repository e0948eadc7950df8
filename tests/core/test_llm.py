"""A model in this process: prompts in, answers out, and nothing left behind."""

from __future__ import annotations

import itertools
import json

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ferrule.errors import ContextLengthError, RequestError
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

# One token for each byte: the letters' ids, biased so that answers are readable.
LETTERS = "abcdefgh"
FIRST_LETTER = 64
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
READABLE = SamplingParams(
    seed=3,
    max_tokens=40,
    logit_bias={FIRST_LETTER + i: 60.0 for i in range(len(LETTERS))},
)


@pytest.fixture
def folder(tiny_llama, change_tensors):
    """A Llama with a head of its own: under a tied one, random layers repeat the last token."""
    config = json.loads((tiny_llama / "config.json").read_text())
    (tiny_llama / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    head = np.random.default_rng(8).normal(0, 0.3, (272, 64)).astype(np.float32)
    change_tensors(tiny_llama, add={"lm_head.weight": head})
    return tiny_llama


@pytest.fixture
def llm(folder):
    return LLM(folder, devices="cpu", max_batch_size=8, kv_cache_page_size=16)


@pytest.fixture
def reference(folder):
    """transformers on the same files: ``reference(tokens)`` gives log probabilities."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()

    def logprobs(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    return logprobs


def changed(params, **changes):
    return msgspec.structs.replace(params, **changes)


def tokens_of(llm, prompt, params):
    return llm.generate([prompt], params)[0].tokens


def is_idle(llm):
    """Whether nothing runs once the engine has told of what it was made to drop."""
    llm.engine.step()
    stats = llm.engine.stats()
    return not llm.engine.has_work and stats.running == stats.waiting == 0 and stats.kv_used == 0


def test_greedy_tokens_are_those_that_transformers_finds_likeliest(llm, reference):
    prompt = [5, 200, 30, 1, 1, 99, 250]
    (result,) = llm.generate([prompt], GREEDY)
    assert result.prompt_tokens == prompt
    logprobs = reference([*prompt, *result.tokens])[len(prompt) - 1 : -1]
    assert result.tokens == logprobs.argmax(-1).tolist()
    assert len(set(result.tokens)) >= 3


def test_a_text_and_its_token_ids_are_the_same_prompt(llm):
    text = "Once upon a time"
    ids = llm.model.tokenizer.encode(text)
    by_text, by_ids = llm.generate([text, ids], READABLE)
    assert by_text.prompt_tokens == by_ids.prompt_tokens == ids
    assert by_text.tokens == by_ids.tokens
    assert by_text.text == by_ids.text


def test_text_and_tokens_are_those_of_the_first_answer(llm):
    (result,) = llm.generate(["x"], READABLE, n=2)
    assert (result.text, result.tokens) == (result.answers[0].text, result.answers[0].tokens)
    assert result.text == "".join(LETTERS[token - FIRST_LETTER] for token in result.tokens)
    assert len(result.text) == 40
    assert result.answers[0].finish_reason == "length"


def test_each_prompt_may_have_parameters_of_its_own(llm):
    prompts = ["a", "bb", "ccc"]
    params = [changed(READABLE, max_tokens=3), GREEDY, changed(READABLE, temperature=0.0)]
    together = llm.generate(prompts, params)
    assert [len(result.tokens) for result in together] == [3, 12, 40]
    alone = [tokens_of(llm, one, param) for one, param in zip(prompts, params, strict=True)]
    assert [result.tokens for result in together] == alone


def test_answers_to_one_prompt_differ_and_can_be_had_again(llm):
    first, again, other = (
        [answer.text for answer in llm.generate(["Once"], params, n=4)[0].answers]
        for params in (READABLE, READABLE, changed(READABLE, seed=4))
    )
    assert len(set(first)) == 4
    assert first == again
    # Answer i is drawn with seed + i.
    assert other[:3] == first[1:]
    assert other[3] not in first


def test_without_a_seed_answers_differ_from_call_to_call(llm):
    params = changed(READABLE, seed=None)
    assert len({llm.generate(["Once"], params)[0].text for _ in range(3)}) == 3


def test_prompts_and_answers_stay_in_order_when_there_are_more_than_run_at_once(folder):
    llm = LLM(folder, devices="cpu", max_batch_size=2, kv_cache_page_size=16)
    prompts = [[i] * (i + 1) for i in range(7)]
    params = [changed(READABLE, max_tokens=1 + 5 * (i % 3)) for i in range(7)]
    results = llm.generate(prompts, params, n=2)
    assert [result.prompt_tokens for result in results] == prompts
    for prompt, param, result in zip(prompts, params, results, strict=True):
        alone = llm.generate([prompt], param, n=2)[0]
        assert [one.tokens for one in result.answers] == [one.tokens for one in alone.answers]


def test_no_prompts_give_no_results(llm):
    assert llm.generate([]) == []
    assert llm.engine.stats().steps_total == 0


def test_a_checkpoints_own_defaults_hold_where_nothing_is_said(folder):
    (folder / "generation_config.json").write_text('{"do_sample": false, "max_new_tokens": 6}')
    llm = LLM(folder, devices="cpu")
    (result,) = llm.generate([[5, 6, 7]])
    assert result.tokens == tokens_of(llm, [5, 6, 7], changed(GREEDY, max_tokens=6))


def test_a_chat_is_what_its_template_makes_of_it(llm):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    result = llm.chat(messages, READABLE, n=2)
    written = llm.model.tokenizer.encode("user: Hi\nassistant: Yes?\nassistant: ")
    assert result.prompt_tokens == written
    by_text = llm.generate(["user: Hi\nassistant: Yes?\nassistant: "], READABLE, n=2)[0]
    assert [one.text for one in result.answers] == [one.text for one in by_text.answers]


def test_a_template_may_be_given_and_get_variables(folder, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ mood }}/{{ messages[0].content }}")
    llm = LLM(folder, devices="cpu", chat_template=template)
    result = llm.chat([{"role": "user", "content": "Hi"}], GREEDY, mood="glad")
    assert result.prompt_tokens == llm.model.tokenizer.encode("glad/Hi")


CHAT = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("prompt", ["Once upon", [5, 6, 7], CHAT], ids=["text", "tokens", "chat"])
def test_a_stream_adds_up_to_the_whole_answer(llm, prompt):
    params = changed(READABLE, logprobs=1)
    whole = llm.chat(prompt, params) if prompt is CHAT else llm.generate([prompt], params)[0]
    deltas = list(llm.stream(prompt, params))
    assert len(deltas) > 30
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [token for delta in deltas for token in delta.tokens] == whole.tokens
    logprobs = [one for delta in deltas for one in delta.logprobs]
    assert [one.top_ids for one in logprobs] == [one.top_ids for one in whole.answers[0].logprobs]
    assert {delta.finish_reason for delta in deltas[:-1]} == {None}
    assert deltas[-1].finish_reason == "length"


def test_a_stream_that_is_left_early_frees_the_engine(llm):
    stream = llm.stream("Once upon", READABLE)
    list(itertools.islice(stream, 5))
    assert llm.engine.stats().running == 1
    stream.close()
    assert is_idle(llm)
    assert llm.engine.stats().generation_tokens_total < 10


def test_streams_of_one_model_may_be_read_in_turns(llm):
    prompts = [[5, 6], [7, 8, 9], [1]]
    alone = [tokens_of(llm, prompt, GREEDY) for prompt in prompts]
    found = [[], [], []]
    streams = [llm.stream(prompt, GREEDY) for prompt in prompts]
    for _ in range(3):
        found[0] += next(streams[0]).tokens
    for which in (1, 2, 0, 2):
        found[which] += next(streams[which]).tokens
    # A whole answer in between, and the rest of each.
    assert tokens_of(llm, prompts[1], GREEDY) == alone[1]
    for tokens, stream in zip(found, streams, strict=True):
        tokens += [token for delta in stream for token in delta.tokens]
    assert found == alone
    assert is_idle(llm)


def test_a_stop_string_cuts_the_text_and_ends_the_sequence(llm):
    (whole,) = llm.generate(["Once"], READABLE)
    stop = whole.text[10:13]
    cut = whole.text.index(stop)
    (result,) = llm.generate(["Once"], changed(READABLE, stop=("zz", stop)))
    assert result.text == whole.text[:cut]
    assert result.answers[0].finish_reason == "stop"
    assert result.answers[0].stop_reason == stop
    assert result.tokens == whole.tokens[:cut]
    assert is_idle(llm)
    # It was not run on to its 40 tokens.
    assert llm.engine.stats().generation_tokens_total < 40 + cut + 5


def test_a_stop_string_of_one_answer_does_not_stop_the_others(llm):
    whole = llm.generate(["Once"], READABLE, n=3)[0].answers
    stop = whole[1].text[4:9]
    cut = llm.generate(["Once"], changed(READABLE, stop=(stop,)), n=3)[0].answers
    assert [one.text for one in cut] == [one.text.split(stop)[0] for one in whole]
    assert [one.finish_reason for one in cut].count("stop") == 1


def test_eos_and_stop_tokens_end_a_sequence_without_text(llm):
    eos = changed(READABLE, logit_bias={**READABLE.logit_bias, 257: 60.0})
    for params, reason in ((eos, None), (changed(READABLE, stop_token_ids=(66,)), 66)):
        (result,) = llm.generate(["Once"], params)
        assert result.answers[0].finish_reason == "stop"
        assert result.answers[0].stop_reason == reason
        assert result.tokens[-1] == (reason or 257)
        assert len(result.text) == len(result.tokens) - 1
    assert len(tokens_of(llm, "Once", changed(eos, ignore_eos=True))) == 40


@pytest.mark.parametrize(
    ("prompts", "params", "words"),
    [
        (["fine", [1, 272]], GREEDY, "token id 272"),
        (["fine", []], GREEDY, "the prompt is empty"),
        (["fine"], changed(GREEDY, temperature=-1.0), "temperature is -1"),
        (["fine", "fine"], [GREEDY, changed(GREEDY, stop=("",))], "stop holds an empty text"),
    ],
)
def test_one_thing_wrong_leaves_nothing_running(llm, prompts, params, words):
    with pytest.raises(RequestError, match=words):
        llm.generate(prompts, params)
    assert not llm.engine.has_work
    assert llm.engine.stats().steps_total == 0
    assert len(tokens_of(llm, "fine", GREEDY)) == 12


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(llm):
    with pytest.raises(ContextLengthError, match=r"256 tokens.*300"):
        llm.generate([[1] * 300], GREEDY)
    with pytest.raises(ContextLengthError, match="max_tokens asks for 12"):
        llm.generate([[1] * 250], GREEDY)
    assert not llm.engine.has_work


def test_too_many_answers_are_refused(llm):
    with pytest.raises(RequestError, match="n is 0"):
        llm.generate(["fine"], GREEDY, n=0)


def test_a_prompts_logprobs_are_those_of_transformers(llm, reference):
    prompt = np.random.default_rng(0).integers(0, 256, 40).tolist()
    params = changed(GREEDY, max_tokens=2, prompt_logprobs=3, logprobs=3)
    (result,) = llm.generate([prompt], params, n=2)
    expected = reference([*prompt, *result.tokens])
    first, *others = [*result.prompt_logprobs, *result.answers[1].logprobs]
    assert first is None
    assert len(result.prompt_logprobs) == 40
    following = [*prompt, *result.tokens][1:]
    for row, token, found in zip(expected[:-1], following, others, strict=True):
        assert found.logprob == pytest.approx(row[token].item(), abs=1e-4)
        values, ids = row.topk(3)
        assert found.top_logprobs == pytest.approx(values.tolist(), abs=1e-4)
        assert found.top_ids == tuple(ids.tolist())
        assert found.rank == 1 + int((row > row[token]).sum())


def test_a_prompt_can_be_described_without_an_answer(llm):
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (result,) = llm.generate([[5, 6, 7]], params)
    assert (result.text, result.tokens) == ("", [])
    assert len(result.prompt_logprobs) == 3


def test_what_a_former_prompt_began_with_is_not_computed_again(llm):
    prompt = list(range(50))
    cold, warm = (llm.generate([prompt], GREEDY)[0] for _ in range(2))
    assert (cold.num_cached_tokens, warm.num_cached_tokens) == (0, 48)
    assert warm.tokens == cold.tokens


@pytest.fixture
def wordless(folder):
    """The same model without a tokenizer."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return LLM(folder, devices="cpu")


def test_without_a_tokenizer_token_ids_are_served(wordless, reference):
    (result,) = wordless.generate([[5, 6, 7]], GREEDY)
    logprobs = reference([5, 6, 7, *result.tokens])[2:-1]
    assert result.tokens == logprobs.argmax(-1).tolist()
    assert result.text == ""
    deltas = list(wordless.stream([5, 6, 7], GREEDY))
    assert [token for delta in deltas for token in delta.tokens] == result.tokens


def test_without_a_tokenizer_text_is_refused(wordless):
    for ask in (
        lambda: wordless.generate(["Once"], GREEDY),
        lambda: list(wordless.stream("Once", GREEDY)),
        lambda: wordless.chat(CHAT, GREEDY),
        lambda: wordless.generate([[1]], changed(GREEDY, stop=("x",))),
    ):
        with pytest.raises(RequestError, match=r"tokenizer|template"):
            ask()
    assert not wordless.engine.has_work


def test_two_models_in_one_process_do_not_touch_each_other(llm, folder, change_tensors):
    head = np.random.default_rng(9).normal(0, 0.3, (272, 64)).astype(np.float32)
    change_tensors(folder, add={"lm_head.weight": head})
    other = LLM(folder, devices="cpu", max_batch_size=2, max_length=64, dtype="bfloat16")
    alone = [tokens_of(one, [5, 6, 7], GREEDY) for one in (llm, other)]
    assert alone[0] != alone[1]
    # Token by token in turns, so that both have sequences in slot 0 and block 0.
    streams = [one.stream([5, 6, 7], GREEDY) for one in (llm, other)]
    found = [[], []]
    for turn in zip(*streams, strict=True):
        for tokens, delta in zip(found, turn, strict=True):
            tokens += delta.tokens
    assert found == alone
    assert llm.info.dtype == "float32"
    assert other.info.dtype == "bfloat16"
    assert is_idle(llm)
    assert is_idle(other)


def test_the_start_is_reported(folder):
    stages = []
    LLM(folder, devices="cpu", report=lambda progress: stages.append(progress.stage))
    assert stages[0] == "finding plugins"
    assert stages[-1] == "allocating KV cache"


def test_rows_beyond_the_tokenizer_are_never_generated(llm):
    """The embedding has 272 rows and the tokenizer 258 tokens; no bias brings the others back."""
    assert (llm.info.vocab_size, llm.model.tokenizer.vocab_size) == (272, 258)
    bias = dict.fromkeys(range(258, 272), 100.0)
    params = SamplingParams(seed=1, max_tokens=100, logit_bias=bias, ignore_eos=True)
    assert max(tokens_of(llm, [1], params)) < 258
