"""What runs beside the main line of a step; the streams themselves need a device (tests/gpu)."""

from __future__ import annotations

import torch

from ferrule.kernels import beside as module
from ferrule.kernels.beside import beside, is_beside, join
from ferrule.kernels.product_tile import counters_of

HOST = torch.device("cpu")


def test_on_a_host_everything_runs_one_after_another():
    with beside(HOST):
        assert not is_beside()
    join(HOST)


def test_two_lines_never_count_in_the_same_place(monkeypatch):
    of_main = counters_of(HOST, 8)
    assert counters_of(HOST, 8) is of_main
    monkeypatch.setattr(module, "_is_beside", True)
    of_side = counters_of(HOST, 8)
    assert of_side is not of_main
    assert of_side.data_ptr() != of_main.data_ptr()
