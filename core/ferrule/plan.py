"""What engine and runtime say to each other; no torch, so that either side stands alone.

A sequence lives in a *slot* of the runner from its admission to its release. The runner keeps a
slot's tokens, block table and sampling state, so a step of steady decode names slots and nothing
else: that is what lets the state stay on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ferrule.errors import FerruleError

MAX_LOGPROBS = 20
"""Most alternatives that are reported beside a token (OpenAI's limit)."""


LEAST_MIXED_TOKENS = 512
"""A step may have at least this many tokens beside streams, if the limits allow."""
_ROWS_OF_A_PRODUCT = 256


def step_tokens(num_decodes: int, num_sequences: int, most: int) -> int:
    """Most tokens of a step in which some sequences decode.

    The scheduler keeps to it, and the runner captures graphs of such steps. Reading the weights is
    what a step of pure decode costs, so prompts that are cut thin ride along for little, and
    streams hardly wait. Where many want their turn, thin steps would spend their time on what
    every step costs, however few tokens it has: eight for each sequence, whether it runs or waits.
    Whole tiles of the matrix products, so that none is computed for nothing.

    Args:
        num_decodes: Sequences that get their next token.
        num_sequences: Those, others that run, and those that wait, as far as there are slots.
        most: Tokens of any step.
    """
    if num_decodes == 0:
        return most
    wanted = max(LEAST_MIXED_TOKENS, 8 * num_sequences)
    return min(-(-wanted // _ROWS_OF_A_PRODUCT) * _ROWS_OF_A_PRODUCT, most)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one sequence's tokens are chosen and when it ends.

    Attributes:
        max_tokens: Most tokens to generate; None: as many as the context holds.
        min_tokens: Before this many no stop token or stop string can end the sequence.
        temperature: 0 is greedy.
        top_p: Smallest set of likeliest tokens whose probability reaches this; 1 is off.
        top_k: Only the k likeliest tokens; 0 is off.
        min_p: Only tokens at least this share as likely as the likeliest; 0 is off.
        repetition_penalty: Divides (multiplies, if negative) logits of tokens seen in prompt or
            output; 1 is off.
        presence_penalty: Subtracted once from logits of tokens in the output.
        frequency_penalty: Subtracted from a logit for each time its token is in the output.
        logit_bias: Added to the logits of these token ids.
        seed: The draw at a position depends on this and the position alone; None: a random one.
        stop: Texts that end the sequence; they are not part of the answer.
        stop_token_ids: Tokens that end the sequence, beside the model's own eos tokens.
        ignore_eos: The model's own eos tokens do not end the sequence.
        logprobs: How many alternatives to report beside each chosen token; None reports nothing.
        prompt_logprobs: The same for the prompt's tokens (echo).
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Natural-log probabilities at one position, before temperature and filters.

    Attributes:
        logprob: Of the token that stands there.
        rank: How many tokens are at least as likely (1 is the likeliest).
        top_ids: The likeliest token ids, best first.
        top_logprobs: Their log probabilities.
    """

    logprob: float
    rank: int
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence takes a slot of the runner.

    Attributes:
        slot: Which one; free until now.
        tokens: All its tokens so far. After a preemption the generated ones are among them.
        num_prompt: How many of them are the prompt (penalties tell prompt and output apart).
        sampling: How to choose its tokens; ``seed`` is set.
        stop_ids: Tokens that must not be chosen before ``min_tokens``.
        lora: The adapter slot whose adapter it wants; -1: none.
    """

    slot: int
    tokens: Sequence[int]
    num_prompt: int
    sampling: SamplingParams
    stop_ids: Sequence[int] = ()
    lora: int = -1


# A step makes hundreds, and they hold nothing that the collector could find a cycle in.
class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of one sequence that runs in a step.

    Attributes:
        slot: The sequence's slot.
        start: How many of its tokens are in the KV cache already.
        num_tokens: How many run now; 1 in steady decode.
        new_blocks: Block ids that its block table grows by before the step.
        samples: Whether the last token's logits give a new token (false inside a long prompt).
    """

    slot: int
    start: int
    num_tokens: int
    new_blocks: Sequence[int] = ()
    samples: bool = True


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One step: releases first, then admissions, then the chunks run together."""

    released: Sequence[int] = ()
    admitted: Sequence[Admission] = ()
    chunks: Sequence[Chunk] = ()


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step gave.

    Attributes:
        tokens: One new token for each chunk with ``samples``, in the plan's order.
        logprobs: By index into ``tokens``, where the sequence asked for them.
        prompt_logprobs: By index into the plan's chunks: one entry for each position of the
            chunk, describing the *next* token of the prompt (the prompt's first has none).
    """

    tokens: Sequence[int]
    logprobs: dict[int, TokenLogprobs] = {}
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}


class LoraInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that was read and can be applied.

    Attributes:
        content: Identity of all that it computes; adapters of equal content are one.
        location: Where it came from.
        base: The model that it says it was trained on; empty: it does not say.
        rank: The largest of its ranks.
        num_bytes: Of its weights in host memory.
        num_added_tokens: Tokens that the model's tokenizer does not know.
        vocab_size: Rows of the head with the adapter; 0: those of the model.
        files: Its own tokenizer and chat template, by file name.
        kinds: Of the modules that it touches: their names within a layer.
        summary: How much of them, in a line.
        report: All of that for programs.
    """

    content: str
    location: str
    base: str = ""
    rank: int = 0
    num_bytes: int = 0
    num_added_tokens: int = 0
    vocab_size: int = 0
    files: dict[str, str] = {}
    kinds: list[str] = []
    summary: str = ""
    report: dict[str, Any] = {}


class LoraStore(Protocol):
    """Reads adapters and brings them to the device, beside the steps and never in their way.

    Attributes:
        num_slots: Adapters on the device at a time.
    """

    num_slots: int

    def load(self, ticket: str, location: str) -> None:
        """Starts to read an adapter; ``loaded`` will tell of the ticket."""
        ...

    def loaded(self) -> list[tuple[str, LoraInfo | FerruleError]]:
        """What has been read, or could not be, since the last call."""
        ...

    def place(self, content: str, slot: int) -> None:
        """Starts to bring an adapter into a slot that no step after this call wants as it is.

        Steps launched before may still use what is in it.
        """
        ...

    def placed(self) -> list[tuple[int, str]]:
        """Slots that are filled since the last call, each with what went wrong or nothing."""
        ...

    def forget(self, content: str) -> None:
        """Lets go of an adapter that no step wants any more."""
        ...

    def wait(self, seconds: float) -> None:
        """Waits until there is news for ``loaded`` or ``placed``, but no longer than this."""
        ...

    def num_host_bytes(self) -> int:
        """Bytes of the adapters in host memory."""
        ...

    def num_device_bytes(self) -> int:
        """Bytes that the device keeps for adapters."""
        ...


class PendingStep(Protocol):
    """A step that was launched and may not be computed yet."""

    def result(self) -> StepResult:
        """Waits until the step is computed and returns what it gave."""
        ...


class Runner(Protocol):
    """Computes plans in the order in which it gets them; the engine knows no more of it.

    A layer writes the keys and values of all a step's tokens before any of them attends, for a
    block that one chunk fills may stand in the table of another chunk of the same step.

    Attributes:
        runs_ahead: Whether ``launch`` returns before the step is computed, so that a next one can
            be launched meanwhile. Then a chunk of one token may stand at a position whose token
            the host does not know yet: it is what the step before sampled for that slot, and the
            runner keeps it on the device. A slot may also be released, and be another sequence's,
            when what an earlier step sampled for it has not been read.
    """

    runs_ahead: bool

    def launch(self, plan: Plan) -> PendingStep:
        """Starts one step; everything in it comes after the steps launched before."""
        ...

    def use_idle_time(self) -> bool:
        """Does a little of what later steps would wait for: some tenths of a second at most.

        Called while no step is on its way.

        Returns:
            Whether there is more of it.
        """
        ...
