"""Adapters on the device: the real ones step by step, mixed batches, and what no graph holds."""

from __future__ import annotations

import gc
import json

import pytest
import torch
from safetensors.torch import save_file

from ferrule.layers.lora import LoraMode
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]

FILES = {"pirate": "llama-lora", "rslora": "llama-lora", "ranks": "llama-lora"}
GOLDEN = {"": "llama", **FILES, "mlp": "llama-lora-mlp"}
MODES = {
    "plain": {},
    "in chunks": {"max_batch_input_tokens": 48, "max_batch_size": 8},
    "two slots": {"max_loras": 2, "max_cpu_loras": 1},
    "preempted": {"num_kv_blocks": 120, "kv_cache_page_size": 16, "max_length": 1700},
}


def load(path, adapters, names=("pirate", "rslora", "ranks", "mlp"), **options):
    paths = tuple((name, str(adapters / f"lora-{name.partition('-')[0]}")) for name in names)
    return LLM(path, devices="gpu", enable_lora=True, lora_paths=paths, **options)


def all_prompts(golden, names=tuple(GOLDEN)):
    """Adapters in turn, and the base between them."""
    by_name = {name: golden(GOLDEN[name]) for name in names}
    most = max(map(len, by_name.values()))
    return [
        (name, prompts[at])
        for at in range(most)
        for name, prompts in by_name.items()
        if at < len(prompts)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_differs_from_float32_only_at_near_ties(smollm2, adapters, golden, mode):
    llm = load(smollm2 / "llama", adapters, dtype="bfloat16", **MODES[mode])
    asked = all_prompts(golden)
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=5)
    results = llm.generate(
        [prompt["prompt_ids"] + prompt["greedy_ids"] for _, prompt in asked],
        params,
        lora=[name for name, _ in asked],
    )
    compared = 0
    for (name, prompt), result in zip(asked, results, strict=True):
        steps = result.prompt_logprobs[len(prompt["prompt_ids"]) :]
        for step, (described, gap) in enumerate(zip(steps, prompt["gaps"], strict=True)):
            if gap >= 0.3:
                assert described.rank == 1, (name, prompt["id"], step, gap)
                compared += 1
    assert compared > 1500


@pytest.mark.parametrize("path", ["llama", "smollm2-135m.gguf"])
def test_float32_greedy_tokens_of_a_mixed_batch_equal_the_reference(
    smollm2, adapters, golden, path
):
    """Decoding by graphs, with captures and replays of both kinds."""
    names = ["pirate", "rslora", "ranks", "mlp"]
    names += [f"{name}-again" for name in names]
    llm = load(smollm2 / path, adapters, names, dtype="float32")
    asked = all_prompts(golden)
    asked = [
        ((name and f"{name}-again" * (at % 2)) or name, p) for at, (name, p) in enumerate(asked)
    ]
    for _ in range(2):  # the second time from the prefix cache
        results = llm.generate(
            [prompt["prompt_ids"] for _, prompt in asked],
            SamplingParams(temperature=0, max_tokens=64, ignore_eos=True),
            lora=[name for name, _ in asked],
        )
        for (name, prompt), result in zip(asked, results, strict=True):
            firm = prompt["firm_until"]
            assert result.tokens[:firm] == prompt["greedy_ids"][:firm], (name, prompt["id"])


def test_batches_without_adapters_use_graphs_without_them(smollm2, adapters, golden):
    llm = load(smollm2 / "llama", adapters, dtype="bfloat16")
    graphs = llm.engine._runner.graphs
    (prompt, *_) = golden("llama")
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    used = []
    run = graphs.run

    def watched(slots, needs, shared):
        used.append(graphs._loras.mode(graphs._wanted(slots)))
        return run(slots, needs, shared)

    graphs.run = watched
    llm.generate([prompt["prompt_ids"]] * 3, params)
    assert set(used) == {LoraMode.OFF}
    llm.generate([prompt["prompt_ids"]] * 3, params, lora=["", "pirate", ""])
    assert LoraMode.DELTAS in used
    assert {key.lora for key in graphs.keys} == {LoraMode.OFF, LoraMode.DELTAS}


