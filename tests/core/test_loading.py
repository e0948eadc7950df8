"""Tensors of a file into modules: the accounting, and where every byte ends up."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from ferrule import TensorInfo
from ferrule.checkpoint.open import open_checkpoint
from ferrule.errors import LoadError
from ferrule.layers import MLP, Embedding, Linear, RMSNorm
from ferrule.loading import account, build, load
from ferrule.matching import match
from ferrule.plugins import Plugins

CPU = torch.device("cpu")


def toy_match(make_module, tensors):
    """A match without plugins: float32 arrays, or pairs of a format and a torch tensor."""
    infos, stored = {}, {}
    for name, given in tensors.items():
        format, data = given if isinstance(given, tuple) else ("F32", torch.from_numpy(given))
        rows = data.reshape(data.shape[0] if data.dim() else 1, -1).contiguous()
        stored[name] = rows.view(torch.uint8).numpy()
        infos[name] = TensorInfo(
            name=name,
            shape=tuple(data.shape),
            format=format,
            file=Path("toy.safetensors"),
            offset=0,
            nbytes=stored[name].nbytes,
        )
    return SimpleNamespace(
        architecture=SimpleNamespace(name="toy", build=lambda config: make_module()),
        config=None,
        checkpoint=SimpleNamespace(location="the/model", tensors=infos),
        read=stored.__getitem__,
    )


def loaded(made, dtype=torch.float32, device=CPU, **options):
    module = build(made)
    load(module, made, dtype=dtype, device=device, **options)
    return module


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tiny_match(folder):
    return match(open_checkpoint(str(folder)), Plugins.installed())


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = Embedding(6, 4)
        self.fused = nn.Module()
        self.fused.qkv = Linear(4, {"q": 4, "k": 2}, bias=True)
        self.norm = RMSNorm(4, eps=1e-5)


SHAPES = {
    "embed.weight": (6, 4),
    "fused.q.weight": (4, 4),
    "fused.q.bias": (4,),
    "fused.k.weight": (2, 4),
    "fused.k.bias": (2,),
    "norm.weight": (4,),
}


@pytest.fixture
def infos():
    """Headers of a file that fits ``Toy``."""
    return toy_match(Toy, {name: random(*shape) for name, shape in SHAPES.items()}).checkpoint


def test_a_file_that_fits_has_a_home_for_every_tensor(infos):
    accounting = account(Toy(), infos.tensors)
    assert accounting.is_exact
    assert {name: home.shape for name, home in accounting.homes.items()} == SHAPES
    assert accounting.homes["fused.k.bias"].module == "fused.qkv"
    assert accounting.homes["norm.weight"].module == "norm"


def test_everything_that_does_not_fit_is_found_at_once(infos):
    tensors = dict(infos.tensors)
    del tensors["fused.k.bias"]
    tensors["fused.v.weight"] = tensors["fused.k.weight"]
    tensors["norm.weight"] = replace(tensors["norm.weight"], shape=(4, 1))
    tensors["embed.weight"] = replace(tensors["embed.weight"], format="Q9_Z")
    accounting = account(Toy(), tensors)
    assert not accounting.is_exact
    assert accounting.missing == ("fused.k.bias",)
    assert accounting.surplus == ("fused.v.weight",)
    assert accounting.misshaped == {"norm.weight": ((4, 1), (4,))}
    assert accounting.unknown_formats == {"embed.weight": "Q9_Z"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: tensors.pop("norm.weight"),
        lambda tensors: tensors.update({"more": tensors["norm.weight"]}),
        lambda tensors: tensors.update(
            {"norm.weight": replace(tensors["norm.weight"], shape=(5,))}
        ),
        lambda tensors: tensors.update(
            {"norm.weight": replace(tensors["norm.weight"], format="I8")}
        ),
    ],
    ids=["missing", "surplus", "misshaped", "format"],
)
def test_one_thing_wrong_is_enough_and_nothing_is_read(spoil):
    made = toy_match(Toy, {name: random(*shape) for name, shape in SHAPES.items()})
    spoil(made.checkpoint.tensors)
    made.read = lambda name: pytest.fail(f"{name} was read")
    with pytest.raises(LoadError, match="the/model"):
        loaded(made)


def test_the_message_names_near_misses_and_cuts_long_lists():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(RMSNorm(2, eps=1e-5) for _ in range(11))

    with pytest.raises(LoadError) as caught:
        loaded(toy_match(Many, {"layers.0.weights": random(2)}))
    lines = caught.value.message.splitlines()
    assert "the/model" in lines[0]
    assert "'toy'" in lines[0]
    missing = lines.index("  missing (11):")
    assert lines[missing + 1] == "    layers.0.weight (near: layers.0.weights)"
    assert lines[missing + 9] == "    ... and 3 more"
    assert lines[missing + 10] == "  not taken (1):"
    assert "ferrule inspect the/model" in caught.value.hint
    assert "Q4_K" in caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_and_plain_tensors_of_a_checkpoint_arrive_exactly(tiny_llama, dtype):
    stored = load_file(tiny_llama / "model.safetensors")
    model = loaded(tiny_match(tiny_llama), dtype).model

    def rows(*names):
        return torch.from_numpy(np.concatenate([stored[name] for name in names])).to(dtype)

    def weight(linear):
        (storage,) = linear.storages
        return storage.dense()

    assert torch.equal(model.embed_tokens.storage.dense(), rows("model.embed_tokens.weight"))
    assert torch.equal(model.norm.weight, rows("model.norm.weight"))
    for index, layer in enumerate(model.layers):
        at = f"model.layers.{index}"
        qkv = [f"{at}.self_attn.{part}_proj.weight" for part in "qkv"]
        gate_up = [f"{at}.mlp.{part}_proj.weight" for part in ("gate", "up")]
        assert torch.equal(weight(layer.self_attn.qkv_proj), rows(*qkv))
        assert torch.equal(weight(layer.self_attn.o_proj), rows(f"{at}.self_attn.o_proj.weight"))
        assert torch.equal(weight(layer.mlp.gate_up_proj), rows(*gate_up))
        assert torch.equal(weight(layer.mlp.down_proj), rows(f"{at}.mlp.down_proj.weight"))
        assert torch.equal(layer.input_layernorm.weight, rows(f"{at}.input_layernorm.weight"))


def tensors_in(module):
    """Every tensor of a module: parameters, buffers, and what its own layers keep."""
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        storages = [getattr(part, "storage", None), *getattr(part, "storages", [])]
        yield from (storage.dense() for storage in storages if storage is not None)
        if isinstance(part, Linear) and part.bias is not None:
            yield part.bias


def test_nothing_is_allocated_before_loading_and_nothing_stays_on_meta_after(tiny_llama):
    made = tiny_match(tiny_llama)
    module = build(made)
    assert all(parameter.is_meta for parameter in module.parameters())
    load(module, made, dtype=torch.float32, device=CPU)
    found = list(tensors_in(module))
    assert len(found) == 1 + 2 * (4 + 2) + 1 + 1  # embedding, layers, final norm, frequencies
    assert {tensor.device.type for tensor in found} == {"cpu"}
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_progress_rises_with_every_tensor_to_the_files_bytes(tiny_llama):
    stored = load_file(tiny_llama / "model.safetensors")
    calls = []
    loaded(tiny_match(tiny_llama), progress=lambda done, total: calls.append((done, total)))
    done = [each for each, _ in calls]
    assert len(done) == len(stored)
    assert done == sorted(set(done))
    assert {total for _, total in calls} == {sum(data.nbytes for data in stored.values())}
    assert calls[-1][0] == calls[-1][1]


def test_every_float_format_is_converted_from_its_exact_numbers():
    """One fused layer may hold all of them."""
    types = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }
    parts = {kind: torch.from_numpy(random(3, 8)).to(dtype) for kind, dtype in types.items()}

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = Linear(8, dict.fromkeys(types, 3))

    made = toy_match(Mixed, {f"{kind}.weight": (kind, data) for kind, data in parts.items()})
    found = torch.cat([storage.dense() for storage in loaded(made).all.storages])
    assert torch.equal(found, torch.cat([data.float() for data in parts.values()]))


class Stranger(nn.Module):
    """Plain torch, as a plugin's author may write it: parameters of any number of dimensions."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.conv = nn.Conv1d(3, 2, kernel_size=2, bias=False)
        self.gain = nn.Parameter(torch.empty(()))
        self.mlp = MLP(4, 8)

    def forward(self, x):
        return self.conv(self.norm(self.proj(x + self.mlp(x))).T) * self.gain


