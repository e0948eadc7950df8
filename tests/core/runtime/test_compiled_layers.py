"""How many graphs torch.compile makes of a stranger's layers, and what becomes of the others."""

from __future__ import annotations

import gc
import shutil
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from ferrule import ModelConfig, RopeConfig
from ferrule.kernels.shared import SharedPrefix
from ferrule.layers import Attention, AttentionSpec, Decoder, DecoderLayer, Linear, RMSNorm, rotate
from ferrule.layers.lora import LoraMode, LoraPart, PoolSizes
from ferrule.layers.weights import TakesWeights
from ferrule.quantization.formats import FORMATS
from ferrule.runtime.compiled_layers import MOST_GRAPHS, compile_layers
from ferrule.runtime.kernel_attention import LayerAttend, Rows, attends
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_adapter import PreparedLora
from ferrule.runtime.lora_slots import LoraSlots

CPU = torch.device("cpu")
BLOCK, NUM_BLOCKS, MAX_BLOCKS = 4, 700, 3


class PlainNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight


class PlainLayer(nn.Module):
    """Plain torch but for the products and the attention."""

    def __init__(self, config, index):
        super().__init__()
        self.index = index
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.self_attn = nn.Module()
        self.self_attn.spec = AttentionSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            window=config.windows[index],
            scale=dim**-0.5,
        )
        size, inner = config.hidden_size, config.intermediate_size
        parts = {"q_proj": heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        self.self_attn.qkv_proj = Linear(size, parts, bias=True)
        self.self_attn.o_proj = Linear(heads * dim, size)
        self.gate_up = Linear(size, {"gate": inner, "up": inner})
        self.down = Linear(inner, size)
        self.first_norm = PlainNorm(size, config.rms_norm_eps)
        self.second_norm = PlainNorm(size, config.rms_norm_eps)

    def attended(self, hidden, rotation, attend):
        spec = self.self_attn.spec
        qkv = self.self_attn.qkv_proj(self.first_norm(hidden))
        qkv = qkv.unflatten(-1, (spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim))
        q, k, v = qkv.split((spec.num_heads, spec.num_kv_heads, spec.num_kv_heads), dim=1)
        y = attend(rotate(q, rotation), rotate(k, rotation), v)
        return hidden + self.self_attn.o_proj(y.flatten(-2))

    def forward(self, hidden, rotation, attend):
        hidden = self.attended(hidden, rotation, attend)
        gate, up = self.gate_up(self.second_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.down(F.silu(gate) * up)


class HeadNorms(Attention):
    """Built-in but for one step, as in contrib/ferrule-qwen3."""

    def __init__(self, config, window=None):
        super().__init__(config, window)
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, hidden, rotation, attend):
        spec = self.spec
        qkv = self.qkv_proj(hidden)
        qkv = qkv.unflatten(-1, (spec.num_heads + 2 * spec.num_kv_heads, spec.head_dim))
        q, k, v = qkv.split((spec.num_heads, spec.num_kv_heads, spec.num_kv_heads), dim=1)
        return self.o_proj(attend(self.q_norm(q), k, v, rotation).flatten(-2))


def with_own_norm(config, index):
    layer = DecoderLayer(config, index)
    layer.input_layernorm = PlainNorm(config.hidden_size, config.rms_norm_eps)
    return layer


def with_head_norms(config, index):
    return DecoderLayer(config, index, attention=HeadNorms)


class AddsItsIndex(PlainLayer):
    def forward(self, hidden, rotation, attend):
        return super().forward(hidden, rotation, attend) + self.index


class Looks(PlainLayer):
    def forward(self, hidden, rotation, attend):
        if hidden.sum() > 0:
            hidden = hidden * 1
        return super().forward(hidden, rotation, attend)


def make(layer, num_layers=3, windows=None, num_kv_heads=2):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=41,
        hidden_size=24,
        intermediate_size=40,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=10000.0, rotary_dim=8),
        max_position_embeddings=64,
        windows=windows or (None,) * num_layers,
    )
    model = Decoder(config, layer=layer)
    for path, module in model.named_modules():
        if isinstance(module, TakesWeights):
            shapes = module.weight_shapes(path)
            module.allocate(dict.fromkeys(shapes, FORMATS["F32"]), dtype=torch.float32, device=CPU)
            # Without ``finish``: weights that are packed for a CPU are not what a GPU holds.
            for name, shape in shapes.items():
                rows = (torch.randn(shape) * 0.2).view(torch.uint8).view(shape[0], -1)
                module.write(name, rows, FORMATS["F32"])
        for parameter in module.parameters(recurse=False):
            parameter.data = 1 + 0.1 * torch.randn(parameter.shape)
    return model