def make_adapter(folder, base, **settings):
    """DoRA on all modules of every layer, and a head of its own, beside random A and B."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, weight in base.items():
        if not name.endswith("_proj.weight"):
            continue
        path = f"base_model.model.{name.removesuffix('.weight')}"
        a = torch.randn(8, weight.shape[1], generator=generator) * 0.05
        b = torch.randn(weight.shape[0], 8, generator=generator) * 0.02
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = a, b
        length = weight.float().norm(dim=1)
        tensors[f"{path}.lora_magnitude_vector"] = length * (
            1 + 0.2 * torch.rand(len(length), generator=generator)
        )
    if "modules_to_save" in settings:
        head = base["model.embed_tokens.weight"].float()
        tensors["base_model.model.lm_head.weight"] = head + 0.02 * torch.randn(
            head.shape, generator=generator
        )
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": True}
    config["target_modules"] = "all-linear"
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize("kind", ["dora", "dora and a head"])
def test_gains_and_whole_weights_are_those_of_the_host(smollm2, adapters, golden, tmp_path, kind):
    from safetensors.torch import load_file

    base = load_file(smollm2 / "llama" / "model.safetensors")
    settings = {"modules_to_save": ["lm_head"]} if "head" in kind else {}
    make_adapter(tmp_path / "own", base, **settings)
    paths = (("own", str(tmp_path / "own")), ("pirate", str(adapters / "lora-pirate")))
    prompts = [prompt for prompt in golden("llama") if len(prompt["prompt_ids"]) < 100][:4]
    found = {}
    for devices in ("cpu", "gpu"):
        llm = LLM(
            smollm2 / "llama",
            devices=devices,
            dtype="float32",
            enable_lora=True,
            lora_paths=paths,
            max_length=512,
        )
        found[devices] = llm.generate(
            [prompt["prompt_ids"] + prompt["greedy_ids"][:16] for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, prompt_logprobs=1),
            lora=["own", "pirate", "", "own"],
        )
    for on_host, on_device in zip(found["cpu"], found["gpu"], strict=True):
        described = zip(on_host.prompt_logprobs[1:], on_device.prompt_logprobs[1:], strict=True)
        for one, other in described:
            assert other.logprob == pytest.approx(one.logprob, abs=5e-3)
        assert on_device.tokens[0] == on_host.tokens[0]


def test_adapters_come_and_go_without_leaving_anything(smollm2, adapters, golden):
    llm = load(smollm2 / "llama", adapters, ["pirate"], dtype="bfloat16", max_lora_rank=16)
    (prompt, *_) = golden("llama-lora")
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    sizes = []
    for _ in range(30):
        for name in ("mlp", "ranks"):
            llm.load_lora("guest", adapters / f"lora-{name}")
            llm.generate([prompt["prompt_ids"]] * 2, params, lora=["guest", "pirate"])
        llm.unload_lora("guest")
        gc.collect()
        sizes.append(torch.cuda.memory_allocated())
    assert abs(sizes[-1] - sizes[2]) < 1 << 20, sizes


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("scales", [False, True])
def test_kernels_in_bfloat16(size, scales):
    from ferrule.kernels.lora_expand import column_tiles, expand
    from ferrule.kernels.lora_shrink import shrink

    torch.manual_seed(0)
    widths, num_in, max_rank, num_slots, num_rows = (4096, 1024, 1024), 4096, 32, 6, 200
    num_out = sum(widths)
    x = torch.randn(num_rows, num_in).cuda().bfloat16()
    y = torch.randn(num_rows, num_out).cuda().bfloat16()
    a = (torch.randn(num_slots, 3, max_rank, num_in) * num_in**-0.5).cuda().bfloat16()
    b = (torch.randn(num_slots, num_out, max_rank) * 0.2).cuda().bfloat16()
    ranks = torch.tensor([[16, 0, 8], [32, 32, 32], [5, 6, 7], [0, 0, 16], [16, 16, 16], [1, 2, 3]])
    gains = torch.rand(num_slots, num_out).cuda() + 0.5
    biases = torch.randn(num_slots, num_out).cuda()
    wanted = torch.randint(-1, num_slots, (num_rows,))
    slots, rows = [], []
    exact = y.double()
    for slot in range(num_slots):
        of_slot = (wanted == slot).nonzero()[:, 0]
        for first in range(0, len(of_slot), size):
            part = of_slot[first : first + size].tolist()
            slots.append(slot)
            rows.append(part + [-1] * (size - len(part)))
        index, start = of_slot.cuda(), 0
        for part, width in enumerate(widths):
            rank, columns = int(ranks[slot, part]), slice(start, start + width)
            low = x[index].double() @ a[slot, part, :rank].double().T
            out = exact[index, columns] + low @ b[slot, columns, :rank].double().T
            if scales:
                out = out * gains[slot, columns] + biases[slot, columns]
            exact[index, columns] = out
            start += width
    chunks = torch.tensor([*slots, -1]).cuda(), torch.tensor([*rows, [-1] * size]).cuda()
    ranks, tiles = ranks.int().cuda(), column_tiles(list(widths), x.device)
    low = shrink(x, a, ranks, *chunks)
    expand(low, y, b, ranks, tiles, *chunks, *((gains, biases) if scales else ()))
    error = (y.double() - exact).norm() / exact.norm()
    assert error < 4e-3, error