STRANGER = {
    "proj.weight": (3, 4),
    "proj.bias": (3,),
    "norm.weight": (3,),
    "norm.bias": (3,),
    "conv.weight": (2, 3, 2),
    "gain": (),
    "mlp.gate_proj.weight": (8, 4),
    "mlp.up_proj.weight": (8, 4),
    "mlp.down_proj.weight": (4, 8),
}


@pytest.fixture
def arrays():
    return {name: random(*shape, seed=i) for i, (name, shape) in enumerate(STRANGER.items())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_parameters_of_a_strangers_module_are_filled(arrays, dtype):
    module = loaded(toy_match(Stranger, arrays), dtype)
    plain = dict(module.named_parameters())
    assert plain.keys() == {name for name in STRANGER if not name.startswith("mlp")}
    for name, parameter in plain.items():
        assert torch.equal(parameter, torch.from_numpy(arrays[name]).to(dtype)), name


def test_a_strangers_module_computes_with_what_it_got(arrays):
    module = loaded(toy_match(Stranger, arrays))
    x = random(5, 4, seed=99)
    found = module(torch.from_numpy(x)).numpy()
    with np.errstate(all="raise"):
        a = {name: data.astype(np.float64) for name, data in arrays.items()}
        gate = x @ a["mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (x @ a["mlp.up_proj.weight"].T)
        y = (x + inner @ a["mlp.down_proj.weight"].T) @ a["proj.weight"].T + a["proj.bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        y = y * a["norm.weight"] + a["norm.bias"]
        pairs = np.stack((y[:-1], y[1:]), axis=-1)  # [places, channels, kernel]
        expected = np.einsum("pck,ock->op", pairs, a["conv.weight"]) * a["gain"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_parameter_of_the_root_bears_its_plain_name(arrays):
    assert "gain" in account(Stranger(), {}).missing


class Owner(nn.Module):
    """A module of a plugin that keeps its weights in a way of its own, and a log."""

    def __init__(self, log, *shapes):
        super().__init__()
        self.log = log
        self.shapes = shapes

    def weight_shapes(self, path):
        return {f"{path}.part{i}": shape for i, shape in enumerate(self.shapes)}

    def allocate(self, formats, *, dtype, device):
        kinds = {name: format.name for name, format in formats.items()}
        self.log.append(("allocate", kinds, dtype, device))

    def write(self, name, data, format):
        self.log.append(("write", name, tuple(data.shape), data.dtype, format.name))

    def finish(self):
        self.log.append(("finish",))


def test_one_owner_is_finished_before_the_next_begins():
    log = []

    def make():
        root = nn.Module()
        root.a, root.b = Owner(log, (2, 3), (4,)), Owner(log, (5, 2))
        return root

    half = ("F16", torch.zeros(4, dtype=torch.float16))
    # The file's order is another one.
    tensors = {"b.part0": random(5, 2), "a.part1": half, "a.part0": random(2, 3)}
    loaded(toy_match(make, tensors), torch.bfloat16)
    assert log == [
        ("allocate", {"a.part0": "F32", "a.part1": "F16"}, torch.bfloat16, CPU),
        ("write", "a.part0", (2, 12), torch.uint8, "F32"),
        ("write", "a.part1", (4, 2), torch.uint8, "F16"),
        ("finish",),
        ("allocate", {"b.part0": "F32"}, torch.bfloat16, CPU),
        ("write", "b.part0", (5, 8), torch.uint8, "F32"),
        ("finish",),
    ]


def with_buffer(device):
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Module()
            steps = torch.arange(4, dtype=torch.float64, device=device)
            self.inner.register_buffer("steps", steps, persistent=False)

    return toy_match(Buffered, {})


def test_a_computed_buffer_made_on_meta_is_refused_with_the_way_out():
    with pytest.raises(LoadError, match=r"inner\.steps") as caught:
        loaded(with_buffer(None))  # what ``build`` makes by default
    assert 'device="cpu"' in caught.value.hint


def test_a_buffer_made_on_the_cpu_keeps_its_values_and_its_type():
    steps = loaded(with_buffer("cpu"), torch.bfloat16).inner.steps
    assert torch.equal(steps, torch.arange(4, dtype=torch.float64))


def test_buffers_and_weights_go_to_the_device_asked_for():
    """A device without memory is as good as a GPU for seeing where tensors go."""
    elsewhere = torch.device("meta")
    assert loaded(with_buffer("cpu"), device=elsewhere).inner.steps.device == elsewhere
    tensors = {name: random(*shape) for name, shape in STRANGER.items()}
    module = loaded(toy_match(Stranger, tensors), device=elsewhere)
    assert {tensor.device for tensor in tensors_in(module)} == {elsewhere}
    assert sum(tensor.numel() for tensor in tensors_in(module)) == sum(
        math.prod(shape) for shape in STRANGER.values()
    )


def parts_match(read):
    """Twenty plain parameters, read by a function."""
    names = [f"p{index:02}" for index in range(20)]

    def make_module():
        module = nn.Module()
        for name in names:
            module.register_parameter(name, nn.Parameter(torch.empty(3, 2)))
        return module

    arrays = {name: random(3, 2, seed=seed) for seed, name in enumerate(names)}
    made = toy_match(make_module, arrays)
    stored, made.read = made.read, lambda name: read(name, stored)
    return made, arrays


def test_a_few_tensors_are_read_before_they_are_wanted_and_all_arrive():
    read, distances = [], []

    def note(name, stored):
        read.append(name)
        return stored(name)

    made, arrays = parts_match(note)
    module = loaded(
        made, progress=lambda done, total: distances.append(len(read) - done * 20 // total)
    )
    for name, array in arrays.items():
        assert torch.equal(module.get_parameter(name), torch.from_numpy(array))
    assert read == sorted(arrays)
    assert min(distances) >= 0
    assert max(distances) <= 4


def test_what_fails_while_it_reads_ahead_ends_the_load():
    def fails(name, stored):
        if name == "p07":
            raise OSError("the disk is gone")
        return stored(name)

    with pytest.raises(OSError, match="the disk is gone"):
        loaded(parts_match(fails)[0])
