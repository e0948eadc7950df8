"""CUDA graphs that share the memory of what they compute on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

_REST = 4
"""Steps without a graph of theirs that run before another is made."""


class GraphPool:
    """Makes graphs; they share memory, for they never run together."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._num_without = 0

    def may_capture(self) -> bool:
        """Whether the step that asks, which lacks a graph, is to be kept waiting for one.

        That takes as long as a few steps. Not soon after another was made: streams would wait for
        several in a row; steps that ask meanwhile run without.
        """
        self._num_without += 1
        return self._num_without > _REST

    def capture(
        self, step: Callable[[], Result], *, is_known: bool = False
    ) -> tuple[torch.cuda.CUDAGraph, Result]:
        """Records what a function launches.

        ``torch.cuda.graph`` would hand back all unused memory to the driver before each graph,
        which takes longer than the graph.

        Args:
            step: Launches kernels and waits for nothing.
            is_known: Whether all its kernels have run before, as those of another size. Else it
                runs once without being recorded: kernels are compiled and libraries made ready.

        Returns:
            The graph, and what the function returned: where each replay leaves its results.
        """
        if not is_known:
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Relaxed: a library may still load a kernel of its own when it first launches it.
            graph.capture_begin(pool=self._memory, capture_error_mode="relaxed")
            try:
                result = step()
            finally:
                graph.capture_end()
        self._num_without = 0
        return graph, result
