"""Packed weights on the device: every type, number of rows and way, against float64."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
BLOCKS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "gguf_blocks.py"))
LARGE = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def loaded(name, num_rows, num_cols, dtype=torch.bfloat16, seed=0):
    """A storage, and its weights in float64."""
    data = BLOCKS["random_blocks"](name, num_rows, num_cols, seed)
    storage = FORMATS[name].allocate(num_rows, num_cols, dtype=dtype, device=DEVICE)
    assert isinstance(storage, PackedStorage)
    storage.write(0, data, FORMATS[name])
    storage.finish(gathers=True)
    return storage, BLOCKS["exact"](name, data).double().to(DEVICE)


def columns(name):
    return (512, 2816) if name in LARGE else (96, 1056)


@pytest.mark.parametrize("rows", [1, 3, 8, 17, 64, 300])
@pytest.mark.parametrize("name", LAYOUTS)
def test_errors_are_no_larger_than_those_of_bfloat16_weights(name, rows):
    for num_cols, num_rows in zip(columns(name), (1030, 328), strict=True):
        storage, weight = loaded(name, num_rows, num_cols)
        unit = 1 / (weight.std() * num_cols**0.5)
        x = (torch.randn(rows, num_cols, device=DEVICE) * unit).bfloat16()
        bias = torch.randn(num_rows, device=DEVICE).bfloat16()
        hidden = torch.randn(rows, num_rows, device=DEVICE).bfloat16()
        exact, dense = x.double() @ weight.T, weight.bfloat16()
        # Different orders of the same sums differ by a few percent of the error.
        most = 1.05 * error(F.linear(x, dense), exact)
        assert error(storage.multiply(x), exact) <= most
        biased = exact + bias.double()
        added = storage.multiply(x, bias, hidden.clone())
        assert error(added, biased + hidden.double()) < 5e-3
        gate, up = biased.chunk(2, dim=-1)
        assert error(storage.multiply_gated(x, bias), F.silu(gate) * up) < 1e-2
        wide = torch.full((rows, num_rows + 16), 7.0, device=DEVICE, dtype=torch.bfloat16)
        storage.multiply_beside([], x, wide[:, 8:-8], None, adds=False)
        assert error(wide[:, 8:-8], exact) <= most
        assert (wide[:, :8] == 7).all()
        assert (wide[:, -8:] == 7).all()


@pytest.mark.parametrize("rows", [1, 8, 17, 64, 300])
@pytest.mark.parametrize("names", [("Q4_K", "Q6_K"), ("Q5_K", "Q6_K"), ("Q5_0", "Q8_0")], ids=str)
def test_matrices_of_two_types_go_side_by_side(names, rows):
    counts, num_cols = (5120, 1032), 4096
    storages, weights = [], []
    for name, count in zip(names, counts, strict=True):
        storage, weight = loaded(name, count, num_cols, seed=count)
        storages.append(storage)
        weights.append(weight)
    unit = 1 / (torch.cat(weights).std() * num_cols**0.5)
    x = (torch.randn(rows, num_cols, device=DEVICE) * unit).bfloat16()
    bias = torch.randn(sum(counts), device=DEVICE).bfloat16()
    wide = torch.full((rows, sum(counts) + 16), 7.0, device=DEVICE, dtype=torch.bfloat16)
    inside = wide[:, 8:-8]
    for added in (None, bias, None):  # counters of split columns are left as they were found
        storages[0].multiply_beside(storages[1:], x, inside, added, adds=False)
        for weight, found, of_part in zip(
            weights, inside.split(counts, dim=1), bias.split(counts), strict=True
        ):
            exact = x.double() @ weight.T
            if added is None:
                most = 1.05 * error(F.linear(x, weight.bfloat16()), exact)
                assert error(found, exact) <= most
            else:
                assert error(found, exact + of_part.double()) < 5e-3
    assert (wide[:, :8] == 7).all()
    assert (wide[:, -8:] == 7).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_and_whole_matrices_are_the_files_weights_rounded(name):
    storage, weight = loaded(name, 1030, columns(name)[1])
    assert torch.equal(storage.dense(), weight.bfloat16())
    index = torch.tensor([[0, 1029, 64], [63, 5, 0]], device=DEVICE)
    assert torch.equal(storage.gather(index), weight[index].bfloat16())
    storage.keep_copy()
    assert torch.equal(storage.weight.copy, weight.bfloat16())


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q5_K"])
@pytest.mark.parametrize("shape", [(6144, 4096), (4096, 14336), (28672, 4096)], ids=str)
def test_products_of_full_size(name, shape):
    storage, weight = loaded(name, *shape)
    for rows in (1, 8, 16, 32, 64):
        x = (torch.randn(rows, shape[1], device=DEVICE) * 0.01).bfloat16()
        exact = x.double() @ weight.T
        most = 1.05 * error(F.linear(x, weight.bfloat16()), exact)
        for _ in range(3):  # counters of split columns are left as they were found
            assert error(storage.multiply(x), exact) <= most, rows


def test_float16_activations():
    storage, weight = loaded("Q4_K", 1030, 512, dtype=torch.float16)
    for rows in (1, 17, 300):
        x = (torch.randn(rows, 512, device=DEVICE) * 0.01).half()
        assert error(storage.multiply(x), x.double() @ weight.T) < 1e-3


def test_a_compiled_function_calls_packed_products():
    storage, weight = loaded("Q4_K", 256, 512)

    @torch.compile(fullgraph=True, dynamic=True)
    def run(x, hidden):
        return storage.multiply(x + 1, None, hidden * 2), storage.multiply_gated(x)

    for rows in (1, 3, 300):
        x = (torch.randn(rows, 512, device=DEVICE) * 0.1).bfloat16()
        hidden = torch.randn(rows, 256, device=DEVICE).bfloat16()
        with torch.inference_mode():
            added, gated = run(x, hidden)
        exact = (x + 1).double() @ weight.T + 2 * hidden.double()
        assert error(added, exact) < 6e-3
        gate, up = (x.double() @ weight.T).chunk(2, dim=-1)
        assert error(gated, F.silu(gate) * up) < 2e-2


@pytest.mark.realmodel
@pytest.mark.parametrize("copy", ["on", "off"])
def test_a_real_file_differs_from_float32_only_at_near_ties(smollm2, golden, copy):
    """The gap rule of test_golden.py, step by step, with and without a copy."""
    from ferrule.llm import LLM
    from ferrule.plan import SamplingParams

    llm = LLM(smollm2 / "smollm2-135m.gguf", devices="gpu", gguf_resident_copy=copy)
    assert (llm.info.weight_bytes > 200e6) == (copy == "on")
    prompts = golden("llama")
    compared = 0
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=5)
    given = [prompt["prompt_ids"] + prompt["greedy_ids"] for prompt in prompts]
    for prompt, result in zip(prompts, llm.generate(given, params), strict=True):
        steps = result.prompt_logprobs[len(prompt["prompt_ids"]) :]
        for step, (described, gap) in enumerate(zip(steps, prompt["gaps"], strict=True)):
            if gap >= 0.3:
                assert described.rank == 1, (prompt["id"], step, gap)
                compared += 1
    assert compared > 400
    # Step by step through decode graphs, each prompt alone and all of them together.
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    asked = [prompt["prompt_ids"] for prompt in prompts]
    together = llm.generate(asked, params)
    alone = [llm.generate([ids], params)[0] for ids in asked]
    for prompt, *results in zip(prompts, together, alone, strict=True):
        firm = next((i for i, gap in enumerate(prompt["gaps"]) if gap < 0.3), 24)
        for result in results:
            assert result.tokens[: min(firm, 24)] == prompt["greedy_ids"][: min(firm, 24)]
