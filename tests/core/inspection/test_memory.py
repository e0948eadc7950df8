from __future__ import annotations

import pytest

from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError
from ferrule.inspection import inspect_checkpoint

# Two layers, keys and values, two heads of 16 channels, four bytes each.
PER_TOKEN = 2 * 2 * 2 * 16 * 4


def memory(folder, *, context=None, **options):
    asked = EngineOptions(model=str(folder), devices="cpu", kv_cache_page_size=16, **options)
    return inspect_checkpoint(asked, context=context).memory


def test_weights_are_counted_as_stored_and_as_loaded(tiny_llama):
    found = memory(tiny_llama, dtype="bfloat16")
    numbers = 272 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64)
    assert (found.stored_bytes, found.weight_bytes) == (4 * numbers, 2 * numbers)


def test_the_cache_is_reckoned_in_whole_blocks_for_the_context_asked_for(tiny_llama):
    found = memory(tiny_llama, context=17)
    assert found.kv_bytes_per_token == PER_TOKEN
    assert (found.context, found.kv_bytes) == (17, 32 * PER_TOKEN)


def test_without_a_context_it_is_the_one_that_would_be_served(tiny_llama):
    assert memory(tiny_llama).context == 256
    assert memory(tiny_llama, max_length=100).context == 100


def test_the_context_that_fits_is_at_most_the_models(tiny_llama):
    found = memory(tiny_llama)
    assert found.context_that_fits == 256
    assert found.kv_tokens_that_fit > 256
    assert found.free_bytes > 0


def test_a_small_share_of_the_memory_holds_less(tiny_llama):
    whole = memory(tiny_llama, device_memory_utilization=1.0)
    half = memory(tiny_llama, device_memory_utilization=0.5)
    assert half.kv_tokens_that_fit < 0.6 * whole.kv_tokens_that_fit
    none = memory(tiny_llama, device_memory_utilization=0.001)
    assert (none.context_that_fits, none.kv_tokens_that_fit) == (0, 0)


def test_larger_steps_leave_less_for_the_cache(tiny_llama):
    small = memory(tiny_llama)
    large = memory(tiny_llama, max_batch_input_tokens=1_000_000)
    assert large.kv_tokens_that_fit < small.kv_tokens_that_fit


def test_a_share_that_makes_no_sense_is_an_error(tiny_llama):
    with pytest.raises(OptionError, match="--device-memory-utilization"):
        memory(tiny_llama, device_memory_utilization=90.0)