class Steps:
    """Steps of a model over a cache of its own, as a runner would make them."""

    def __init__(self, model, num_slots=320):
        self.model = model
        self.num_slots = num_slots
        self.cache = KVCache(
            model.attention_specs(),
            num_blocks=NUM_BLOCKS,
            block_size=BLOCK,
            dtype=torch.float32,
            device=CPU,
        )
        self.tables = torch.randint(0, NUM_BLOCKS, (num_slots + 1, MAX_BLOCKS), dtype=torch.int32)
        # Older than a step, so not made in inference mode.
        self.starts = torch.zeros(num_slots, dtype=torch.int64)

    @torch.inference_mode()
    def __call__(self, num_singles, num_others=0, *, shares=False, query_tile=128, kept=None):
        """Single tokens, then prompts of two tokens each."""
        num_rows = num_singles + 2 * num_others
        slots = torch.arange(num_singles)
        shared = SharedPrefix(
            starts=self.starts[:num_singles],
            table=self.tables[torch.tensor([0])][0],
            length=torch.tensor([BLOCK]),
        )
        tiles = [(num_singles + i, num_singles + 2 * i, 2, 3 * (i % 2)) for i in range(num_others)]
        # Views of one vector, as a runner sends them; where they begin differs by step.
        cache_rows, lengths, tiles = torch.cat(
            (
                torch.arange(num_rows) * 2,
                slots % (BLOCK * MAX_BLOCKS - 1) + 1,
                torch.tensor(tiles, dtype=torch.int64).view(-1),
            )
        ).split((num_rows, num_singles, 4 * num_others))
        rows = Rows(
            cache_rows=cache_rows,
            tables=self.tables[slots],
            lengths=lengths,
            slot_tables=self.tables,
            tiles=tiles.view(-1, 4) if num_others else None,
            query_tile=query_tile,
            shared=shared if shares else None,
            are_apart=not num_others,
        )
        tokens, positions = torch.arange(num_rows) % 41, torch.arange(num_rows) % 50
        bound = attends(self.model.attention_specs(), self.cache, rows, kept)
        return self.model(tokens, positions, bound)


def attention(q, keys, values, places, scale):
    """One query over keys at some places: ``[heads, head_dim]``."""
    keys, values = keys.flatten(0, 1)[places], values.flatten(0, 1)[places]
    group = q.shape[0] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    weights = (torch.einsum("hd,khd->hk", q, keys) * scale).softmax(-1)
    return torch.einsum("hk,khd->hd", weights, values)


def places_of(table, length, window):
    first = 0 if window is None else max(0, length - window)
    at = torch.arange(first, length)
    return table.long()[at // BLOCK] * BLOCK + at % BLOCK


def attend(self, q, k, v, rotation=None):
    """What the kernels behind ``LayerAttend`` compute."""
    rows, window, scale = self.rows, self.spec.window, self.spec.scale
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    keys, values = self.cache.keys, self.cache.values
    keys.flatten(0, 1)[rows.cache_rows] = k
    values.flatten(0, 1)[rows.cache_rows] = v
    out = torch.zeros(q.shape)
    for row, length in enumerate(rows.lengths.tolist()):
        places = places_of(rows.tables[row], length, window)
        out[row] = attention(q[row], keys, values, places, scale)
    for slot, first, count, start in [] if rows.tiles is None else rows.tiles.tolist():
        for i in range(count):
            places = places_of(rows.slot_tables[slot], start + i + 1, window)
            out[first + i] = attention(q[first + i], keys, values, places, scale)
    return out if self.kept is None else out[self.kept]


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch):
    monkeypatch.setattr(LayerAttend, "__call__", attend)


