"""When kernels are launched before those in front of them have ended."""

from __future__ import annotations

import pytest
import torch

from ferrule.kernels import overlap
from ferrule.kernels.overlap import launch_options, overlapping, shared_memory, wait_for_all

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(overlap, "is_hopper", lambda device: device.type == "cuda")


def is_on(device=GPU):
    options = launch_options(device)
    # Triton takes the one as the kernel's own argument and the other as its launcher's.
    assert options in ({"OVERLAP": True, "launch_pdl": True}, {"OVERLAP": False})
    return options["OVERLAP"]


@pytest.mark.usefixtures("hopper")
def test_it_is_off_until_asked_for_and_nesting_restores():
    assert not is_on()
    with overlapping(True):
        assert is_on()
        with overlapping(False):
            assert not is_on()
            with overlapping(True):
                assert is_on()
            assert not is_on()
        assert is_on()
    assert not is_on()


@pytest.mark.usefixtures("hopper")
def test_an_error_inside_restores_too():
    def fail():
        with overlapping(True):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert not is_on()


def test_it_is_off_on_the_host():
    with overlapping(True):
        assert launch_options(CPU) == {"OVERLAP": False}


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 0), True), ((12, 0), True)],
)
def test_hopper_and_later_have_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert overlap.is_hopper.__wrapped__(GPU) is expected
    assert overlap.is_hopper.__wrapped__(CPU) is False


def test_a_host_stands_in_for_a_device_with_room():
    assert shared_memory(torch.device("cpu")) == 227 * 1024


@pytest.mark.usefixtures("hopper")
def test_what_comes_after_several_kernels_waits_as_ever_and_the_next_does_not():
    with overlapping(True):
        wait_for_all()
        assert not is_on()
        assert is_on()
