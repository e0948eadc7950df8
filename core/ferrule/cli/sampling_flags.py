"""Flags that say how tokens are chosen and when an answer ends."""

from __future__ import annotations

from typing import Annotated, Any

from ferrule.cli.engine_flags import flag

_SAMPLING = "Sampling (without a flag: what the model's generation config says)"

MaxTokens = Annotated[
    int | None,
    flag(
        "--max-tokens",
        "--max-new-tokens",
        panel=_SAMPLING,
        min=1,
        help="Most tokens to generate. Without it: up to the model's own end, or the context's.",
    ),
]
MinTokens = Annotated[
    int | None,
    flag(
        "--min-tokens",
        "--min-new-tokens",
        panel=_SAMPLING,
        min=0,
        help="Nothing ends the answer before this many tokens.",
    ),
]
Temperature = Annotated[
    float | None, flag("--temperature", panel=_SAMPLING, min=0, max=2, help="0 is greedy.")
]
TopP = Annotated[
    float | None,
    flag(
        "--top-p",
        panel=_SAMPLING,
        min=0,
        max=1,
        help="Only the likeliest tokens that together have this probability.",
    ),
]
TopK = Annotated[
    int | None, flag("--top-k", panel=_SAMPLING, min=0, help="Only the k likeliest; 0 is off.")
]
MinP = Annotated[
    float | None,
    flag(
        "--min-p",
        panel=_SAMPLING,
        min=0,
        max=1,
        help="Only tokens at least this share as likely as the likeliest.",
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    flag(
        "--repetition-penalty",
        panel=_SAMPLING,
        help="Above 1: tokens seen in prompt or answer become less likely.",
    ),
]
PresencePenalty = Annotated[
    float | None,
    flag(
        "--presence-penalty",
        panel=_SAMPLING,
        min=-2,
        max=2,
        help="Subtracted from the logits of tokens seen in the answer.",
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    flag(
        "--frequency-penalty",
        panel=_SAMPLING,
        min=-2,
        max=2,
        help="The same, for each time that a token was seen.",
    ),
]
Seed = Annotated[int | None, flag("--seed", panel=_SAMPLING, help="Makes the answer repeatable.")]
IgnoreEos = Annotated[
    bool, flag("--ignore-eos", panel=_SAMPLING, help="Go on where the model would end.")
]
Stop = Annotated[
    list[str] | None,
    flag(
        "--stop",
        panel=_SAMPLING,
        metavar="TEXT",
        help="End before this text; may be given several times.",
    ),
]


def sampling_flags(
    max_tokens: MaxTokens = None,
    min_tokens: MinTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    seed: Seed = None,
    ignore_eos: IgnoreEos = False,
    stop: Stop = None,
) -> dict[str, Any]:
    """The fields of SamplingParams that were asked for."""
    asked = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "ignore_eos": ignore_eos or None,
        "stop": tuple(stop) if stop else None,
    }
    return {name: value for name, value in asked.items() if value is not None}
