"""A prompt given back before its answer."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Echo:
    """What stands before an answer when ``echo`` is asked for.

    Attributes:
        text: The prompt; empty without a tokenizer.
        tokens: Its tokens.
        offsets: Where each token's text begins, in characters.
    """

    text: str
    tokens: list[int]
    offsets: list[int]


def echo_of(tokenizer: Tokenizer | None, prompt: str | list[int], tokens: list[int]) -> Echo:
    """The prompt as the client knows it.

    Args:
        tokenizer: None shows no text.
        prompt: As it was sent. A text comes back unchanged; token ids come back with their
            special tokens, since the client put them there.
        tokens: As the engine got them, with a BOS perhaps.
    """
    if tokenizer is None:
        return Echo(text="", tokens=tokens, offsets=[0] * len(tokens))
    text = (
        prompt if isinstance(prompt, str) else tokenizer.decode(tokens, skip_special_tokens=False)
    )
    offsets = [0] * _num_unwritten(tokenizer, prompt, tokens)
    detokenizer = tokenizer.detokenizer(skip_special_tokens=False)
    position = 0
    for token in tokens[len(offsets) :]:
        offsets.append(min(position, len(text)))
        position += len(detokenizer.push(token))
    return Echo(text=text, tokens=tokens, offsets=offsets)


def _num_unwritten(tokenizer: Tokenizer, prompt: str | list[int], tokens: list[int]) -> int:
    """How many tokens before the text are the tokenizer's own doing: a BOS, or none."""
    bos = tokenizer.bos_token_id
    if not isinstance(prompt, str) or bos is None or tokens[:1] != [bos]:
        return 0
    return int(not prompt.startswith(tokenizer.token_text(bos)))
