"""Run by test_kernel_runner.py in Triton's interpreter: the same requests through both runners."""

from functools import partial

import torch

from ferrule import ModelConfig, RopeConfig
from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import Request
from ferrule.engine.scheduler import Scheduler
from ferrule.kernels import draw, paged_decode, shared_prefix
from ferrule.layers import Decoder
from ferrule.layers.weights import TakesWeights
from ferrule.plan import SamplingParams
from ferrule.quantization.formats import FORMATS
from ferrule.runtime import shared_blocks
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.runner import ModelRunner

# The interpreter is slow, and a few programs show all that many do.
paged_decode._MAX_SPLITS = 2
draw._MAX_PARTS = 2
shared_prefix.PREFIX_SPLITS = paged_decode.PREFIX_SPLITS = 2
shared_blocks._LEAST_MEMBERS = 2
shared_blocks._LEAST_TOKENS = 4

VOCAB, BLOCK, CPU = 97, 4, torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-5,
    rope=RopeConfig(theta=10000.0, rotary_dim=16),
    max_position_embeddings=512,
    windows=(None, 20),
    tie_word_embeddings=False,
)


def make_model():
    torch.manual_seed(0)
    model = Decoder(CONFIG)
    for path, module in model.named_modules():
        if isinstance(module, TakesWeights):
            shapes = module.weight_shapes(path)
            module.allocate(dict.fromkeys(shapes, FORMATS["F32"]), dtype=torch.float32, device=CPU)
            for name, shape in shapes.items():
                rows = torch.randn(shape) * 0.3
                module.write(name, rows.view(torch.uint8).view(shape[0], -1), FORMATS["F32"])
            module.finish()
        for parameter in module.parameters(recurse=False):
            parameter.data = 1 + 0.1 * torch.randn(parameter.shape)
    return model


def run(runner_type, model, requests, num_blocks):
    cache = KVCache(
        model.attention_specs(),
        num_blocks=num_blocks,
        block_size=BLOCK,
        dtype=torch.float32,
        device=CPU,
    )
    if runner_type is not ModelRunner:  # kernels read nothing that was not written
        for layer in cache.layers:
            layer.keys[:num_blocks].fill_(torch.nan)
            layer.values[:num_blocks].fill_(torch.nan)
    runner = runner_type(
        model,
        cache,
        max_batch_size=4,
        max_tokens=40,
        max_length=200,
        vocab_size=VOCAB,
        num_known_tokens=VOCAB - 3,
        device=CPU,
    )
    scheduler = Scheduler(
        BlockPool(num_blocks),
        max_batch_size=4,
        max_batch_tokens=40,
        max_length=200,
        block_size=BLOCK,
    )
    engine = Engine(scheduler, runner)
    outputs = {request.id: [] for request in requests}
    waiting = list(requests)
    while engine.has_work or waiting:
        for request in waiting[:2]:
            engine.add(request)
        del waiting[:2]
        for output in engine.step():
            outputs[output.id].append(output)
    return outputs, engine.stats()


def requests():
    kinds = [
        SamplingParams(temperature=0, max_tokens=18),
        SamplingParams(temperature=0.8, seed=5, max_tokens=14),
        SamplingParams(temperature=1.2, seed=6, top_p=0.8, top_k=12, min_p=0.02, max_tokens=12),
        SamplingParams(temperature=0, max_tokens=5, repetition_penalty=1.3, frequency_penalty=0.4),
        SamplingParams(temperature=0.7, seed=8, presence_penalty=0.5, max_tokens=5, logprobs=3),
        SamplingParams(temperature=0, max_tokens=4, logit_bias={5: 40.0, 6: -50.0}, logprobs=0),
        SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=2),
        SamplingParams(temperature=0, max_tokens=6, min_tokens=3),
        SamplingParams(temperature=0, max_tokens=7),
    ]
    shared = [(7 * i) % 90 for i in range(36)]
    for index, sampling in enumerate(kinds):
        length = (3, 61, 17, 45, 1, 33, 30, 20, 47)[index]
        prompt = (shared + [(index * 31 + 5 * i) % 90 for i in range(60)])[:length]
        stops = tuple(range(40)) if sampling.min_tokens else ()
        yield Request(id=str(index), tokens=prompt, sampling=sampling, stop_ids=stops)


def close(one, other):
    return (
        abs(one.logprob - other.logprob) < 1e-3
        and one.rank == other.rank
        and one.top_ids == other.top_ids
    )


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.num_calls = 0

    def __getitem__(self, grid):
        self.num_calls += 1
        return self.kernel[grid]


POOLS = []


class NeverCaptures:
    """For steps that could have a graph and have none yet."""

    num_asked = 0

    def may_capture(self):
        self.num_asked += 1
        return False


def without_graphs(*args, is_padded, **options):
    runner = KernelRunner(*args, captures=False, **options)
    if is_padded:
        runner.graphs.pool = runner.mixed.pool = pool = NeverCaptures()
        POOLS.append(pool)
    return runner


def main():
    shared_prefix._prefix_kernel = Counted(shared_prefix._prefix_kernel)
    model = make_model()
    asked = list(requests())
    num_blocks = 20
    plain, _ = run(ModelRunner, model, asked, num_blocks)
    for is_padded in (False, True):
        make = partial(without_graphs, is_padded=is_padded)
        kernels, stats = run(make, model, asked, num_blocks)
        for id in plain:
            tokens = [[t for o in outputs[id] for t in o.tokens] for outputs in (plain, kernels)]
            assert tokens[0] == tokens[1], (is_padded, id, tokens)
            assert plain[id][-1].finish_reason == kernels[id][-1].finish_reason, id
            described = [
                [entry for o in outputs[id] for entry in (o.logprobs or [])]
                + [entry for o in outputs[id] for entry in (o.prompt_logprobs or []) if entry]
                for outputs in (plain, kernels)
            ]
            assert len(described[0]) == len(described[1])
            assert all(close(a, b) for a, b in zip(*described, strict=True)), id
        assert stats.preemptions_total > 0, stats
        assert stats.prefix_hits_total > 0, stats
    assert shared_prefix._prefix_kernel.num_calls > 0
    assert POOLS[0].num_asked > 20


if __name__ == "__main__":
    main()
