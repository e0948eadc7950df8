"""Run by test_lora_slots.py in Triton's interpreter: adapters through both runners."""

from functools import partial

import torch
from kernel_runner_program import BLOCK, CPU, VOCAB, close, make_model

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.loras import Loras
from ferrule.engine.messages import Request
from ferrule.engine.scheduler import Scheduler
from ferrule.layers.lora import LoraMode, LoraPart, PoolSizes
from ferrule.plan import SamplingParams
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_adapter import PreparedLora
from ferrule.runtime.lora_slots import LoraSlots
from ferrule.runtime.runner import ModelRunner

ADDED = 3
SHAPES = {
    "self_attn.q_proj": (64, 32),
    "self_attn.k_proj": (32, 32),
    "self_attn.v_proj": (32, 32),
    "self_attn.o_proj": (32, 64),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}


def low_rank(shape, rank, seed):
    torch.manual_seed(seed)
    a, b = torch.randn(rank, shape[1]), torch.randn(shape[0], rank)
    return {"a": a * shape[1] ** -0.5, "b": b * 0.3}


def in_layers(kinds, rank, seed, **others):
    return {
        f"model.layers.{layer}.{kind}": LoraPart(
            **low_rank(SHAPES[kind], rank, seed + layer),
            **{name: make(SHAPES[kind][0]) for name, make in others.items()},
        )
        for layer in range(2)
        for kind in kinds
    }


def adapters():
    torch.manual_seed(5)
    attention = ["self_attn.q_proj", "self_attn.v_proj"]
    own = torch.randn(VOCAB + ADDED, 32)
    yield "deltas", in_layers(attention, 4, 10), LoraMode.DELTAS
    yield "all", in_layers(SHAPES, 20, 20), LoraMode.DELTAS
    head = {"lm_head": LoraPart(**low_rank((VOCAB, 32), 8, 30))}
    yield "head", {**in_layers(["mlp.down_proj"], 8, 40), **head}, LoraMode.DELTAS
    scaled = {"gain": lambda n: 1 + 0.2 * torch.randn(n), "bias": torch.randn}
    yield "scaled", in_layers(["self_attn.o_proj", "mlp.up_proj"], 5, 50, **scaled), LoraMode.SCALED
    embedded = LoraPart(own=own, a=torch.randn(4, VOCAB + ADDED), b=torch.randn(32, 4))
    owns = {"model.embed_tokens": embedded, "lm_head": LoraPart(own=own.flip(1).contiguous())}
    yield "own", {**in_layers(attention, 4, 60), **owns}, LoraMode.OWN


class Store:
    """Places at once."""

    def __init__(self, slots, loras):
        self.num_slots = slots.sizes.num_slots
        self.slots, self.loras, self.filled = slots, loras, []
        for lora in loras.values():
            slots.allocate(lora.parts.items())

    def place(self, content, slot):
        for target, source in self.slots.place(slot, self.loras[content]):
            target.copy_(source)
        self.filled.append((slot, ""))

    def placed(self):
        filled, self.filled = self.filled, []
        return filled

    def loaded(self):
        return []

    def num_host_bytes(self):
        return 0

    num_device_bytes = num_host_bytes


def run(runner_type, requests):
    model = make_model()
    cache = KVCache(
        model.attention_specs(), num_blocks=40, block_size=BLOCK, dtype=torch.float32, device=CPU
    )
    sizes = PoolSizes(num_slots=4, rank=20, dtype=torch.float32, device=CPU)
    slots = LoraSlots(model, sizes, max_batch_size=5)
    store = Store(
        slots,
        {
            name: PreparedLora(
                content=name,
                parts=parts,
                mode=mode,
                num_known_tokens=VOCAB + ADDED if mode is LoraMode.OWN else 0,
            )
            for name, parts, mode in adapters()
        },
    )
    limits = {"max_batch_size": 5, "max_length": 200}
    runner = runner_type(
        model,
        cache,
        max_tokens=40,
        vocab_size=VOCAB + ADDED,
        num_known_tokens=VOCAB - 3,
        device=CPU,
        loras=slots,
        **limits,
    )
    loras = Loras(store)
    for content in store.loras:
        loras.add(content)
    scheduler = Scheduler(
        BlockPool(40), max_batch_tokens=40, block_size=BLOCK, loras=loras, **limits
    )
    engine = Engine(scheduler, runner)
    outputs = {request.id: [] for request in requests}
    waiting = list(requests)
    while engine.has_work or waiting:
        for request in waiting[:3]:
            engine.add(request)
        del waiting[:3]
        for output in engine.step():
            outputs[output.id].append(output)
    return outputs


def requests():
    kinds = [
        SamplingParams(temperature=0, max_tokens=7),
        SamplingParams(temperature=0, max_tokens=6, logprobs=2),
        SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=2),
    ]
    names = ["", *(name for name, _, _ in adapters())]
    for index in range(12):
        lora = names[index % len(names)]
        length = (3, 21, 30, 1, 9)[index % 5]
        prompt = [(index * 31 + 5 * i) % (VOCAB - 3) for i in range(length)]
        if lora == "own":
            prompt[0] = VOCAB + 1
        sampling = kinds[index % 3] if lora != "own" else kinds[index % 2]
        yield Request(id=f"{index} {lora}", tokens=prompt, sampling=sampling, lora=lora)


def main():
    asked = list(requests())
    plain = run(ModelRunner, asked)
    kernels = run(partial(KernelRunner, captures=False), asked)
    firsts = set()
    for id in plain:
        tokens = [[t for o in outputs[id] for t in o.tokens] for outputs in (plain, kernels)]
        assert tokens[0] == tokens[1], (id, tokens)
        assert plain[id][-1].error is None, plain[id][-1].error
        firsts.add(tuple(tokens[0]))
        described = [
            [entry for o in outputs[id] for entry in (o.logprobs or [])]
            + [entry for o in outputs[id] for entry in (o.prompt_logprobs or []) if entry]
            for outputs in (plain, kernels)
        ]
        assert len(described[0]) == len(described[1])
        for a, b in zip(*described, strict=True):
            assert close(a, b), (id, a, b)
    assert len(firsts) > 6, "adapters change what is said"


if __name__ == "__main__":
    main()
