"""Times products with packed weights over many cuts: ``python tests/gpu/bench_packed.py``.

Prints a line of JSON for each type, matrix and number of rows: the fastest cut of each number of
rows with its time and bytes of planes per second, what ``choose_packed_tiles`` takes, and cuBLAS's
time with bfloat16 weights. Times are medians of graph replays over copies of the matrix that are
larger together than the cache. Every cut that is reported is checked against float64.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from timing import microseconds, say

from ferrule.kernels.dequantize import dequantize
from ferrule.kernels.packed import packed_product
from ferrule.kernels.packed_tiles import PackedTiles, choose_packed_tiles
from ferrule.kernels.plane_layout import LAYOUTS, Planes
from ferrule.quantization.repack import empty_planes

MATRICES = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q4_0")
ROWS = (1, 8, 16, 32, 64)
BYTES = 150e6


def candidates(rows, outs, ins, layout):
    """Cuts worth a try."""
    if rows <= 8:
        shapes, stages, first = [(16, 1), (32, 2), (64, 2), (64, 4)], (2, 4), (False,)
    elif rows <= 16:
        shapes, stages, first = [(32, 2), (64, 4)], (3,), (False, True)
    else:
        shapes, stages = [(64, 2), (64, 4), (128, 4), (128, 8), (256, 8)], (2, 3)
        first = (False, True) if rows <= 32 else (True,)
    units = (1, 2) if layout.unit == 128 and rows <= 8 else (1,)
    for (block_n, warps), unit, stage, scales_first in product(shapes, units, stages, first):
        tiles = -(-outs // block_n)
        for splits in (1, 2, 4, 8):
            is_whole = ins // layout.unit % (splits * unit) == 0
            enough = 132 <= tiles * splits <= 8 * 132 or (splits == 1 and tiles > 132)
            if is_whole and enough:
                yield PackedTiles(block_n, unit, splits, warps, stage, scales_first)


def random_planes(name, outs, ins):
    """Random planes with small scales, and the same as float64 where it is small enough."""
    layout = LAYOUTS[name]
    planes = empty_planes(layout, outs, ins, torch.device("cuda"))
    for plane in (planes.low, planes.high):
        if plane.numel():
            plane.random_(-32768, 32768)
    if layout.has_tops:
        planes.scale.random_(-(1 << 31), (1 << 31) - 1)
        if planes.minimum.numel():
            planes.minimum.random_(-(1 << 31), (1 << 31) - 1)
        if layout.has_minimum:
            halves = torch.rand(*planes.top.shape, 2, device="cuda").half() * 1e-4
            planes.top.copy_(halves.view(torch.int32).squeeze(-1))
        else:
            planes.top.copy_((torch.rand(planes.top.shape, device="cuda") * 1e-4).view(torch.int32))
    else:
        for plane in (planes.scale, planes.minimum):
            if plane.numel():
                halves = torch.rand(*plane.shape, 2, device="cuda").half() * 1e-2
                plane.copy_(halves.view(torch.int32).squeeze(-1))
    return planes


def compile_one(job):
    """Puts a kernel into Triton's cache, in a process of its own."""
    name, rows, outs, ins, gated, tiles = job
    try:
        planes = Planes(*(torch.zeros(1 << 20, device="cuda", dtype=t) for t in DTYPES))
        x = torch.zeros(rows, ins, device="cuda", dtype=torch.bfloat16)
        # The kernel's code depends on no size that is not in the tiles; it need not run right.
        warm(x, planes, name, outs, gated, tiles)
    except Exception as error:
        return f"{job}: {str(error)[:200]}"
    return None


DTYPES = (torch.int16, torch.int16, torch.int32, torch.int32, torch.int32)


def warm(x, planes, name, outs, gated, tiles):
    """Compiles without a launch."""
    from ferrule.kernels import packed

    kernel = packed._packed_kernel

    class Warm:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: kernel.warmup(*args, grid=grid, **kwargs)

    packed._packed_kernel = Warm()
    try:
        packed_product(x, planes, LAYOUTS[name], outs, gated=gated, tiles=tiles)
    finally:
        packed._packed_kernel = kernel


