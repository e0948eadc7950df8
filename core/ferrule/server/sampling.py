"""From a request's fields to sampling parameters."""

from __future__ import annotations

from typing import Any

import msgspec

from ferrule.errors import RequestError
from ferrule.plan import SamplingParams
from ferrule.server.schema import GenerationRequest

_SAME_NAME = (
    "min_tokens",
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
)


def sampling_params(
    request: GenerationRequest,
    defaults: SamplingParams,
    *,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """What the request asks for, and the model's defaults where it says nothing.

    Args:
        request: Of either kind.
        defaults: The model's.
        logprobs: How many alternatives to report; None reports nothing.
        prompt_logprobs: The same for the prompt.

    Raises:
        RequestError: ``stream_options`` was given without ``stream``.
    """
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options is only allowed with stream", param="stream_options")
    fields: dict[str, Any] = {
        name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None
    }
    if request.top_k is not None:
        # Other servers turn the filter off with -1.
        fields["top_k"] = 0 if request.top_k == -1 else request.top_k
    if request.stop is not None:
        stop = request.stop
        fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return msgspec.structs.replace(
        defaults,
        **fields,
        max_tokens=_max_tokens(request),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _max_tokens(request: GenerationRequest) -> int | None:
    newer = request.max_completion_tokens
    return request.max_tokens if newer is None else newer
