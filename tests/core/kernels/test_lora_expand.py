"""Low-rank products of a mixed batch in Triton's interpreter, against the definition in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

SETUP = """
from ferrule.kernels import lora_shrink
from ferrule.kernels.lora_expand import column_tiles, expand
from ferrule.kernels.lora_gated import expand_gated
from ferrule.kernels.lora_shrink import shrink

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}

def check(
    dtype, size, widths=(96, 16, 40), num_in=200, max_rank=32, scales=False, x_pad=5, gated=False
):
    num_slots, num_parts, num_rows, num_out = 4, len(widths), 50, sum(widths)
    x = within(num_in + x_pad, torch.randn(num_rows, num_in).to(dtype))
    y = torch.randn(num_rows, num_out).to(dtype)
    # What lies beyond an adapter's rank is left by another and must not be read.
    a = torch.full((num_slots, num_parts, max_rank, num_in), torch.nan, dtype=dtype)
    b = torch.full((num_slots, num_out, max_rank), torch.nan, dtype=dtype)
    ranks = torch.tensor([[8, 0, 20], [16, 16, 16], [0, 32, 1], [3, 5, 7]], dtype=torch.int32)
    ranks = ranks[:, :num_parts].clamp(max=max_rank)
    gains = torch.randn(num_slots, num_out) if scales else None
    biases = torch.randn(num_slots, num_out) if scales else None
    wanted = torch.randint(-1, 3, (num_rows,))  # nobody wants slot 3
    exact, start = y.double().clone(), 0
    for part, width in enumerate(widths):
        columns = slice(start, start + width)
        for slot in range(num_slots):
            rank, rows = int(ranks[slot, part]), wanted == slot
            a[slot, part, :rank] = (torch.randn(rank, num_in) * num_in**-0.5).to(dtype)
            b[slot, columns, :rank] = (torch.randn(width, rank) * max(rank, 1)**-0.5).to(dtype)
            low = x[rows].double() @ a[slot, part, :rank].double().T
            exact[rows, columns] += low @ b[slot, columns, :rank].double().T
            if scales:
                scaled = exact[rows, columns] * gains[slot, columns] + biases[slot, columns]
                exact[rows, columns] = scaled
        start += width
    slots, rows = [-1], [[-1] * size]  # an empty chunk may stand anywhere
    for slot in range(num_slots):
        of_slot = (wanted == slot).nonzero()[:, 0].tolist()
        for first in range(0, len(of_slot), size):
            part = of_slot[first : first + size]
            slots.append(slot)
            rows.append(part + [-1] * (size - len(part)))
    # Rows without an adapter come in chunks as well.
    for first in range(0, num_rows, size):
        part = (wanted < 0).nonzero()[first : first + size, 0].tolist()
        slots.append(-1)
        rows.append(part + [-1] * (size - len(part)))
    slots, rows = torch.tensor(slots), torch.tensor(rows)
    untouched = y[wanted < 0].clone()
    for _ in range(2):  # counters of splits are left as they were found
        low = shrink(x, a, ranks, slots, rows)
    if gated:
        out = expand_gated(low, y, b, ranks, slots, rows, gains, biases)
        gate, up = exact.chunk(2, 1)
        exact = torch.nn.functional.silu(gate) * up
        assert error(out, exact) < 2 * TOLERANCE[dtype], (dtype, size, error(out, exact))
        return
    tiles = column_tiles(list(widths), x.device)
    expand(low, y, b, ranks, tiles, slots, rows, gains, biases)
    assert torch.equal(y[wanted < 0], untouched), "rows without an adapter"
    assert error(y, exact) < TOLERANCE[dtype], (dtype, size, widths, error(y, exact))
"""


@pytest.mark.parametrize(
    "program",
    [
        "check(torch.float32, 16)",
        "check(torch.float16, 16, scales=True)",
        "check(torch.float32, 64, scales=True)",
        "check(torch.float32, 16, widths=(130,), num_in=256, max_rank=16)",
        "lora_shrink._PROGRAMS = 1; check(torch.float32, 16, widths=(32, 32))",
        "check(torch.float32, 16, widths=(140, 140), gated=True)",
        "check(torch.float16, 64, widths=(40, 40), scales=True, gated=True)",
    ],
    ids=[
        "parts",
        "gains and biases",
        "large chunks",
        "a column over a tile",
        "one split",
        "gated",
        "gated with gains",
    ],
)
def test_each_row_gets_what_its_adapter_adds(interpret, program):
    interpret(SETUP + program)
