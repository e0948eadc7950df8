"""Paged attention against plain attention in float64, over every way to cut sequences."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers import AttentionSpec
from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime.attention import PagedAttention
from ferrule.runtime.batch import make_batch
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.slots import Slots

CPU = torch.device("cpu")
HEADS, KV_HEADS, DIM, BLOCK = 6, 2, 8, 4


def reference(q, k, v, window):
    """All of a sequence at once: ``[tokens, heads, dim]``."""
    length = q.shape[0]
    k = k.double().repeat_interleave(HEADS // KV_HEADS, dim=1)
    v = v.double().repeat_interleave(HEADS // KV_HEADS, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * 0.3
    places = torch.arange(length)
    visible = places[None] <= places[:, None]
    if window is not None:
        visible &= places[None] > places[:, None] - window
    scores = scores.masked_fill(~visible, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


class Paged:
    """Runs sequences through paged attention, cut into chunks."""

    def __init__(self, lengths, windows):
        specs = [
            AttentionSpec(
                num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, window=window, scale=0.3
            )
            for window in windows
        ]
        self.cache = KVCache(
            specs, num_blocks=64, block_size=BLOCK, dtype=torch.float32, device=CPU
        )
        for layer in self.cache.layers:  # what former sequences left must not matter
            layer.keys[:64] = torch.nan
            layer.values[:64] = torch.nan
        self.attention = PagedAttention(specs, self.cache)
        self.slots = Slots(
            len(lengths),
            max_length=64,
            block_size=BLOCK,
            padding_block=self.cache.padding_block,
        )
        self.blocks = torch.randperm(64).tolist()
        self.q = [torch.randn(n, HEADS, DIM) for n in lengths]
        self.k = [torch.randn(n, KV_HEADS, DIM) for n in lengths]
        self.v = [torch.randn(n, KV_HEADS, DIM) for n in lengths]
        for slot, length in enumerate(lengths):
            self.slots.admit(
                Admission(
                    slot=slot,
                    tokens=[0] * length,
                    num_prompt=length,
                    sampling=SamplingParams(),
                )
            )

    def step(self, spans):
        """``spans``: slot to (start, end). Returns each slot's outputs, for each layer."""
        chunks = []
        for slot, (start, end) in spans.items():
            needed = -(-end // BLOCK) - int(self.slots.num_blocks[slot])
            new = [self.blocks.pop() for _ in range(needed)]
            chunks.append(Chunk(slot=slot, start=start, num_tokens=end - start, new_blocks=new))
            self.cache.clear(self.slots.grow(chunks[-1]))
        batch = make_batch(
            chunks,
            self.slots,
            windows=self.attention.windows,
            dtype=torch.float32,
            device=CPU,
        )

        def rows(tensors):
            out = torch.empty(len(batch.tokens), *tensors[0].shape[1:])
            for (slot, (start, end)), where in zip(spans.items(), batch.order, strict=True):
                out[where] = tensors[slot][start:end]
            return out

        outs = [a(rows(self.q), rows(self.k), rows(self.v)) for a in self.attention.attends(batch)]
        return [
            {slot: out[where] for slot, where in zip(spans, batch.order, strict=True)}
            for out in outs
        ]


@pytest.mark.parametrize(
    "steps",
    [
        [{0: (0, 13), 1: (0, 6), 2: (0, 1)}],
        [{0: (0, 5)}, {0: (5, 12), 1: (0, 6)}, {0: (12, 13), 2: (0, 1)}],
        [{1: (0, 5)}, {1: (5, 6), 0: (0, 12)}, {0: (12, 13), 2: (0, 1)}],
        [{0: (0, 12), 1: (0, 5)}, {1: (5, 6), 0: (12, 13)}, {2: (0, 1)}],
    ],
    ids=["whole", "chunks", "decode beside prefill", "decode together"],
)
@pytest.mark.parametrize("windows", [[None], [3, None], [5, 100]])
@pytest.mark.parametrize("max_gathered", [1 << 18, 14])
def test_any_cut_gives_what_the_whole_sequence_gives(steps, windows, max_gathered, monkeypatch):
    monkeypatch.setattr("ferrule.runtime.batch.MAX_GATHERED_TOKENS", max_gathered)
    torch.manual_seed(0)
    lengths = [13, 6, 1]
    paged = Paged(lengths, windows)
    found = [[torch.empty(n, HEADS, DIM) for n in lengths] for _ in windows]
    for spans in steps:
        for layer, outputs in enumerate(paged.step(spans)):
            for slot, out in outputs.items():
                start, end = spans[slot]
                found[layer][slot][start:end] = out
    for layer, window in enumerate(windows):
        for slot in range(3):
            expected = reference(paged.q[slot], paged.k[slot], paged.v[slot], window)
            torch.testing.assert_close(found[layer][slot].double(), expected, rtol=1e-4, atol=1e-5)
