"""Adapters that peft has made, served: log probabilities of all prompt tokens against peft's."""

from __future__ import annotations

import pytest
import torch

from ferrule.errors import LoadError, ModelNotFoundError, RequestError
from ferrule.llm import LLM
from ferrule.lora import Base, open_adapter
from ferrule.plan import SamplingParams

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = (torch.arange(24).reshape(2, 12) * 7 % 90).tolist()
DESCRIBED = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=5)


def load(base, **adapters):
    paths = tuple((name, str(path)) for name, path in adapters.items())
    return LLM(
        base, devices="cpu", dtype="float32", enable_lora=True, lora_paths=paths, max_length=64
    )


def check(answer, logits):
    """One prompt's description and greedy token against logits ``[tokens, vocab]``."""
    exact = logits.log_softmax(-1)
    tokens = answer.prompt_tokens
    for position, entry in enumerate(answer.prompt_logprobs[1:], 1):
        expected = exact[position - 1, tokens[position]].item()
        assert entry.logprob == pytest.approx(expected, abs=1e-4), position
    assert answer.tokens == [int(logits[-1].argmax())]


def check_beside_base(llm, trained, logits_of):
    """With the adapter and without it, in one batch."""
    plain = logits_of(trained.base)
    assert (plain - trained.logits[..., : plain.shape[-1]]).abs().max() > 1e-2
    answers = llm.generate([*TOKENS, *TOKENS], DESCRIBED, lora=["a", "", "", "a"])
    for answer, reference in zip(
        answers, (trained.logits[0], plain[1], plain[0], trained.logits[1]), strict=True
    ):
        check(answer, reference)


CASES = {
    "all linears, llama": {"target_modules": ALL},
    "all linears, mistral": {"family": "mistral", "target_modules": ALL},
    "all linears, biased qwen2": {"family": "qwen2", "target_modules": ALL},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.1.self_attn.v_proj": 2}},
    "dora": {"use_dora": True, "target_modules": ALL},
    "dora beside biases": {"family": "qwen2", "use_dora": True, "target_modules": ALL},
    "trained biases": {"family": "qwen2", "bias": "all", "target_modules": ALL},
    "its own biases": {"lora_bias": True, "target_modules": ALL},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "tied embedding": {"tied": True, "target_modules": ["q_proj", "embed_tokens"]},
    "whole embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole head": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("case", CASES)
def test_served_as_peft_computes_it(train, logits_of, case):
    trained = train(**CASES[case])
    check_beside_base(load(trained.base, a=trained.adapter), trained, logits_of)


def test_an_adapter_may_add_tokens(train, logits_of):
    trained = train(
        before=lambda model: model.resize_token_embeddings(101),
        modules_to_save=["embed_tokens", "lm_head"],
    )
    llm = load(trained.base, a=trained.adapter)
    check_beside_base(llm, trained, logits_of)
    with pytest.raises(RequestError, match="token id 99"):
        llm.generate([[99]])


def test_one_that_adds_tokens_later_is_refused_in_words(train):
    trained = train(
        before=lambda model: model.resize_token_embeddings(101),
        modules_to_save=["embed_tokens", "lm_head"],
    )
    with pytest.raises(LoadError, match="adds 5 rows to the model's 96") as error:
        load(trained.base).load_lora("a", trained.adapter)
    assert "--lora-paths" in error.value.hint


def test_a_rank_above_the_room_names_the_flag(train):
    trained = train(r=9)
    llm = LLM(trained.base, devices="cpu", enable_lora=True, max_lora_rank=8, max_length=64)
    with pytest.raises(LoadError, match="rank 9, and there is room for rank 8") as error:
        llm.load_lora("a", trained.adapter)
    assert "--max-lora-rank 9" in error.value.hint


def test_prefixes_are_shared_by_content_alone(train, tmp_path):
    trained = train()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in trained.adapter.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    llm = LLM(
        trained.base,
        devices="cpu",
        enable_lora=True,
        lora_paths=(("a", str(trained.adapter)), ("b", str(copy))),
        kv_cache_page_size=4,
        max_length=64,
    )
    prompt = TOKENS[0]
    cached = [llm.generate([prompt], lora=lora)[0].num_cached_tokens for lora in ("", "a", "b", "")]
    assert cached == [0, 0, 8, 8]
    trained.change_config(lora_alpha=12)
    llm.load_lora("a", trained.adapter)
    cached = [llm.generate([prompt], lora=lora)[0].num_cached_tokens for lora in ("a", "b", "a")]
    assert cached == [0, 8, 8]


def test_files_that_change_behind_our_back_are_noticed(train):
    trained = train()
    llm = LLM(
        trained.base,
        devices="cpu",
        enable_lora=True,
        lora_paths=(("a", str(trained.adapter)),),
        max_cpu_loras=1,
        max_loras=1,
        max_length=64,
    )
    (first,) = llm.generate([TOKENS[0]], DESCRIBED, lora="a")
    trained.change_config(lora_alpha=12)
    llm.load_lora("b", trained.adapter)
    llm.generate([TOKENS[0]], lora="b")
    # It is neither on the device nor in host memory now, and what lies there is another one.
    with pytest.raises(RequestError, match="files have changed"):
        llm.generate([TOKENS[0]], lora="a")
    trained.change_config(lora_alpha=6)
    (again,) = llm.generate([TOKENS[0]], DESCRIBED, lora="a")
    assert (again.tokens, again.prompt_logprobs) == (first.tokens, first.prompt_logprobs)


def test_unknown_names_are_refused(train):
    trained = train()
    llm = load(trained.base, a=trained.adapter)
    with pytest.raises(ModelNotFoundError, match="'b' is not loaded; loaded: a"):
        llm.generate([TOKENS[0]], lora="b")
    llm.unload_lora("a")
    with pytest.raises(ModelNotFoundError, match="loaded: none"):
        llm.generate([TOKENS[0]], lora="a")


def test_a_content_says_what_is_computed(train, open_base):
    trained = train()
    base: Base = open_base(trained.base)
    llm = load(trained.base, a=trained.adapter)
    content = open_adapter(str(trained.adapter), base=base).content
    assert llm.info.loras["a"].content == content
