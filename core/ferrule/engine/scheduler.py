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
from ferrule.engine.loras import Loras
from ferrule.engine.messages import Output, Request, Stats
from ferrule.engine.sequence import Sequence, Status
from ferrule.engine.step import Step
from ferrule.errors import OptionError, RequestError
from ferrule.plan import Chunk, StepResult, step_tokens


class Scheduler:
    """Chooses each step's work and keeps every sequence's state.

    Args:
        pool: The KV blocks.
        max_batch_size: Most sequences that run together; also the number of slots.
        max_batch_tokens: Most tokens of a step, prefill and decode together.
        max_length: Most tokens of a sequence, prompt and output together.
        block_size: Tokens a block holds.
        enable_prefix_caching: Whether full blocks are found again by later prompts.
        loras: The adapters; None: there are none.

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
        loras: Loras | None = None,
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
        self._limits = Limits(max_length=max_length, num_kv_tokens=pool.num_blocks * block_size)
        self.loras = Loras(None) if loras is None else loras
        self._sequences: dict[str, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        # Those whose last token the last step gives.
        self._ending: list[Sequence] = []
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
        self.loras.want(request.lora)
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
        ended = [self._sequences[id] for id in dict.fromkeys(ids) if id in self._sequences]
        self._end(ended)
        return [Output(id=sequence.request.id, finish_reason="abort") for sequence in ended]

    def schedule(self) -> Step | None:
        """The next step, which must be launched; call it only if there is work.

        The step before may still be on its way: its tokens count, but nobody knows them yet.
        Every running sequence that decodes gets its token first, then prompts share what is left
        of the step's tokens, and then waiting sequences are admitted.

        Returns:
            None if everybody waits: for tokens of a step that was launched, or for an adapter.
        """
        self._release_ending()
        self.loras.poll()
        step = Step()
        prefilling = self._add_decodes(step)
        budget = self._step_tokens(len(step.chunks)) - len(step.chunks)
        for sequence in prefilling:
            if budget > 0:
                budget -= self._add_prefill(step, sequence, budget)
        self._admit(step, budget)
        if not step.chunks:
            return None
        self._ending = step.ending
        step.released, self._released = self._released, []
        return step

    def advance(self, step: Step, result: StepResult) -> list[Output]:
        """Takes in what a step gave; steps are taken in as they were scheduled.

        Returns:
            One output for each sequence that got a token or ended.
        """
        for index, entries in result.prompt_logprobs.items():
            step.sequences[index].take_prompt_logprobs(step.chunks[index].start, entries)
        outputs: list[Output] = []
        ended: list[Sequence] = []
        num_generated, finished, logprobs = 0, Status.FINISHED, result.logprobs
        for index, (sequence, token) in enumerate(zip(step.sampled, result.tokens, strict=True)):
            if sequence.status is finished:
                # It was aborted, or found to have stopped, while this was on its way.
                continue
            output = sequence.accept(token, logprobs.get(index) if logprobs else None)
            outputs.append(output)
            num_generated += len(output.tokens)
            if output.finish_reason is not None:
                ended.append(sequence)
        self._num_generated += num_generated
        self._end(ended)
        return outputs

    def take_failed(self) -> list[Output]:
        """Ends the sequences whose adapter could not be brought; a last output for each."""
        failed = self.loras.take_failed(self._waiting)
        self._end(list(failed))
        return [
            Output(id=each.request.id, finish_reason="error", error=error)
            for each, error in failed.items()
        ]

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
            **self.loras.figures(),
        )

    def _release_ending(self) -> None:
        """Frees what sequences hold whose last token is on its way.

        Length ends them, whatever the token is, and steps run in order: what they hold can be
        another's in the next.
        """
        ending = [one for one in self._ending if one.status is Status.RUNNING]
        self._ending = []
        for sequence in ending:
            self._give_back(sequence)
            sequence.status = Status.ENDING
        if ending:
            self._keep_running()

    def _step_tokens(self, num_decodes: int) -> int:
        num_sequences = len(self._running) + min(len(self._waiting), len(self._free_slots))
        return step_tokens(num_decodes, num_sequences, self._max_batch_tokens)

    def _add_decodes(self, step: Step) -> list[Sequence]:
        """Adds all sequences that lack one token; returns those that lack more."""
        prefilling: list[Sequence] = []
        block_size = self._block_size
        chunks, sequences, ending = step.chunks, step.sequences, step.ending
        # Preemption shortens the list from its end while this walks on: what was passed stays.
        for sequence in self._running:
            start = sequence.num_computed
            if sequence.num_tokens - start > 1:
                prefilling.append(sequence)
            elif start < len(sequence.blocks) * block_size:
                # The same as ``add``, whose call would cost as much as all else here.
                end = sequence.num_computed = start + 1
                sequence.num_tokens = end + 1
                if end + 1 >= sequence.final_length:
                    ending.append(sequence)
                chunks.append(Chunk(slot=sequence.slot, start=start, num_tokens=1))
                sequences.append(sequence)
            elif new_blocks := self._grow(sequence):
                step.add(sequence, 1, new_blocks)
        return prefilling

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

    def _add_prefill(
        self, step: Step, sequence: Sequence, budget: int, new_blocks: Items[int] = ()
    ) -> int:
        """Adds what the budget holds of a prompt, which others may share from now on."""
        num_tokens = min(sequence.num_tokens - sequence.num_computed, budget)
        step.add(sequence, num_tokens, new_blocks)
        self._tables.remember_full_blocks(sequence)
        return num_tokens

    def _admit(self, step: Step, budget: int) -> None:
        """Starts waiting sequences in order, until slots, blocks or the step's tokens run out."""
        for sequence in self.loras.ready(self._waiting):
            # One block for each running sequence stays free. Without that a full pool would
            # admit a sequence only to preempt it as soon as an older one needs its next block.
            if not (self._free_slots and budget > 0) or not self._tables.claim(
                sequence, num_kept_free=len(self._running)
            ):
                break
            self._waiting.remove(sequence)
            self._start(sequence)
            step.admitted.append(sequence.admission())
            budget -= self._add_prefill(step, sequence, budget, tuple(sequence.blocks))

    def _start(self, sequence: Sequence) -> None:
        if sequence.num_admissions == 0:
            self._num_prompt_tokens += sequence.num_prompt
        sequence.num_admissions += 1
        sequence.status = Status.RUNNING
        sequence.slot = heapq.heappop(self._free_slots)
        sequence.lora_slot = self.loras.pin(sequence.request.lora)
        self._running.append(sequence)

    def _end(self, sequences: Items[Sequence]) -> None:
        """Forgets sequences and frees what they hold."""
        for sequence in sequences:
            del self._sequences[sequence.request.id]
            if sequence.status is Status.RUNNING:
                self._give_back(sequence)
            elif sequence.status is Status.WAITING:
                self._waiting.remove(sequence)
            sequence.status = Status.FINISHED
            self.loras.leave(sequence)
        if sequences:
            self._keep_running()

    def _keep_running(self) -> None:
        self._running = [one for one in self._running if one.status is Status.RUNNING]

    def _give_back(self, sequence: Sequence) -> None:
        """Frees blocks and slot; the runner hears of the slot in the next plan."""
        self._tables.release(sequence)
        self._released.append(sequence.slot)
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1
        self.loras.unpin(sequence.request.lora)