def compile_all(jobs):
    """As many at a time as there are cores."""
    begin = time.monotonic()
    count = max(1, min(14, len(os.sched_getaffinity(0)) - 1))
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(compile_one, job) for job in jobs]
        failed = [error for f in as_completed(futures) if (error := f.result())]
    say(compiled=len(jobs), seconds=time.monotonic() - begin, failed=failed[:5])


def distinct(names, rows_list, matrices, quick):
    """The kernels of a run: those of equal tiles and block of rows are one."""
    jobs = {}
    for name, rows, matrix in product(names, rows_list, matrices):
        outs, ins = MATRICES[matrix]
        tried = list(candidates(rows, outs, ins, LAYOUTS[name]))
        for tiles in tried[:: 3 if quick else 1]:
            key = (name, max(8, rows), matrix == "gate_up", tiles)
            jobs.setdefault(key, (name, rows, outs, ins, matrix == "gate_up", tiles))
    return list(jobs.values())


def time_matrix(name, matrix, rows_list, deadline, quick):
    """All numbers of rows for one matrix of one type."""
    outs, ins = MATRICES[matrix]
    layout, gated = LAYOUTS[name], matrix == "gate_up"
    size = layout.num_bytes(outs, ins)
    count = max(2, int(BYTES / size) + 1)
    copies = [random_planes(name, outs, ins) for _ in range(count)]
    dense = dequantize(
        copies[0], layout, torch.empty(outs, ins, device="cuda", dtype=torch.float32)
    )
    plain = [dense.bfloat16() for _ in range(max(2, int(BYTES / outs / ins / 2) + 1))]
    for rows in rows_list:
        x = torch.randn(rows, ins, device="cuda", dtype=torch.bfloat16)
        sample = torch.randperm(outs // 2, device="cuda")[:2000]
        exact = expected(x, dense, sample, gated)
        found = []
        tried = list(candidates(rows, outs, ins, layout))[:: 3 if quick else 1]
        chosen = choose_packed_tiles(rows, outs, ins, layout, has_copy=False)
        for tiles in [chosen, *tried]:
            if time.monotonic() > deadline:
                break

            def call(planes, tiles=tiles, x=x):
                return packed_product(x, planes, layout, outs, gated=gated, tiles=tiles)

            try:
                out = call(copies[0])[:, sample]
                wrong = ((out.double() - exact).norm() / exact.norm()).item()
                if not wrong < 6e-3:
                    say(wrong=wrong, type=name, matrix=matrix, rows=rows, tiles=str(tiles))
                    continue
                us = microseconds([lambda p=p: call(p) for p in copies])
            except Exception as error:
                say(failed=str(error)[:150], type=name, rows=rows, tiles=str(tiles))
                continue
            found.append((us, wrong, tiles))
        vendor = microseconds([lambda w=w, x=x: F.linear(x, w) for w in plain])
        best = sorted(found, key=lambda each: each[0])
        if not best:
            continue
        say(
            type=name,
            matrix=matrix,
            rows=rows,
            us=best[0][0],
            tb_s=size / best[0][0] / 1e6,
            best=str(best[0][2]).removeprefix("PackedTiles"),
            next=[(round(us, 1), str(t).removeprefix("PackedTiles")) for us, _, t in best[1:3]],
            chosen_us=next((us for us, _, t in found if t == chosen), None),
            cublas_us=vendor,
            error=best[0][1],
        )
    out = torch.empty(outs, ins, device="cuda", dtype=torch.bfloat16)
    us = microseconds([lambda p=p: dequantize(p, layout, out) for p in copies])
    say(type=name, matrix=matrix, dequantize_us=us, tb_s=(size + 2 * outs * ins) / us / 1e6)


def expected(x, dense, sample, gated):
    """float64 sums for some columns of the output."""
    product = x.double() @ dense[sample].double().T
    if not gated:
        return product
    up = x.double() @ dense[sample + dense.shape[0] // 2].double().T
    return F.silu(product) * up


def main():
    """Compiles, then times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--matrices", nargs="+", default=tuple(MATRICES))
    parser.add_argument("--quick", action="store_true", help="every third cut")
    parser.add_argument("--seconds", type=float, default=500)
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    compile_all(distinct(args.types, args.rows, args.matrices, args.quick))
    for name, matrix in product(args.types, args.matrices):
        torch.cuda.empty_cache()
        time_matrix(name, matrix, args.rows, deadline, args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
