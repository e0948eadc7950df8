"""Which calls wake a driver: a library of C that notes them stands in for it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ferrule.runtime.driver import wake_driver

DRIVER = """
#include <stdio.h>
static void note(const char *what, int value) {
    FILE *file = fopen("CALLS", "a");
    fprintf(file, "%s %d\\n", what, value);
    fclose(file);
}
int cuInit(unsigned flags) { note("init", flags); return FAILS; }
int cuDeviceGet(int *device, int index) { note("get", index); *device = 7; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { note("retain", device); return 0; }
"""


@pytest.fixture
def calls_of(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")

    def run(devices, *, fails=0):
        calls, source, library = (tmp_path / name for name in ("calls", "cuda.c", "libcuda.so"))
        calls.touch()
        source.write_text(DRIVER.replace("CALLS", str(calls)).replace("FAILS", str(fails)))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        thread = wake_driver(devices, library=str(library))
        if thread is not None:
            thread.join()
        return calls.read_text().splitlines()

    return run


@pytest.mark.parametrize(("devices", "index"), [("auto", 0), ("gpu", 0), ("gpu:1", 1)])
def test_the_device_that_will_be_taken_gets_its_context(calls_of, devices, index):
    assert calls_of(devices) == ["init 0", f"get {index}", "retain 7"]


@pytest.mark.parametrize("devices", ["cpu", "gpu:", "gpu:-1", "tpu"])
def test_nothing_is_done_where_no_gpu_is_asked_for(calls_of, devices):
    assert calls_of(devices) == []


def test_a_driver_that_fails_is_left_alone(calls_of):
    assert calls_of("auto", fails=100) == ["init 0"]


def test_no_driver_is_no_error(tmp_path):
    thread = wake_driver("auto", library=str(tmp_path / "libcuda.so.1"))
    assert thread is not None
    thread.join()
