"""The device is handed on clean: servers that tests start are processes of their own."""

from __future__ import annotations

import gc

import pytest
import torch


@pytest.fixture(autouse=True)
def empty_device():
    yield
    gc.collect()
    torch.cuda.empty_cache()