@pytest.fixture(autouse=True)
def fresh_compiler(caplog):
    caplog.set_level("WARNING")  # torch has a word to say about each symbol
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs():
    """``backend``: runs what was traced as it is; the list grows by each graph."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    backend.found = found
    return backend


DECODES = [(2,), (5,), (64,), (300,), (8,)]
MIXED = [(8, 6), (0, 1), (1, 2), (0, 3), (64, 100), (300, 5), (2, 1)]


@pytest.mark.parametrize("layer", [PlainLayer, with_head_norms])
@pytest.mark.parametrize("num_layers", [3, 7])
def test_one_graph_serves_all_layers_and_sizes_and_another_one_single_rows(
    graphs, layer, num_layers
):
    model = make(layer, num_layers, windows=(None, 3, 5, None, None, 2, None)[:num_layers])
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    expected = [plain(*sizes) for sizes in (*MIXED, *DECODES, (1,))]
    assert compile_layers(model, backend=graphs) == num_layers
    for sizes, exact in zip((*MIXED, *DECODES), expected, strict=False):
        torch.testing.assert_close(compiled(*sizes), exact, atol=1e-5, rtol=1e-5)
    assert len(graphs.found) == 1
    for _ in range(3):
        torch.testing.assert_close(compiled(1), expected[-1], atol=1e-5, rtol=1e-5)
    compiled(7)
    assert len(graphs.found) == 2 == counters["stats"]["unique_graphs"]
    for one, other in zip(plain.cache.layers, compiled.cache.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)


def test_shared_blocks_and_sizes_of_tiles_need_no_further_graph(graphs):
    model = make(PlainLayer)
    steps = Steps(model)
    compile_layers(model, backend=graphs)
    for shares in (False, True):
        for query_tile in (64, 128):
            steps(8, 6, shares=shares, query_tile=query_tile)
        steps(5, shares=shares)
        steps(1, shares=shares)
    assert len(graphs.found) == 2


def test_sizes_that_happen_to_be_equal_are_not_taken_for_one(graphs):
    """8 rows first, where there are 8 key heads, 8 blocks or 8 slots as well."""
    model = make(PlainLayer, num_kv_heads=4)
    steps = Steps(model, num_slots=7)
    compile_layers(model, backend=graphs)
    for size in (4, 3, 2, 7):
        steps(size)
    assert len(graphs.found) == 1


def test_the_last_layer_gives_the_rows_that_are_asked_for_and_takes_no_further_graph(graphs):
    model = make(with_own_norm)
    assert model.narrows
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    kept = torch.tensor([4, 0, 6])
    expected = plain(4, 3, kept=kept)
    assert expected.shape == (3, 24)
    assert compile_layers(model, backend=graphs) == 3
    torch.testing.assert_close(compiled(4, 3, kept=kept), expected)
    torch.testing.assert_close(compiled(4, 3)[kept], expected)
    assert len(graphs.found) == 1


def test_steps_with_adapters_run_layers_as_they_are_and_others_keep_their_graph(graphs):
    model = make(PlainLayer)
    loras = LoraSlots(model, PoolSizes(num_slots=1, rank=4, dtype=torch.float32, device=CPU), 9)
    kinds = {"self_attn.k_proj": (16, 24), "down": (24, 40)}
    parts = {
        f"model.layers.1.{kind}": LoraPart(a=torch.randn(4, num_in), b=torch.randn(num_out, 4))
        for kind, (num_out, num_in) in kinds.items()
    }
    loras.allocate(parts.items())
    lora = PreparedLora(content="c", parts=parts, mode=LoraMode.DELTAS, num_known_tokens=0)
    for target, source in loras.place(0, lora):
        target.copy_(source)
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    wanted = np.array([0, -1, 0, -1, -1])
    expected = plain(5)
    with loras.using(wanted):
        adapted = plain(5)
    assert (adapted - expected).abs().amax(1).gt(1e-3).tolist() == (wanted == 0).tolist()
    assert compile_layers(model, backend=graphs, lora=loras.state) == 3
    for _ in range(2):
        torch.testing.assert_close(compiled(5), expected, atol=1e-5, rtol=1e-5)
        with loras.using(wanted):
            torch.testing.assert_close(compiled(5), adapted)
    assert len(graphs.found) == 1


def test_what_cannot_be_traced_is_not_asked_while_it_is_traced(graphs, monkeypatch):
    """Whether Triton is there: looked up on a GPU, where this test does not run."""

    def untraceable(x):
        torch._dynamo.graph_break()
        return False

    for module in ("layers.norm", "kernels.product"):
        monkeypatch.setattr(f"ferrule.{module}.runs_kernels", untraceable)
    model = make(with_head_norms)
    compile_layers(model, backend=graphs)
    Steps(model)(5, 2)
    assert len(graphs.found) == 1
    assert all("forward" in vars(layer) for layer in model.model.layers), "still compiled"


def test_layers_of_two_classes_take_their_own_graphs(graphs):
    kinds = (PlainLayer, with_head_norms)
    model = make(lambda config, index: kinds[index % 2](config, index), num_layers=6)
    steps = Steps(model)
    assert compile_layers(model, backend=graphs) == 6
    for sizes in ((8, 6), (5,), (64,)):
        steps(*sizes)
    assert len(graphs.found) == 2


def test_a_second_model_of_the_class_has_graphs_of_its_own(graphs):
    for _ in range(MOST_GRAPHS + 1):
        model = make(PlainLayer, num_layers=1)
        compile_layers(model, backend=graphs)
        Steps(model)(2)
        assert "forward" in vars(model.model.layers[0]), "still compiled"
    assert len(graphs.found) == MOST_GRAPHS + 1
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("layer", [PlainLayer, with_head_norms])
def test_names_stay(graphs, layer):
    model = make(layer)
    names = [name for name, _ in model.named_modules()], list(model.state_dict())
    compile_layers(model, backend=graphs)
    assert names == ([name for name, _ in model.named_modules()], list(model.state_dict()))


def test_calling_it_twice_compiles_once(graphs):
    model = make(PlainLayer)
    assert compile_layers(model, backend=graphs) == 3
    assert compile_layers(model, backend=graphs) == 0
    Steps(model)(2)
    assert len(graphs.found) == 1


class OnlyInit(DecoderLayer):
    """Ours in all but its class."""

    def __init__(self, config, index):
        super().__init__(config, index)


class AddsNorms(RMSNorm):
    def add(self, x, residual):
        return self(x + residual) * 2, x


def with_own_add(config, index):
    layer = DecoderLayer(config, index)
    layer.post_attention_layernorm = AddsNorms(config.hidden_size, eps=config.rms_norm_eps)
    return layer


def with_torchs_norm(config, index):
    layer = DecoderLayer(config, index)
    layer.input_layernorm = nn.LayerNorm(config.hidden_size)
    return layer


def with_a_list(config, index):
    layer = DecoderLayer(config, index)
    layer.more = nn.ModuleList([RMSNorm(8, eps=1e-5), nn.Sequential(RMSNorm(8, eps=1e-5))])
    return layer


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (DecoderLayer, 0),
        (OnlyInit, 0),
        (with_a_list, 0),
        (with_own_add, 3),
        (with_torchs_norm, 3),
        (with_head_norms, 3),
        (PlainLayer, 3),
        (lambda config, index: (PlainLayer, DecoderLayer)[index % 2](config, index), 2),
    ],
    ids=["ours", "init", "containers", "method", "torch.nn", "attention", "layer", "some layers"],
)
def test_only_layers_with_a_part_that_is_not_ours_are_compiled(layer, count):
    model = make(layer)
    assert compile_layers(model) == count
    assert sum("forward" in vars(part) for part in model.model.layers) == count


class Nested(nn.Module):
    """A layer with attentions in a list of its own."""

    def __init__(self, config, index):
        super().__init__()
        self.self_attn = nn.Module()
        self.self_attn.spec = Attention(config).spec
        self.branches = nn.ModuleList([HeadNorms(config), HeadNorms(config)])


def test_a_list_within_a_layer_is_no_list_of_layers():
    model = make(Nested)
    assert compile_layers(model) == 3
    assert not any("forward" in vars(branch) for branch in model.model.layers[0].branches)


def test_lists_without_attention_are_left_alone():
    model = nn.Module()
    model.parts = nn.ModuleList([PlainNorm(8, 1e-5), nn.Linear(2, 2)])
    assert compile_layers(model) == 0


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("ferrule")]


def test_a_layer_that_cannot_be_traced_runs_as_it_is_and_one_warning_says_why(graphs, caplog):
    model = make(lambda config, index: (PlainLayer, Looks)[index == 1](config, index))
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    expected = plain(5, 2)
    assert compile_layers(model, backend=graphs) == 3
    assert torch.equal(compiled(5, 2), expected)
    assert not any("forward" in vars(layer) for layer in model.model.layers)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("Looks cannot be compiled, so the layers run as they are")
    assert "branching" in warning
    assert f"{__file__}:" in warning
    compiled(5)
    assert len(graphs.found) == 1, "the first layer's, of no further use"
    assert len(warnings_of(caplog)) == 1


def test_a_layer_that_would_be_compiled_once_for_each_is_given_up(graphs, caplog):
    model = make(AddsItsIndex, num_layers=MOST_GRAPHS + 3)
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    expected = plain(5, 2)
    compile_layers(model, backend=graphs)
    torch.testing.assert_close(compiled(5, 2), expected)
    assert not any("forward" in vars(layer) for layer in model.model.layers)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("AddsItsIndex cannot be compiled")
    assert f"{MOST_GRAPHS} graphs do not do" in warning
    assert len(graphs.found) <= MOST_GRAPHS


def test_a_compiler_that_fails_is_a_reason_too(caplog):
    def backend(graph, inputs):
        raise OSError("no space left")

    model = make(PlainLayer)
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    expected = plain(5, 2)
    compile_layers(model, backend=backend)
    assert torch.equal(compiled(5, 2), expected)
    (warning,) = warnings_of(caplog)
    assert "no space left" in warning


def test_an_error_while_a_compiled_layer_runs_is_not_hidden(graphs, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("the device is gone")

    model = make(PlainLayer)
    steps = Steps(model)
    compile_layers(model, backend=graphs)
    monkeypatch.setattr(LayerAttend, "__call__", fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        steps(3)
    assert warnings_of(caplog) == []


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on a CPU")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("layer", [PlainLayer, with_head_norms])
def test_what_inductor_makes_of_it_equals_the_layers_and_copies_no_cache(monkeypatch, layer):
    # Inductor imports setuptools, which brings its own distutils, but not once anybody in the
    # process has looked for pip, and then it fails (Python 3.11 alone).
    if sys.version_info < (3, 12):
        monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    model = make(layer, windows=(None, 5, None))
    plain, compiled = Steps(model), Steps(model)
    plain.tables = compiled.tables
    expected = [plain(*sizes) for sizes in (*MIXED, *DECODES, (1,))]
    written = set()

    def recording(self, *args):
        written.update((self.cache.keys.data_ptr(), self.cache.values.data_ptr()))
        return attend(self, *args)

    monkeypatch.setattr(LayerAttend, "__call__", recording)
    compile_layers(model)
    for sizes, exact in zip((*MIXED, *DECODES, (1,)), expected, strict=True):
        torch.testing.assert_close(compiled(*sizes), exact, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2
    assert written == {
        x.data_ptr() for cache in compiled.cache.layers for x in (cache.keys, cache.values)
    }
