"""Which tokenizers are byte-level, and by which name each known way to cut text is found."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ferrule.quantize.byte_level import byte_level_vocabulary
from ferrule.quantize.vocabulary import PROBES
from ferrule.tokenizer.pre_tokenizers import pre_tokenizers_by_name


def save(path, pre, *, decoder):
    vocab = {token: n for n, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[], ignore_merges=pre.ignores_merges)
    )
    if (normalizer := pre.normalizer()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre.build()
    backend.decoder = decoder
    backend.save(str(path / "tokenizer.json"))
    return {"tokenizer.json": path / "tokenizer.json"}


def cut(pre, texts):
    if (normalizer := pre.normalizer()) is not None:
        texts = [normalizer.normalize_str(text) for text in texts]
    return [pre.build().pre_tokenize_str(text) for text in texts]


@pytest.mark.parametrize("name", pre_tokenizers_by_name())
def test_a_known_way_is_found_again(tmp_path, name, vectors):
    known = pre_tokenizers_by_name()
    files = save(tmp_path, known[name], decoder=decoders.ByteLevel())
    found = known[byte_level_vocabulary(files, PROBES)["tokenizer.ggml.pre"]]
    # Two patterns may differ in how they are spelled.
    texts = [text for text, _ in vectors("qwen2")]
    assert cut(found, texts) == cut(known[name], texts)
    assert found.ignores_merges == known[name].ignores_merges


def test_what_is_not_byte_level_is_told_apart(tmp_path):
    pre = pre_tokenizers_by_name()["gpt-2"]
    assert byte_level_vocabulary(save(tmp_path, pre, decoder=decoders.Fuse()), PROBES) is None
