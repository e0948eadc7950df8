"""A server whose adapters come and go while it answers, through the official client."""

from __future__ import annotations

import asyncio
import shutil
import time

import httpx
import openai
import psutil
import pytest

PROMPT = [3, 5, 7, 11, 13, 17]
CYCLES = 200


@pytest.fixture
def adapters(train):
    """A base's directory, and below one root two adapters that differ."""
    trained = train()
    root = trained.adapter.with_name("adapters")
    shutil.copytree(trained.adapter, root / "first")
    trained.change_config(lora_alpha=60)
    shutil.copytree(trained.adapter, root / "second")
    return trained.base, root


async def ask(client, model, **options):
    answer = await client.completions.create(
        model=model,
        prompt=PROMPT,
        max_tokens=24,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
        **options,
    )
    return tuple(answer.choices[0].token_ids)


def resident_bytes():
    """Of the server's engine process, which holds all tensors."""
    engines = [
        child
        for child in psutil.Process().children(recursive=True)
        if "ferrule.worker" in child.cmdline()
    ]
    assert len(engines) == 1
    return engines[0].memory_info().rss


class Churn:
    """Clients who ask all the time, and one who loads and unloads."""

    def __init__(self, url, root, expected):
        self.url, self.root, self.expected = url, root, expected
        self.client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.is_over = False
        self.num_answers = 0

    async def keep_asking(self, model):
        while not self.is_over:
            assert await ask(self.client, model) == self.expected[model], model
            self.num_answers += 1

    async def change(self):
        async with self.client, httpx.AsyncClient(base_url=self.url, timeout=120) as http:
            sizes = []
            for cycle in range(CYCLES):
                names = ("first", "second") if cycle % 4 == 0 else ("second",)
                for name in names:
                    # A new name, and now and then another adapter under a name that is in use.
                    body = {"lora_name": "guest", "lora_path": str(self.root / name)}
                    done = await http.post(
                        "/v1/load_lora_adapter", json={**body, "load_inplace": True}
                    )
                    assert done.status_code == 200, done.text
                    running = asyncio.create_task(ask(self.client, "guest"))
                    await asyncio.sleep(0.02)
                    if name == "first":
                        # What runs ends with the adapter that it began with.
                        assert await running == self.expected["first"]
                done = await http.post("/v1/unload_lora_adapter", json={"lora_name": "guest"})
                assert done.status_code == 200, done.text
                assert await running == self.expected["second"]
                if cycle in (CYCLES // 4, CYCLES - 1):
                    sizes.append(resident_bytes())
            self.is_over = True
            await asyncio.gather(*self.asking)
        return sizes


async def test_two_hundred_updates_under_load(adapters, serving):
    base, root = adapters
    flags = ["--lora-paths", f"first={root}/first", "--enable-lora-updates", "--lora-root", root]
    # Two slots for three adapters in turn, so that they are also brought and taken away.
    flags += ["--max-loras", "2", "--max-lora-rank", "8", "--max-cpu-loras", "1"]
    with serving(base, *map(str, flags), "--dtype", "float32", "--max-length", "60") as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            expected = {model: await ask(client, model) for model in ("m", "first")}
            async with httpx.AsyncClient(base_url=url) as http:
                body = {"lora_name": "guest", "lora_path": f"{root}/second"}
                assert (await http.post("/v1/load_lora_adapter", json=body)).status_code == 200
                expected["second"] = await ask(client, "guest")
                await http.post("/v1/unload_lora_adapter", json={"lora_name": "guest"})
            assert len(set(expected.values())) == 3
            churn = Churn(url, root, expected)
            began = time.monotonic()
            churn.asking = [
                asyncio.create_task(churn.keep_asking(model)) for model in ("m", "first", "m")
            ]
            sizes = await churn.change()
        assert churn.num_answers > CYCLES / 4, (churn.num_answers, time.monotonic() - began)
        early, late = sizes
        assert late - early < 8 << 20, f"grew by {(late - early) >> 20} MiB"


async def test_what_clients_are_told(adapters, serving):
    base, root = adapters
    flags = ["--enable-lora", "--enable-lora-updates", "--lora-root", str(root)]
    with serving(base, *flags, "--max-length", "60") as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        async with client, httpx.AsyncClient(base_url=f"{url}/v1") as http:
            body = {"lora_name": "a", "lora_path": f"{root}/first"}
            loaded = (await http.post("/load_lora_adapter", json=body)).json()
            assert loaded["status"] == "success"
            assert loaded["message"] == "LoRA adapter 'a' loaded successfully"
            assert loaded["report"]["num_modules"] == 6
            assert (await http.post("/load_lora_adapter", json=body)).status_code == 200
            body["lora_path"] = f"{root}/second"
            taken = await http.post("/load_lora_adapter", json=body)
            assert (taken.status_code, taken.json()["error"]["param"]) == (409, "lora_name")
            body = {"lora_name": "b", "lora_path": str(base)}
            foreign = await http.post("/load_lora_adapter", json=body)
            assert (foreign.status_code, foreign.json()["error"]["code"]) == (
                400,
                "path_not_allowed",
            )
            (root / "empty").mkdir()
            body["lora_path"] = f"{root}/empty"
            broken = await http.post("/load_lora_adapter", json=body)
            assert broken.status_code == 400
            assert "adapter_config.json" in broken.json()["error"]["message"]
            gone = await http.post("/unload_lora_adapter", json={"lora_name": "nobody"})
            assert gone.status_code == 404
            cards = [model async for model in await client.models.list()]
            assert [(card.id, card.parent, card.root) for card in cards] == [
                ("m", None, "m"),
                ("a", "m", f"{root}/first"),
            ]
            assert (await client.models.retrieve("a")).parent == "m"
            with pytest.raises(openai.NotFoundError, match="served: m, a"):
                await ask(client, "nobody")
            assert await ask(client, "a") != await ask(client, "m")
            assert 'lora_adapters{model_name="m"} 1.0' in (await http.get(f"{url}/metrics")).text


async def test_nothing_changes_without_the_flag(adapters, serving):
    base, root = adapters
    with (
        serving(base, "--lora-paths", f"{root}/first", "--max-length", "60") as url,
        httpx.Client(base_url=f"{url}/v1") as http,
    ):
        assert [card["id"] for card in http.get("/models").json()["data"]] == ["m", "first"]
        body = {"lora_name": "a", "lora_path": f"{root}/second"}
        for route in ("load_lora_adapter", "unload_lora_adapter"):
            refused = http.post(f"/{route}", json=body)
            assert refused.status_code == 501
            assert "--enable-lora-updates" in refused.json()["error"]["message"]
