"""Computes plans by kernels, a step ahead of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ferrule.layers.lora import LoraMode, LoraRows
from ferrule.plan import Chunk, Plan
from ferrule.runtime.decode_graphs import DecodeGraphs, GraphKey, Sampled
from ferrule.runtime.device_sampling import Described, DeviceSampling, Needs, describe
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.graph_pool import GraphPool
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_slots import LoraSlots, widened
from ferrule.runtime.mixed_batch import MixedBatch, Shape
from ferrule.runtime.mixed_graphs import MixedGraphs, padded_shape
from ferrule.runtime.model import Model
from ferrule.runtime.packet import send
from ferrule.runtime.pending_tokens import PendingTokens, described_to_host, to_host
from ferrule.runtime.prompt_logprobs import PromptLogprobs
from ferrule.runtime.shared_blocks import SharedBlocks, find_shared
from ferrule.runtime.slots import Slots

_SIZES_WITH_KERNELS = (64, 32, 16, 8, 1)
"""Decode sizes whose products are cut otherwise than those of every other size."""
_LEAST_ROOM = 1 << 30
"""Free memory below which no graph is made that nobody has asked for."""


class KernelRunner:
    """A model, its cache and its slots on a CUDA device.

    Tokens stay on the device, where the next step finds them; the host gets them through pinned
    memory, while that step runs already.

    Args:
        model: Loaded, on ``device``.
        cache: Keys and values.
        max_batch_size: Slots.
        max_tokens: Most tokens of a step.
        max_length: Most tokens in a sequence.
        vocab_size: Columns of the logits.
        num_known_tokens: Ids that the tokenizer knows; padded rows above it are never chosen.
        device: Where everything lives.
        loras: The model's adapters; None: it takes none.
        captures: Whether steps become CUDA graphs; only checks want them without.
    """

    runs_ahead = True

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        *,
        max_batch_size: int,
        max_tokens: int,
        max_length: int,
        vocab_size: int,
        num_known_tokens: int,
        device: torch.device,
        loras: LoraSlots | None = None,
        captures: bool = True,
    ) -> None:
        self.model = model
        self.device = device
        self.cache = cache
        self.slots = Slots(
            max_batch_size,
            max_length=max_length,
            block_size=cache.block_size,
            padding_block=cache.padding_block,
        )
        self.device_slots = DeviceSlots(
            max_batch_size, max_length=max_length, cache=cache, device=device
        )
        self.sampling = DeviceSampling(
            max_batch_size,
            vocab_size=vocab_size,
            num_known_tokens=num_known_tokens,
            device=device,
        )
        self.loras = loras
        self._lora_version = 0 if loras is None else loras.version
        self._prompts = PromptLogprobs(self.sampling, self.slots, self._logits_of_one)
        self._looked_at: tuple[int, list[int]] = (0, [])
        self._shared: SharedBlocks | None = None
        pool = GraphPool() if captures else None
        self.graphs = DecodeGraphs(
            model, cache, self.device_slots, self.sampling, pool=pool, loras=loras
        )
        self.mixed = MixedGraphs(
            model, cache, self.device_slots, max_tokens=max_tokens, pool=pool, loras=loras
        )

    @torch.inference_mode()
    def warm_up(self, report: Callable[[int, int], None]) -> None:
        """Does what would keep the first requests waiting."""
        jobs = self.warm_up_jobs()
        for done, job in enumerate(jobs, 1):
            job()
            report(done, len(jobs))
        has_deltas = self.loras is not None and self.loras.version > 0
        warm = {LoraMode.OFF, LoraMode.DELTAS} if has_deltas else {LoraMode.OFF}
        self.graphs.warm = self.mixed.warm = frozenset(warm)

    def warm_up_jobs(self) -> list[Callable[[], None]]:
        """The warm-up's graphs that have new kernels, for ``torch.inference_mode``.

        The largest comes first: the others then fit into the memory that it took. Those that have
        kernels of their own come next, so that of a few processes, each of which does every n-th,
        all have about as much to compile (precompile.py).
        """
        sizes, shapes = self.graphs.first_sizes(), self.mixed.first_shapes()
        sizes.sort(key=lambda size: size not in _SIZES_WITH_KERNELS)
        mixed = [partial(self.mixed.capture, shape) for shape in shapes]
        decode = [partial(self.graphs.capture, GraphKey(size)) for size in sizes]
        jobs: list[Callable[[], None]] = [*mixed[:2], *decode, *mixed[2:]]
        if self.loras is not None and self.loras.version:
            jobs += [partial(self.mixed.capture, self.mixed.with_lora(shape)) for shape in shapes]
            keys = [GraphKey(size, lora=LoraMode.DELTAS) for size in sizes]
            jobs += [partial(self.graphs.capture, key) for key in keys]
        return jobs

    def compile_jobs(self) -> list[Callable[[], None]]:
        """The warm-up's parts, and what else has kernels of its own (precompile.py)."""
        least, most = Needs(shapes=True, logprobs=True), self.slots.num_tokens.shape[0]
        shared = padded_shape(Shape(256, min(64, most), 0, shares=True), num_slots=most)
        jobs = self.warm_up_jobs()
        if shared is not None:
            jobs.insert(2, partial(self.mixed.capture, shared))
        jobs.insert(5, partial(self.graphs.capture, GraphKey(min(64, most), least, shares=True)))
        jobs.insert(5, partial(self.graphs.capture, GraphKey(min(8, most), Needs(), shares=True)))
        return jobs

    @torch.inference_mode()
    def use_idle_time(self) -> bool:
        """Captures a graph that steps would capture when they first need it."""
        self._follow_loras()
        if self.graphs.pool is None or not _has_room(self.device):
            return False
        captures = self._missing()
        if captures:
            captures[0]()
        return len(captures) > 1

    def _missing(self) -> list[Callable[[], None]]:
        """Captures of the graphs that are not there yet, the likeliest first."""
        captures: list[Callable[[], None]] = []
        for shares in (False, True):
            captures += [
                partial(self.graphs.capture, key) for key in self.graphs.missing(shares=shares)
            ]
            captures += [
                partial(self.mixed.capture, shape) for shape in self.mixed.missing(shares=shares)
            ]
        return captures

    @torch.inference_mode()
    def launch(self, plan: Plan) -> PendingTokens:
        """Launches one step; its tokens come when the device is so far."""
        for admission in plan.admitted:
            self.slots.admit(admission)
            self.sampling.admit(admission)
            if self.loras is not None:
                self.loras.admit(admission)
        self._follow_loras()
        cleared: list[int] = []
        for chunk in plan.chunks:
            if chunk.new_blocks:
                first = int(self.slots.num_blocks[chunk.slot])
                fresh = self.slots.grow(chunk)
                last = int(self.slots.num_blocks[chunk.slot])
                blocks = self.slots.block_tables[chunk.slot, first:last]
                self.device_slots.grow(chunk.slot, first, blocks)
                if not self._decodes(chunk):
                    cleared += fresh
        self.device_slots.flush()
        self.sampling.flush()
        if cleared:
            (blocks,) = send([np.array(cleared, dtype=np.int64)], self.device)
            self.cache.clear_values(blocks)
        if not plan.chunks:
            return PendingTokens(tokens=torch.empty(0, dtype=torch.int64), event=None)
        if all(self._decodes(chunk) for chunk in plan.chunks):
            return self._run_decode(plan.chunks)
        return self._run_mixed(plan.chunks)

    def _follow_loras(self) -> None:
        """Lets go of graphs, once they have run, in which a layer lacks what it now has to do."""
        if self.loras is not None and self.loras.version != self._lora_version:
            self._lora_version = self.loras.version
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.graphs.drop_lora()
            self.mixed.drop_lora()

    def _decodes(self, chunk: Chunk) -> bool:
        """Whether the chunk is a token that the device sampled last."""
        return chunk.num_tokens == 1 and chunk.start >= self.slots.num_tokens[chunk.slot]

    def _run_decode(self, chunks: Sequence[Chunk]) -> PendingTokens:
        slots = [chunk.slot for chunk in chunks]
        shared = self._find_shared(chunks, slots)
        sampled = self.graphs.run(slots, self.sampling.needs(slots), shared)
        return self._pending(slots, sampled, {})

    def _find_shared(self, chunks: Sequence[Chunk], slots: list[int]) -> SharedBlocks | None:
        """What the sequences of a decode step begin with; looked for when they have changed."""
        if (batch := (self.slots.num_admissions, slots)) != self._looked_at:
            self._looked_at = batch
            self._shared = find_shared(self.slots, slots, [chunk.start + 1 for chunk in chunks])
        return self._shared

    def _run_mixed(self, chunks: Sequence[Chunk]) -> PendingTokens:
        batch = MixedBatch(chunks, self.slots, self.loras)
        is_described = any(self._prompts.wants(chunk) for chunk in chunks)
        computed = self.mixed.run(batch, wants_all=is_described)
        inputs = computed.inputs
        prompts = self._prompts.of(chunks, batch.spans, computed.hidden)
        slots = [chunk.slot for chunk in chunks if chunk.samples]
        if not slots:
            nothing = torch.empty(0, dtype=torch.int64, device=self.device)
            return self._pending([], Sampled(tokens=nothing, described=None), prompts)
        needs = self.sampling.needs(slots)
        self.sampling.prepare(needs)
        count = len(slots)
        owners, positions = inputs.sample_slots[:count], inputs.sample_positions[:count]
        with self._applying(slots, inputs.sample_lora_rows()):
            logits = self.model.logits(computed.of_samples(count))
        logits = widened(logits, self.sampling.vocab_size)
        known, default = None, self.sampling.num_known_tokens
        if self.loras is not None:
            known = self.loras.num_known_tokens(self.loras.of(slots), default)
        tokens = self.sampling.sample(logits, owners, positions, needs, known)
        described = describe(logits, tokens) if needs.logprobs else None
        self.device_slots.last_tokens.index_copy_(0, owners, tokens)
        return self._pending(slots, Sampled(tokens=tokens, described=described), prompts)

    def _logits_of_one(self, slot: int, hidden: Tensor) -> Tensor:
        with self._applying([slot] * len(hidden)):
            return self.model.logits(hidden)

    def _applying(
        self, slots: Sequence[int], rows: LoraRows | None = None
    ) -> AbstractContextManager[None]:
        """What layers called inside do for rows of these slots; for kernels where ``rows`` are."""
        if self.loras is None:
            return nullcontext()
        wanted = self.loras.of(slots)
        mode = self.loras.mode(wanted)
        if rows is None or mode is LoraMode.OWN:
            return self.loras.using(wanted)
        return self.loras.state.using(mode, {len(wanted): rows})

    def _pending(
        self, slots: list[int], sampled: Sampled, prompts: dict[int, tuple[list[Described], int]]
    ) -> PendingTokens:
        """Sends the step's tokens on their way; later steps may overwrite them on the device."""
        wanted: dict[int, int] = {}
        described = None
        if sampled.described is not None:
            described = described_to_host(sampled.described)
            for row, slot in enumerate(slots):
                params = self.sampling.params[slot]
                if params is not None and params.logprobs is not None:
                    wanted[row] = params.logprobs
        tokens = to_host(sampled.tokens[: len(slots)])
        event = None
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        return PendingTokens(
            tokens=tokens, event=event, described=described, wanted=wanted, prompts=prompts
        )


def _has_room(device: torch.device) -> bool:
    return torch.cuda.mem_get_info(device)[0] >= _LEAST_ROOM
