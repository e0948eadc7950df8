"""From a prompt and sampling parameters to requests that the engine can take."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from ferrule.engine.limits import Limits
from ferrule.engine.messages import EngineInfo, Request
from ferrule.errors import ContextLengthError, RequestError
from ferrule.frontend.model import ServedModel
from ferrule.frontend.validation import check_choices, check_sampling
from ferrule.plan import SamplingParams

_NUM_SEEDS = 2**63


def tokenize(
    model: ServedModel,
    prompt: str | Sequence[int],
    *,
    add_special_tokens: bool = True,
    param: str = "prompt",
) -> list[int]:
    """The tokens of a prompt; one that is tokens already passes through.

    Args:
        model: Whose tokenizer.
        prompt: A text or token ids.
        add_special_tokens: Whether a text gets the tokenizer's BOS.
        param: What to call the prompt in an error.

    Raises:
        RequestError: It is a text and the checkpoint has no tokenizer.
    """
    if not isinstance(prompt, str):
        return list(prompt)
    if model.tokenizer is None:
        raise RequestError(
            f"{model.name} has no tokenizer, so {param} must be token ids, not text",
            param=param,
            hint="Send token ids to /v1/completions with return_token_ids: true.",
        )
    return model.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)


def make_requests(
    model: ServedModel,
    info: EngineInfo,
    tokens: list[int],
    sampling: SamplingParams,
    *,
    request_id: str,
    n: int = 1,
    default_max_tokens: int | None = None,
    cache_salt: str = "",
    param: str = "prompt",
) -> list[Request]:
    """One engine request for each of ``n`` answers to one prompt.

    The only place that makes them, and that holds ids against the vocabulary.

    Args:
        model: Gives the tokens that end a sequence, and the adapter.
        info: The engine's context, vocabulary and KV cache.
        tokens: The prompt.
        sampling: What was asked for. Choice i gets ``seed + i``, or a random seed without one.
        request_id: Unique; choice i is called ``{request_id}-{i}``.
        n: How many answers.
        default_max_tokens: Where ``sampling.max_tokens`` is None: this, or less where the context
            has less room; None: all there is room for.
        cache_salt: Keeps the prompt's cached blocks apart from those of other salts.
        param: What to call the prompt in an error.

    Raises:
        ContextLengthError: Prompt and completion do not fit into the context.
        RequestError: The prompt is empty or holds ids that are no tokens, a parameter is outside
            its range, or stop strings were given and there is no tokenizer to find them.
    """
    check_choices(n)
    # An adapter may have tokens of its own.
    vocab_size = model.vocab_size or info.vocab_size
    check_sampling(sampling, vocab_size=vocab_size)
    if sampling.stop and model.tokenizer is None:
        raise RequestError(
            f"{model.name} has no tokenizer, so stop strings cannot be found in its output",
            param="stop",
            hint="Use stop_token_ids.",
        )
    _check_tokens(tokens, vocab_size, param)
    sampling = _with_length(sampling, len(tokens), info.max_length, default_max_tokens, param)
    seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    stop_ids = _stop_ids(model, sampling)
    requests = [
        Request(
            id=f"{request_id}-{index}",
            tokens=tokens,
            sampling=msgspec.structs.replace(sampling, seed=(seed + index) % _NUM_SEEDS),
            stop_ids=stop_ids,
            cache_salt=cache_salt,
            lora=model.lora,
        )
        for index in range(n)
    ]
    num_kv_tokens = info.num_blocks * info.block_size
    Limits(max_length=info.max_length, num_kv_tokens=num_kv_tokens).final_length(requests[0])
    return requests


def _check_tokens(tokens: list[int], vocab_size: int, param: str) -> None:
    if not tokens:
        raise RequestError("the prompt is empty; at least one token is needed", param=param)
    for token in (min(tokens), max(tokens)):
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"the prompt holds token id {token}; the model's ids are 0 to {vocab_size - 1}",
                param=param,
            )


def _with_length(
    sampling: SamplingParams, num_prompt: int, max_length: int, default: int | None, param: str
) -> SamplingParams:
    """The same with ``max_tokens`` checked against the context, or taken from the default."""
    room = max_length - num_prompt
    wanted = sampling.max_tokens
    if room < (1 if wanted is None else wanted):
        asked = "" if wanted is None else f", and max_tokens asks for {wanted} more"
        excess = f" ({num_prompt + wanted} in all)" if wanted else ""
        raise ContextLengthError(
            f"the context is {max_length} tokens, prompt and completion together; "
            f"the prompt has {num_prompt}{asked}{excess}",
            param=param,
            code="context_length_exceeded",
            hint="Shorten the prompt or ask for fewer tokens.",
        )
    if wanted is not None or default is None:
        return sampling
    # A default that is smaller than min_tokens was never asked for, so it gives way.
    return msgspec.structs.replace(
        sampling, max_tokens=min(max(default, sampling.min_tokens), room)
    )


def _stop_ids(model: ServedModel, sampling: SamplingParams) -> tuple[int, ...]:
    own = () if sampling.ignore_eos else model.eos_ids
    return tuple(dict.fromkeys((*own, *sampling.stop_token_ids)))
