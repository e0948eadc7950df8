"""Adapters loaded and unloaded while streams run: none fails, and nothing is left behind."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]

CYCLES = 200
STREAMS = 8


class Load:
    """Clients that stream all the time, and the gaps between what they get."""

    def __init__(self, client):
        self.client = client
        self.is_over = False
        self.gaps = []

    async def stream(self, model, prompt, num_tokens):
        body = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0}
        body |= {"stream": True, "ignore_eos": True, "return_token_ids": True}
        last, count = None, 0
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    assert '"error"' not in line, line
                    now, count = time.perf_counter(), count + 1
                    self.gaps += [now - last] if last is not None else []
                    last = now
        assert count > 0

    async def go_on(self, model, first):
        while not self.is_over:
            await self.stream(model, [first, *range(1000, 1200)], 100)

    async def change(self, adapters):
        used = []
        for cycle in range(CYCLES):
            path = str(adapters / f"lora-{('mlp', 'ranks')[cycle % 2]}")
            named = {"lora_name": "guest", "lora_path": path, "load_inplace": True}
            loaded = await self.client.post("/v1/load_lora_adapter", json=named)
            assert loaded.status_code == 200, loaded.text
            running = asyncio.create_task(self.stream("guest", [5000 + cycle] * 50, 8))
            await asyncio.sleep(0.01)
            gone = await self.client.post("/v1/unload_lora_adapter", json={"lora_name": "guest"})
            assert gone.status_code == 200, gone.text
            await running
            used.append(torch.cuda.mem_get_info()[0])
        self.is_over = True
        return used


async def run(url, adapters):
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        load = Load(client)
        models = [("m", "pirate")[i % 2] for i in range(STREAMS)]
        streams = [asyncio.create_task(load.go_on(m, 100 + i)) for i, m in enumerate(models)]
        free = await load.change(adapters)
        await asyncio.gather(*streams)
        return free, sorted(load.gaps)


def test_streams_go_on_while_adapters_come_and_go(smollm2, adapters, serving, capsys):
    flags = ["--lora-paths", f"pirate={adapters}/lora-pirate", "--enable-lora-updates"]
    flags += ["--lora-root", str(adapters), "--max-lora-rank", "32", "--max-loras", "3"]
    with serving(smollm2 / "llama", *flags, devices="gpu") as url:
        free, gaps = asyncio.run(run(url, adapters))
    assert free[CYCLES // 4] - free[-1] < 64 << 20, "memory of the device"
    with capsys.disabled():
        middle, late = statistics.median(gaps), gaps[int(0.99 * len(gaps))]
        print(
            f"\n{len(gaps)} gaps, ms: median {1e3 * middle:.1f}, 99 % {1e3 * late:.1f}, "
            f"most {1e3 * gaps[-1]:.1f}"
        )
