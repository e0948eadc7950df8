"""Times of calls on a device, for the benchmarks beside this file."""

from __future__ import annotations

import json
import statistics

import torch


def microseconds(calls, repeats=9):
    """Median time of a call, of a graph of all of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return statistics.median(times[1:]) / len(calls) * 1000


def say(**values):
    """A line of JSON."""
    short = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(short), flush=True)
