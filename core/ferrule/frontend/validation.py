"""Whether sampling parameters are within the ranges that are served."""

from __future__ import annotations

from ferrule.errors import RequestError
from ferrule.plan import MAX_LOGPROBS, SamplingParams

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_TOKENS = 256

# Name, lowest and highest value, both allowed. Temperature, penalties and log probabilities as in
# OpenAI's API reference; the repetition penalty's keep logits finite.
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.01, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
    ("seed", -(2**63), 2**64 - 1),
)
_MAX_BIAS = 100


def check_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuses values outside their range.

    Args:
        sampling: What a request, a Python caller or a generation config asks for.
        vocab_size: Token ids must be below it.

    Raises:
        RequestError: ``param`` names the field.
    """
    for name, low, high in _RANGES:
        value: float | None = getattr(sampling, name)
        # Written so that NaN fails too.
        if value is not None and not low <= value <= high:
            raise _out_of_range(name, value, f"between {low:g} and {high:g}")
    if sampling.top_p == 0:
        raise _out_of_range("top_p", 0, "above 0 and at most 1")
    if not 0 <= sampling.top_k < 2**63:
        raise _out_of_range("top_k", sampling.top_k, "at least 1, or 0 for no limit")
    _check_length(sampling)
    _check_stops(sampling, vocab_size)
    _check_bias(sampling, vocab_size)


def check_choices(n: int) -> None:
    """Refuses a number of choices that is not served.

    Raises:
        RequestError: ``n`` is not between 1 and 128.
    """
    if not 1 <= n <= MAX_CHOICES:
        raise _out_of_range("n", n, f"between 1 and {MAX_CHOICES}")


def _check_length(sampling: SamplingParams) -> None:
    most, least = sampling.max_tokens, sampling.min_tokens
    if most is not None and most < 0:
        raise _out_of_range("max_tokens", most, "at least 0")
    if least < 0:
        raise _out_of_range("min_tokens", least, "at least 0")
    if most is not None and least > most:
        raise RequestError(
            f"min_tokens is {least}, more than max_tokens, which is {most}", param="min_tokens"
        )


def _check_stops(sampling: SamplingParams, vocab_size: int) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise RequestError(
            f"stop holds {len(sampling.stop)} texts; at most {MAX_STOP_STRINGS} are taken",
            param="stop",
        )
    if "" in sampling.stop:
        raise RequestError("stop holds an empty text, which would end every answer", param="stop")
    if len(sampling.stop_token_ids) > MAX_STOP_TOKENS:
        raise RequestError(
            f"stop_token_ids holds {len(sampling.stop_token_ids)} ids; "
            f"at most {MAX_STOP_TOKENS} are taken",
            param="stop_token_ids",
        )
    for token in sampling.stop_token_ids:
        _check_token(token, vocab_size, "stop_token_ids")


def _check_bias(sampling: SamplingParams, vocab_size: int) -> None:
    for token, bias in (sampling.logit_bias or {}).items():
        _check_token(token, vocab_size, "logit_bias")
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:
            raise RequestError(
                f"logit_bias of token {token} is {bias}; it must be between -100 and 100",
                param="logit_bias",
            )


def _check_token(token: int, vocab_size: int, param: str) -> None:
    if not 0 <= token < vocab_size:
        raise RequestError(
            f"{param} holds token id {token}; the model's ids are 0 to {vocab_size - 1}",
            param=param,
        )


def _out_of_range(name: str, value: float, expected: str) -> RequestError:
    return RequestError(f"{name} is {value}; it must be {expected}", param=name)
