"""How byte-level vocabularies cut text into words, by the names that GGUF files use."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BEFORE_WORD = r"[^\r\n\p{L}\p{N}]?"
_LETTERS = rf"{_BEFORE_WORD}\p{{L}}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UP = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOW = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|{_BEFORE_WORD}[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_TEKKEN = (
    rf"{_BEFORE_WORD}{_UP}*{_LOW}+|{_BEFORE_WORD}{_UP}+{_LOW}*"
    rf"|\p{{N}}|{_CASED_SYMBOLS}|{_SPACES}"
)
_GPT4O = (
    rf"{_BEFORE_WORD}{_UP}*{_LOW}+{_CONTRACTIONS}?|{_BEFORE_WORD}{_UP}+{_LOW}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_CASED_SYMBOLS}|{_SPACES}"
)
_SEED_CODER = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE_WORD}+\p{{L}}+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_DIGIT = r"\p{N}"
_VIKING = r" ?[^(\s|.,!?…。，、।۔،)]+"

# DeepSeek names letters one by one instead of by a Unicode category. These are its ranges, in
# hexadecimal; what has come into Unicode since is no letter to it.
_DEEPSEEK_LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A
38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF
1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D
1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4
1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F
2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F
A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreTokenizer:
    """A byte-level vocabulary's way to cut text.

    Attributes:
        splits: Patterns applied one after the other; each match becomes a word of its own.
        has_words: Whether GPT-2's own pattern comes last.
        is_composed: Whether text is brought into Unicode's composed form (NFC) first.
        ignores_merges: Whether a word that is a token is taken whole, without merging.
        adds_bos: Whether BOS goes before a text when the file does not say.
    """

    splits: tuple[str, ...] = ()
    has_words: bool = False
    is_composed: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False

    def normalizer(self) -> normalizers.Normalizer | None:
        """What is done to the text first, if anything."""
        return normalizers.NFC() if self.is_composed else None

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The steps that cut text into words and write these in byte-level characters."""
        steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in self.splits]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.has_words)
        return pre_tokenizers.Sequence([*steps, last])


def pre_tokenizers_by_name() -> dict[str, PreTokenizer]:
    """All known ones, by the value of ``tokenizer.ggml.pre`` (llama.cpp, llama-vocab.cpp).

    The patterns are those of the models' own tokenizer.json, which llama.cpp approximates.
    """
    return {name: pre for names, pre in _groups() for name in names.split()}


def _groups() -> list[tuple[str, PreTokenizer]]:
    llama3 = PreTokenizer(splits=(_LLAMA3,), ignores_merges=True, adds_bos=True)
    digits_first = PreTokenizer(splits=(_DIGIT,), has_words=True)
    return [
        ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", llama3),
        ("glm4 glm5", PreTokenizer(splits=(_LLAMA3,), ignores_merges=True)),
        ("dbrx smaug-bpe chatglm-bpe", PreTokenizer(splits=(_LLAMA3,))),
        ("qwen2", PreTokenizer(splits=(_QWEN2,), is_composed=True)),
        ("qwen35", PreTokenizer(splits=(_QWEN35,))),
        (
            "deepseek-r1-qwen stablelm2 hunyuan solar-open grok-2 megrez kormo f2llmv2",
            PreTokenizer(splits=(_QWEN2,)),
        ),
        ("tekken", PreTokenizer(splits=(_TEKKEN,), ignores_merges=True, adds_bos=True)),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer(splits=(_GPT4O,))),
        ("seed-coder", PreTokenizer(splits=(_SEED_CODER,))),
        ("bailingmoe bailingmoe2 llada-moe", PreTokenizer(splits=(_BAILING,))),
        ("smollm starcoder refact codeshell exaone minerva-7b mellum2", digits_first),
        ("command-r", PreTokenizer(splits=(_DIGIT,), has_words=True, is_composed=True)),
        (
            "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4",
            PreTokenizer(has_words=True),
        ),
        ("viking", PreTokenizer(splits=(_VIKING, _DIGIT))),
        ("poro-chat bloom gpt3-finnish", PreTokenizer(splits=(_VIKING,))),
        ("deepseek-llm", PreTokenizer(splits=_deepseek_llm())),
        (
            "deepseek-coder",
            PreTokenizer(splits=("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT)),
        ),
        (
            "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
            PreTokenizer(
                splits=(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)
            ),
        ),
    ]


def _deepseek_llm() -> tuple[str, ...]:
    spans = (span.partition("-") for span in _DEEPSEEK_LETTERS.split())
    letters = "".join(
        chr(int(first, 16)) + dash + (chr(int(last, 16)) if last else "")
        for first, dash, last in spans
    )
    marks = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
    return ("[\r\n]", rf"\s?[{letters}]+", rf"\s?[{marks}]+", r"\s+$", _CJK, r"\p{N}+")
