"""Which sequences run in the next step, on which blocks, and what a step's tokens mean for them.

Sequences run in the order in which they arrived. Those that run are always older than those that
wait, and if blocks run out the youngest one gives its blocks back and waits in front, so the
oldest advances in every step and everybody's turn comes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence as Items

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.block_tables import BlockTables
from ferrule.engine.limits import Limits
from ferrule.engine.messages import Output, Request, Stats
from ferrule.engine.sequence import Sequence, Status
from ferrule.errors import OptionError, RequestError
from ferrule.plan import Admission, Chunk, Plan, StepResult


class Scheduler:
    """Chooses each step's work and keeps every sequence's state.

    Args:
        pool: The KV blocks.
        max_batch_size: Most sequences that run together; also the number of slots.
        max_batch_tokens: Most tokens of a step, prefill and decode together.
        max_length: Most tokens of a sequence, prompt and output together.
        block_size: Tokens a block holds.
        enable_prefix_caching: Whether full blocks are found again by later prompts.
        vocab_size: Prompts with ids from here on are refused.

    Raises:
        OptionError: A step's tokens cannot hold one token of each running sequence.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_batch_size: int,
        max_batch_tokens: int,
        max_length: int,
        block_size: int,
        enable_prefix_caching: bool = True,
        vocab_size: int = 2**31,
    ) -> None:
        if max_batch_tokens < max_batch_size:
            raise OptionError(
                f"a step of {max_batch_tokens} tokens cannot hold one token of each of "
                f"{max_batch_size} running sequences",
                hint="Raise the tokens of a step or lower the batch size.",
            )
        self._tables = BlockTables(
            pool, block_size=block_size, enable_prefix_caching=enable_prefix_caching
        )
        self._max_batch_tokens = max_batch_tokens
        self._block_size = block_size
        self._limits = Limits(
            max_length=max_length,
            num_kv_tokens=pool.num_blocks * block_size,
            vocab_size=vocab_size,
        )
        self._sequences: dict[str, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._slots: list[Sequence | None] = [None] * max_batch_size
        # A heap: the lowest slots fill first, so a small batch stays in front.
        self._free_slots = list(range(max_batch_size))
        self._released: list[int] = []
        self._num_arrivals = 0
        self._num_preemptions = 0
        self._num_prompt_tokens = 0
        self._num_generated = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self._sequences)

    def add(self, request: Request) -> None:
        """Lets a request wait for its turn.

        Raises:
            RequestError: It can never run; the message says why.
        """
        if request.id in self._sequences:
            raise RequestError(f"a request with the id {request.id!r} is in progress already")
        final_length = self._limits.final_length(request)
        sequence = Sequence.from_request(
            request, arrival=self._num_arrivals, final_length=final_length
        )
        self._num_arrivals += 1
        self._sequences[request.id] = sequence
        self._waiting.append(sequence)

    def abort(self, ids: Items[str]) -> list[Output]:
        """Ends these sequences at once; their blocks are free when this returns.

        Returns:
            A last output for each; ids that are unknown or finished give none.
        """
        outputs: list[Output] = []
        for sequence in [self._sequences[id] for id in ids if id in self._sequences]:
            if sequence.status is Status.RUNNING:
                self._running.remove(sequence)
                self._give_back(sequence)
            elif sequence.status is Status.WAITING:
                self._waiting.remove(sequence)
            else:
                # The same id twice.
                continue
            self._forget(sequence)
            outputs.append(Output(id=sequence.request.id, finish_reason="abort"))
        return outputs

    def schedule(self) -> Plan:
        """The next step; call it only if there is work.

        Every running sequence that decodes gets its token first, then prompts share what is left
        of the step's tokens, and then waiting sequences are admitted.
        """
        decodes, prefilling = self._schedule_decodes()
        budget = self._max_batch_tokens - len(decodes)
        prefills: list[Chunk] = []
        for sequence in prefilling:
            if budget > 0:
                prefills.append(self._prefill_chunk(sequence, budget))
                budget -= prefills[-1].num_tokens
        admitted = self._admit(budget, prefills)
        released, self._released = self._released, []
        assert decodes or prefills, "a step without work"
        return Plan(released=released, admitted=admitted, chunks=decodes + prefills)

    def advance(self, plan: Plan, result: StepResult) -> list[Output]:
        """Takes in what a step gave.

        Returns:
            One output for each sequence that got a token or ended.
        """
        outputs: list[Output] = []
        num_taken = 0
        slots, block_size = self._slots, self._block_size
        tokens, logprobs, prompt_logprobs = result.tokens, result.logprobs, result.prompt_logprobs
        for index, chunk in enumerate(plan.chunks):
            taken = num_taken
            num_taken += chunk.samples
            sequence = slots[chunk.slot]
            if sequence is None:
                # It was aborted while the step ran.
                continue
            end = sequence.num_computed = chunk.start + chunk.num_tokens
            if end // block_size > sequence.num_remembered:
                self._tables.remember_full_blocks(sequence)
            if index in prompt_logprobs:
                sequence.take_prompt_logprobs(chunk.start, prompt_logprobs[index])
            if chunk.samples:
                outputs.append(sequence.accept(tokens[taken], logprobs.get(taken)))
        self._finish(outputs)
        return outputs

    def stats(self) -> Stats:
        """The figures of sequences, blocks and tokens; those of steps are zero."""
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_used=self._tables.used_share,
            preemptions_total=self._num_preemptions,
            prefix_queries_total=self._tables.num_prefix_queries,
            prefix_hits_total=self._tables.num_prefix_hits,
            prompt_tokens_total=self._num_prompt_tokens,
            generation_tokens_total=self._num_generated,
        )

    def _schedule_decodes(self) -> tuple[list[Chunk], list[Sequence]]:
        """Chunks of all sequences that lack one token, and the sequences that lack more."""
        chunks: list[Chunk] = []
        prefilling: list[Sequence] = []
        block_size = self._block_size
        # Preemption shortens the list from its end while this walks on: what was passed stays.
        for sequence in self._running:
            start = sequence.num_computed
            if len(sequence.tokens) - start > 1:
                prefilling.append(sequence)
            elif start < len(sequence.blocks) * block_size:
                chunks.append(Chunk(slot=sequence.slot, start=start, num_tokens=1))
            else:
                slot, new_blocks = sequence.slot, self._grow(sequence)
                if new_blocks:
                    chunks.append(
                        Chunk(slot=slot, start=start, num_tokens=1, new_blocks=new_blocks)
                    )
        return chunks, prefilling

    def _grow(self, sequence: Sequence) -> list[int]:
        """Gives a sequence one more block, if need be a younger one's; none: it was preempted."""
        while (blocks := self._tables.grow(sequence)) is None:
            youngest = self._running.pop()
            self._preempt(youngest)
            if youngest is sequence:
                return []
        return blocks

    def _preempt(self, sequence: Sequence) -> None:
        """Takes slot and blocks away; its tokens stay and are computed again later."""
        self._give_back(sequence)
        sequence.status = Status.WAITING
        self._waiting.appendleft(sequence)
        self._num_preemptions += 1

    def _prefill_chunk(self, sequence: Sequence, budget: int, new_blocks: Items[int] = ()) -> Chunk:
        num_left = len(sequence.tokens) - sequence.num_computed
        return Chunk(
            slot=sequence.slot,
            start=sequence.num_computed,
            num_tokens=min(num_left, budget),
            new_blocks=new_blocks,
            samples=num_left <= budget,
        )

    def _admit(self, budget: int, prefills: list[Chunk]) -> list[Admission]:
        """Starts waiting sequences in order, until slots, blocks or the step's tokens run out."""
        admitted: list[Admission] = []
        while self._waiting and self._free_slots and budget > 0:
            sequence = self._waiting[0]
            # One block for each running sequence stays free. Without that a full pool would
            # admit a sequence only to preempt it as soon as an older one needs its next block.
            if not self._tables.claim(sequence, num_kept_free=len(self._running)):
                break
            self._waiting.popleft()
            self._start(sequence)
            admitted.append(sequence.admission())
            prefills.append(self._prefill_chunk(sequence, budget, tuple(sequence.blocks)))
            budget -= prefills[-1].num_tokens
        return admitted

    def _start(self, sequence: Sequence) -> None:
        if sequence.num_admissions == 0:
            self._num_prompt_tokens += sequence.num_prompt
        sequence.num_admissions += 1
        sequence.status = Status.RUNNING
        sequence.slot = heapq.heappop(self._free_slots)
        self._slots[sequence.slot] = sequence
        self._running.append(sequence)

    def _finish(self, outputs: list[Output]) -> None:
        """Counts tokens and frees what the sequences held that ended."""
        self._num_generated += sum(len(output.tokens) for output in outputs)
        ended = [output.id for output in outputs if output.finish_reason is not None]
        if not ended:
            return
        for sequence in [self._sequences[id] for id in ended]:
            self._give_back(sequence)
            self._forget(sequence)
        self._running = [one for one in self._running if one.status is Status.RUNNING]

    def _give_back(self, sequence: Sequence) -> None:
        """Frees blocks and slot; the runner hears of the slot in the next plan."""
        self._tables.release(sequence)
        self._slots[sequence.slot] = None
        self._released.append(sequence.slot)
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1

    def _forget(self, sequence: Sequence) -> None:
        sequence.status = Status.FINISHED
        del self._sequences[sequence.request.id]
