"""A tokenizer from Mistral's tekken.json."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, pre_tokenizers
from tokenizers.models import BPE

from ferrule.errors import TokenizerError
from ferrule.tokenizer.merges import rebuild_merges
from ferrule.tokenizer.spelling import byte_stand_ins
from ferrule.tokenizer.tokenizer import Tokenizer
from ferrule.tokenizer.tokenizer_config import read_json

# Files up to version v7 do not name their special tokens; these are theirs, in the order of ids.
_OLD_SPECIAL_TOKENS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
]
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def from_tekken(path: Path) -> Tokenizer:
    """Build the tokenizer of a Mistral directory that has no tokenizer.json.

    Special tokens take the first ids. Behind them come the tokens of bytes by rank, as many as
    the model has; the file lists more. They are merged as tiktoken does: the pair whose union has
    the lowest rank first, and no merging within a word that is a token.

    Raises:
        TokenizerError: The file is broken.
    """
    content = read_json(path)
    try:
        special = _special_tokens(content)
        words = _words(content)
        pattern = Regex(content["config"]["pattern"])
    except Exception as error:  # a broken pattern raises no type of its own
        raise TokenizerError(
            f"{path} is not a tekken vocabulary: {type(error).__name__}: {error}"
        ) from error
    vocab = {text: token for token, text in enumerate(special)}
    vocab |= {word: len(special) + rank for rank, word in enumerate(words)}
    merges = rebuild_merges([word for word in words if len(word) > 1], frozenset(words))
    backend = tokenizers.Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in special])
    named = {name: text for name, text in _NAMES.items() if text in special}
    return Tokenizer(
        backend,
        special_tokens=named,
        prefix=[vocab[named["bos_token"]]] if "bos_token" in named else [],
    )


def _special_tokens(content: Mapping[str, Any]) -> list[str]:
    count: int = content["config"]["default_num_special_tokens"]
    texts = dict(enumerate(_OLD_SPECIAL_TOKENS))
    if listed := content.get("special_tokens"):
        texts = {token["rank"]: token["token_str"] for token in listed}
    return [texts.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]


def _words(content: Mapping[str, Any]) -> list[str]:
    config = content["config"]
    count: int = config["default_vocab_size"] - config["default_num_special_tokens"]
    stand_ins = byte_stand_ins()
    ranked = sorted(content["vocab"], key=lambda entry: entry["rank"])[:count]
    if len(ranked) != count:
        raise ValueError(f"it has {len(ranked)} tokens of bytes; its config needs {count}")
    return [
        "".join(map(stand_ins.__getitem__, base64.b64decode(entry["token_bytes"])))
        for entry in ranked
    ]
