"""A runner without a model that distrusts every plan.

What a real KV cache holds at a position follows from all tokens up to it. So does what this one
stores: a digest chained over the tokens. It is read back through the block table at every step,
so a block that was given to two sequences, freed too early or hit wrongly changes what is read.

As in a model, all chunks of a step are written before any is read. One that runs ahead computes
at once too, but gives its tokens only when asked for, and at most one step late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from ferrule.plan import Admission, Chunk, Plan, StepResult, TokenLogprobs

VOCAB_SIZE = 50


def digest(parent: bytes, token: int) -> bytes:
    return blake2b(parent + token.to_bytes(4, "little"), digest_size=8).digest()


def digests(tokens) -> list[bytes]:
    chain = [b""]
    for token in tokens:
        chain.append(digest(chain[-1], token))
    return chain[1:]


def choose(content: bytes, seed: int, masked=()) -> int:
    """The next token after everything that ``content`` stands for."""
    draw = content + (seed % 2**64).to_bytes(8, "little")
    token = int.from_bytes(blake2b(draw, digest_size=4).digest(), "little") % VOCAB_SIZE
    while token in masked:
        token = (token + 1) % VOCAB_SIZE
    return token


def generate_alone(request, max_length: int) -> list[int]:
    """What a request must give whoever runs beside it; written without any engine."""
    sampling, content, output = request.sampling, digests(request.tokens)[-1], []
    most = max_length - len(request.tokens)
    if sampling.max_tokens is not None:
        most = min(most, sampling.max_tokens)
    while len(output) < most:
        masked = request.stop_ids if len(output) < sampling.min_tokens else ()
        output.append(choose(content, sampling.seed, masked))
        if output[-1] in request.stop_ids:
            break
        content = digest(content, output[-1])
    return output


def logprobs_of(token: int) -> TokenLogprobs:
    return TokenLogprobs(-float(token), 1, (token,), (-float(token),))


@dataclass
class Slot:
    admission: Admission
    tokens: list[int]
    num_computed: int | None = None
    # How many tokens the prefix cache had.
    num_found: int = 0
    table: list[int] = field(default_factory=list)


@dataclass
class FakePendingStep:
    runner: FakeRunner
    given: StepResult

    def result(self) -> StepResult:
        assert self.runner.unread.pop(0) is self, "steps are read in another order"
        return self.given


class FakeRunner:
    def __init__(self, *, num_slots, num_blocks, block_size, max_batch_tokens, runs_ahead=False):
        self.runs_ahead = runs_ahead
        self.choose = choose
        self.num_slots = num_slots
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.slots: dict[int, Slot] = {}
        self.cache: dict[tuple[int, int], bytes] = {}
        self.plans: list[Plan] = []
        self.unread: list[FakePendingStep] = []
        # How often idle time can be of use.
        self.num_left_to_do = 0

    def use_idle_time(self) -> bool:
        assert not self.unread, "a step is on its way"
        self.num_left_to_do = max(self.num_left_to_do - 1, 0)
        return self.num_left_to_do > 0

    def launch(self, plan: Plan) -> FakePendingStep:
        assert len(self.unread) <= self.runs_ahead, "too many steps are on their way"
        self.plans.append(plan)
        self.unread.append(FakePendingStep(self, self._run(plan)))
        return self.unread[-1]

    def _run(self, plan: Plan) -> StepResult:
        for slot in plan.released:
            del self.slots[slot]
        for admission in plan.admitted:
            self._admit(admission)
        assert plan.chunks, "an empty step"
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= self.max_batch_tokens
        assert len({chunk.slot for chunk in plan.chunks}) == len(plan.chunks)
        for chunk in plan.chunks:
            self._grow(chunk)
        for chunk in plan.chunks:
            self._write(self.slots[chunk.slot], chunk)
        tokens, logprobs, prompt_logprobs = [], {}, {}
        for index, chunk in enumerate(plan.chunks):
            slot = self.slots[chunk.slot]
            self._read(slot)
            sampling = slot.admission.sampling
            if sampling.prompt_logprobs is not None:
                prompt_logprobs[index] = self._describe_next(slot, chunk)
            if chunk.samples:
                token = self._sample(slot)
                if sampling.logprobs is not None:
                    logprobs[len(tokens)] = logprobs_of(token)
                tokens.append(token)
        return StepResult(tokens=tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    def _admit(self, admission):
        assert 0 <= admission.slot < self.num_slots
        assert admission.slot not in self.slots, "the slot is taken"
        assert admission.sampling.seed is not None
        self.slots[admission.slot] = Slot(admission, list(admission.tokens))

    def _grow(self, chunk: Chunk):
        slot = self.slots[chunk.slot]
        slot.table += chunk.new_blocks
        assert all(0 <= block < self.num_blocks for block in chunk.new_blocks)
        assert len(set(slot.table)) == len(slot.table), "a block twice in a table"
        assert chunk.num_tokens > 0
        end = chunk.start + chunk.num_tokens
        assert end <= len(slot.tokens)
        assert end <= len(slot.table) * self.block_size, "the table does not cover the chunk"
        assert chunk.samples == (end == len(slot.tokens))
        if slot.num_computed is None:
            assert chunk.start % self.block_size == 0, "a hit ends inside a block"
            slot.num_found = chunk.start
        else:
            assert chunk.start == slot.num_computed
        # What a block held before must not be taken for what it is given out for.
        num_found_blocks = slot.num_found // self.block_size
        for index in range(len(slot.table) - len(chunk.new_blocks), len(slot.table)):
            if index >= num_found_blocks:
                self._clear(slot.table[index])

    def _clear(self, block):
        for offset in range(self.block_size):
            self.cache.pop((block, offset), None)

    def _write(self, slot: Slot, chunk: Chunk):
        start, end = chunk.start, chunk.start + chunk.num_tokens
        expected = digests(slot.tokens[:end])
        for position in range(start, end):
            block = slot.table[position // self.block_size]
            owners = [one for one in self.slots.values() if block in self._own_blocks(one)]
            assert owners == [slot], f"block {block} is written by somebody who does not own it"
            self.cache[block, position % self.block_size] = expected[position]
        slot.num_computed = end

    def _own_blocks(self, slot: Slot):
        """Those that were not found in the prefix cache."""
        return slot.table[slot.num_found // self.block_size :]

    def _read(self, slot: Slot):
        read = [
            self.cache.get((slot.table[position // self.block_size], position % self.block_size))
            for position in range(slot.num_computed)
        ]
        expected = digests(slot.tokens[: slot.num_computed])
        assert read == expected, "the cache holds another sequence's content"

    def _sample(self, slot: Slot) -> int:
        position = slot.num_computed - 1
        content = self.cache[slot.table[position // self.block_size], position % self.block_size]
        admission = slot.admission
        num_output = len(slot.tokens) - admission.num_prompt
        masked = admission.stop_ids if num_output < admission.sampling.min_tokens else ()
        token = self.choose(content, admission.sampling.seed, masked)
        slot.tokens.append(token)
        return token

    def _describe_next(self, slot: Slot, chunk: Chunk) -> list[TokenLogprobs]:
        """One entry for each position; past the prompt it describes no token of the prompt."""
        following = slot.tokens[chunk.start + 1 : chunk.start + chunk.num_tokens + 1]
        following += [VOCAB_SIZE] * (chunk.num_tokens - len(following))
        return [logprobs_of(token) for token in following]
