"""A tokenizer from a SentencePiece ``.model`` file."""

from __future__ import annotations

from pathlib import Path

from ferrule.errors import TokenizerError
from ferrule.tokenizer.sentencepiece_model import SentencePieceModel
from ferrule.tokenizer.spm import PieceKind, SpacePrefix, build_spm
from ferrule.tokenizer.tokenizer import Tokenizer
from ferrule.tokenizer.tokenizer_config import TokenizerConfig, add_tokens

_CONVERT_HINT = (
    "Convert it: transformers.AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) "
    "writes a tokenizer.json."
)


def from_sentencepiece(path: Path, config: TokenizerConfig) -> Tokenizer:
    """Build the tokenizer of a directory that has a ``.model`` and no tokenizer.json.

    Args:
        path: The file.
        config: What the JSON files beside it say.

    Raises:
        TokenizerError: The file is broken, or of a kind that is not byte-pair encoding.
    """
    model = SentencePieceModel.read(path)
    _refuse_others(path, model)
    backend = build_spm(model.pieces, space=_space_prefix(model, config))
    add_tokens(backend, config)
    special = {**model.special_tokens, **config.special_tokens}
    bos = backend.token_to_id(special.get("bos_token", ""))
    if bos is None or config.add_bos_token is False:
        return Tokenizer(backend, special_tokens=special)
    return Tokenizer(backend, special_tokens=special, prefix=[bos])


def _space_prefix(model: SentencePieceModel, config: TokenizerConfig) -> SpacePrefix:
    if not model.adds_space:
        return "never"
    return "always" if config.is_legacy else "first"


def _refuse_others(path: Path, model: SentencePieceModel) -> None:
    problems = {
        f"is of SentencePiece's kind {model.kind!r}, not 'bpe'": model.kind != "bpe",
        f"changes text by the rules {model.normalization!r} first": model.has_rules,
        "removes double spaces": model.removes_spaces,
        "has unused pieces": any(p.kind == PieceKind.UNUSED for p in model.pieces),
        "marks spaces behind words, not in front of them": model.marks_word_ends,
    }
    for problem, is_so in problems.items():
        if is_so:
            raise TokenizerError(f"{path} {problem}, which is not supported", hint=_CONVERT_HINT)
