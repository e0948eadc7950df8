"""A checkpoint's tokenizer, chat template and special ids as GGUF metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import TokenizerError
from ferrule.quantize.byte_level import byte_level_vocabulary
from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.load import load_tokenizer, read_chat_templates
from ferrule.tokenizer.sentencepiece_model import SentencePieceModel
from ferrule.tokenizer.spm import PieceKind
from ferrule.tokenizer.tokenizer import Tokenizer
from ferrule.tokenizer.tokenizer_config import TokenizerConfig

_PREFIX = "tokenizer.ggml."
_SPECIAL_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# Every token at which llama.cpp stops: the end of a text, of a turn, of a message.
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Words, digits, spaces, symbols and scripts at which the ways to cut text differ.
PROBES = (
    "Hello world! It's 12345 o'clock;  they'LL say:\r\n\r\n\n  x += y[3]/z_2 // ok\t\t",
    "Größe naïve e\u0301 Ünïcode Ελληνικά русский ДА العربية हिन्दी 中文測試 日本語のテスト 한국어",
    "HTTPServer fooBar $100.50 (a|b) ... ??? !!! 🤗🚀 http://x.y/z?q=1&r=2#t   \n \n end ",
)


def vocabulary_metadata(checkpoint: Checkpoint, num_rows: int) -> dict[str, Any]:
    """The keys ``tokenizer.*``; a checkpoint without a tokenizer stays one.

    Args:
        checkpoint: As stored, with its small files or a GGUF's metadata.
        num_rows: Of the embedding, which may be more than there are tokens.

    Raises:
        TokenizerError: GGUF cannot hold the tokenizer.
    """
    tokenizer = load_tokenizer(checkpoint.files, checkpoint.metadata)
    if tokenizer is None:
        return {_PREFIX + "model": "none", **_special_ids(checkpoint, None)}
    templates = read_chat_templates(checkpoint.files, checkpoint.metadata)
    own = {k: v for k, v in checkpoint.metadata.items() if k.startswith(_PREFIX)}
    if not _has_files(checkpoint) and own:
        return own | _template_keys(templates)
    metadata = {**_vocabulary(checkpoint), **_special_ids(checkpoint, tokenizer)}
    metadata[_PREFIX + "add_bos_token"] = tokenizer.adds_bos
    _pad(metadata, num_rows)
    _check(metadata, tokenizer)
    return metadata | _template_keys(templates)


def _has_files(checkpoint: Checkpoint) -> bool:
    return any(
        name.endswith((".model", "tokenizer.json", "tekken.json")) for name in checkpoint.files
    )


def _vocabulary(checkpoint: Checkpoint) -> dict[str, Any]:
    files = checkpoint.files
    if (path := files.get("tokenizer.json")) is not None:
        if (found := byte_level_vocabulary(files, PROBES)) is not None:
            return found
        if "tokenizer.model" not in files:
            raise TokenizerError(
                f"{path} is not byte-level BPE, and without the scores of a tokenizer.model it "
                "cannot be written as GGUF.",
                hint="Put the model's tokenizer.model beside it.",
            )
    if "tokenizer.model" in files:
        return _pieces(checkpoint)
    raise TokenizerError(
        f"{checkpoint.location} has a tokenizer ({', '.join(files)}) that cannot be written as "
        "GGUF; tokenizer.json of byte-level BPE or tokenizer.model can.",
    )


def _pieces(checkpoint: Checkpoint) -> dict[str, Any]:
    model = SentencePieceModel.read(checkpoint.files["tokenizer.model"])
    config = TokenizerConfig.from_files(checkpoint.files)
    texts = [piece.text for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    kinds = [int(piece.kind) for piece in model.pieces]
    for token, added in sorted(config.added_tokens.items()):
        kind = PieceKind.CONTROL if added.special else PieceKind.USER_DEFINED
        if token < len(texts):
            if kinds[token] == PieceKind.NORMAL:
                kinds[token] = int(kind)
            continue
        missing = range(len(texts), token)
        texts += [f"[PAD{number}]" for number in missing] + [added.content]
        scores += [-1000.0] * (len(missing) + 1)
        kinds += [int(PieceKind.UNUSED)] * len(missing) + [int(kind)]
    return {
        _PREFIX + "model": "llama",
        _PREFIX + "pre": "default",
        _PREFIX + "tokens": texts,
        _PREFIX + "scores": scores,
        _PREFIX + "token_type": kinds,
        _PREFIX + "add_space_prefix": model.adds_space,
    }


def _special_ids(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in _SPECIAL_KEYS.items():
        configured = checkpoint.config.get(key) if key == "bos_token_id" else None
        token = configured if tokenizer is None else tokenizer.special_id(name)
        if isinstance(token, int):
            found[_PREFIX + key] = token
    ends = list(dict.fromkeys([*_ids(found.get(_PREFIX + "eos_token_id")), *_ends(checkpoint)]))
    if len(ends) > len(_END_KEYS):
        raise TokenizerError(
            f"{checkpoint.location} ends generation at the {len(ends)} tokens "
            f"{', '.join(map(str, ends))}; a GGUF file names at most {len(_END_KEYS)}.",
            hint="Leave the ones that the chat template does not use out of eos_token_id in "
            "generation_config.json.",
        )
    return found | {_PREFIX + key: token for key, token in zip(_END_KEYS, ends, strict=False)}


def _ends(checkpoint: Checkpoint) -> Iterable[int]:
    generation = _ids(checkpoint.generation_config.get("eos_token_id"))
    return generation or _ids(checkpoint.config.get("eos_token_id"))


def _ids(value: object) -> list[int]:
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and not isinstance(token, bool)]


def _pad(metadata: dict[str, Any], num_rows: int) -> None:
    texts = metadata[_PREFIX + "tokens"]
    if len(texts) > num_rows:
        raise TokenizerError(
            f"The tokenizer has {len(texts)} tokens and the embedding {num_rows} rows.",
            hint="Its files are of another model than the weights.",
        )
    added = range(len(texts), num_rows)
    texts += [f"[PAD{number}]" for number in added]
    metadata[_PREFIX + "token_type"] += [int(PieceKind.UNUSED)] * len(added)
    if _PREFIX + "scores" in metadata:
        metadata[_PREFIX + "scores"] += [-1000.0] * len(added)


def _template_keys(templates: Mapping[str, str]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, text in templates.items():
        keys["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = text
    if named := [name for name in templates if name != "default"]:
        keys["tokenizer.chat_templates"] = named
    return keys


def _check(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """What was written must cut text as what was read."""
    written = from_gguf_metadata(metadata)
    for probe in (*PROBES, *tokenizer.special_tokens.values()):
        if written.encode(probe) != tokenizer.encode(probe):
            raise TokenizerError(
                "The tokenizer cannot be written as GGUF: read back, it cuts "
                f"{probe[:40]!r} otherwise.",
                hint="Its normalizer, pre-tokenizer or added tokens have no place in GGUF.",
            )
