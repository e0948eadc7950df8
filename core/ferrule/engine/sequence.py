"""One request on its way: its tokens, where they are computed, and when it ends."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from ferrule.engine.block_key import block_key, root_key
from ferrule.engine.messages import Output, Request
from ferrule.plan import Admission, SamplingParams, TokenLogprobs


class Status(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    # All its steps are launched; it holds nothing and waits for its last token.
    ENDING = "ending"
    FINISHED = "finished"


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A request's tokens and its place in the engine; it holds no tensor.

    Attributes:
        request: What was asked.
        arrival: Counts requests; the lower one goes first.
        sampling: As asked, with the seed drawn where the request gave none, so that a sequence
            that is computed again after a preemption draws the same tokens.
        stop_ids: Tokens that end it.
        final_length: It ends when it has this many tokens.
        tokens: Prompt and output, as far as they are known.
        num_prompt: How many of them are the prompt.
        num_tokens: How many tokens it has, those included that launched steps will give.
        num_computed: For how many of them the KV cache holds keys and values once the launched
            steps have run.
        blocks: Its block table.
        keys: Keys of its full blocks, as far as anybody needed them.
        num_remembered: How many blocks of the table the pool can find by their key.
        slot: Its slot of the runner while it runs, -1 otherwise.
        lora_slot: Its adapter's slot while it runs; -1: it wants none.
        status: Where it is.
        num_cached: How many prompt tokens the prefix cache had when it was first admitted.
        num_admissions: One more than the times it was preempted, once it runs.
        prompt_logprobs: Those known so far; None once they are given out or if nobody asked.
    """

    request: Request
    arrival: int
    sampling: SamplingParams
    stop_ids: frozenset[int]
    final_length: int
    tokens: list[int]
    num_prompt: int
    num_tokens: int
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list[int])
    keys: list[bytes] = field(default_factory=list[bytes])
    num_remembered: int = 0
    slot: int = -1
    lora_slot: int = -1
    status: Status = Status.WAITING
    num_cached: int = 0
    num_admissions: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None

    @classmethod
    def from_request(cls, request: Request, *, arrival: int, final_length: int) -> Sequence:
        """A sequence that waits with its prompt."""
        sampling = request.sampling
        if sampling.seed is None:
            sampling = msgspec.structs.replace(sampling, seed=secrets.randbits(63))
        return cls(
            request=request,
            arrival=arrival,
            sampling=sampling,
            stop_ids=frozenset(request.stop_ids),
            final_length=final_length,
            tokens=list(request.tokens),
            num_prompt=len(request.tokens),
            num_tokens=len(request.tokens),
            # The first token of a prompt has nothing before it that could predict it.
            prompt_logprobs=None if sampling.prompt_logprobs is None else [None],
        )

    def admission(self) -> Admission:
        """What the runner must know before it runs in a slot."""
        return Admission(
            slot=self.slot,
            tokens=tuple(self.tokens),
            num_prompt=self.num_prompt,
            sampling=self.sampling,
            stop_ids=self.request.stop_ids,
            lora=self.lora_slot,
        )

    def block_keys(self, num_blocks: int, block_size: int) -> list[bytes]:
        """The keys of its first full blocks."""
        keys = self.keys
        parent = keys[-1] if keys else root_key(self.request.lora, self.request.cache_salt)
        for start in range(len(keys) * block_size, num_blocks * block_size, block_size):
            parent = block_key(parent, self.tokens[start : start + block_size])
            keys.append(parent)
        return keys[:num_blocks]

    def accept(self, token: int, logprobs: TokenLogprobs | None) -> Output:
        """Takes in the token that a step gave and says what is new, and whether that was all."""
        output = Output(id=self.request.id, tokens=[token], num_cached_tokens=self.num_cached)
        if logprobs is not None:
            output.logprobs = [logprobs]
        if self.prompt_logprobs is not None:
            output.prompt_logprobs, self.prompt_logprobs = self.prompt_logprobs, None
        self.tokens.append(token)
        if len(self.tokens) >= self.final_length or token in self.stop_ids:
            self._end(output, token)
        return output

    def take_prompt_logprobs(self, start: int, entries: list[TokenLogprobs]) -> None:
        """Keeps what a chunk told about the prompt.

        Args:
            start: First position of the chunk.
            entries: One for each position, about the token after it.
        """
        known = self.prompt_logprobs
        if known is None:
            return
        for position, entry in enumerate(entries, start + 1):
            # A chunk that runs again after a preemption tells what is known already.
            if position == len(known) < self.num_prompt:
                known.append(entry)

    def _end(self, output: Output, token: int) -> None:
        """Says why the token is the last one, if it is."""
        if len(self.tokens) > self.final_length:
            # No token was asked for, only what the step told about the prompt.
            self.tokens.pop()
            output.tokens, output.logprobs, output.finish_reason = [], None, "length"
        elif token in self.stop_ids and self._may_stop():
            output.finish_reason, output.stop_reason = "stop", token
        elif len(self.tokens) == self.final_length:
            output.finish_reason = "length"

    def _may_stop(self) -> bool:
        # A runner masks stop tokens before min_tokens; this holds for one that does not.
        return len(self.tokens) - self.num_prompt >= self.sampling.min_tokens
