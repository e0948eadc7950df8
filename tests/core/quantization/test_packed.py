"""A packed matrix from rows of a file to products, in Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
PROGRAM = (
    f"""
import runpy, torch
globals().update(runpy.run_path({str(BLOCKS)!r}))
"""
    + """
from ferrule.layers import Linear
from ferrule.quantization import packed
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage

torch.manual_seed(0)
packed._PIECE = 7 * 256

def storage(name, num_rows, num_cols, start=0):
    made = PackedStorage(
        num_rows, num_cols, type=name, dtype=torch.float32, device=torch.device("cpu")
    )
    data = random_blocks(name, num_rows, num_cols)
    made.write(0, data[:9], FORMATS[name])
    made.write(9, data[9:], FORMATS[name])
    return made, exact(name, data)

def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)

held, weight = storage("Q6_K", 30, 256)
held.finish(gathers=True)
assert torch.equal(held.dense(), weight)
index = torch.tensor([[3, 29], [0, 3]])
assert torch.equal(held.gather(index), weight[index])
x = torch.randn(2, 3, 256)
close(held.multiply(x), x @ weight.T)
assert held.multiply_gated(x).shape == (2, 3, 15)
held.keep_copy()
assert torch.equal(held.weight.copy, weight)
only_gathers, _ = storage("Q6_K", 30, 256)
only_gathers.finish(gathers=True, multiplies=False)
only_gathers.keep_copy()
assert only_gathers.weight.copy is None

# Parts of different types write beside each other.
first, second = storage("Q4_K", 30, 256), storage("Q6_K", 12, 256)
linear = Linear(256, {"q": 30, "v": 12}, bias=True)
linear.storages = [first[0], second[0]]
linear.bias = torch.randn(42)
x = torch.randn(3, 256)
plain = x @ torch.cat([first[1], second[1]]).T + linear.bias
close(linear(x), plain)
hidden = torch.randn(3, 42)
close(linear(x, hidden.clone()), plain + hidden)
close(linear(x[None])[0], plain)
"""
)


MODEL = (
    f"""
import runpy, torch
globals().update(runpy.run_path({str(BLOCKS)!r}))
"""
    + """
from ferrule import ModelConfig, RopeConfig
from ferrule.layers import Decoder
from ferrule.layers.weights import TakesWeights
from ferrule.quantization import formats
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage
from ferrule.weight_memory import keep_copies

CPU = torch.device("cpu")
KINDS = {"v_proj": "Q8_0", "down": "Q8_0", "lm_head": "Q8_0", "embed": "Q5_0", "gate": "Q4_1"}
KINDS |= {"up_proj": "Q4_1"}

def kind_of(name):
    return next((kind for part, kind in KINDS.items() if part in name), "Q4_0")

def make(config, is_packed):
    formats._has_planes = lambda dtype, device: is_packed
    model = Decoder(config)
    for path, module in model.named_modules():
        if isinstance(module, TakesWeights):
            shapes = module.weight_shapes(path)
            kinds = {name: FORMATS[kind_of(name)] for name in shapes}
            module.allocate(kinds, dtype=torch.float32, device=CPU)
            for name, shape in shapes.items():
                rows = random_blocks(kind_of(name), *shape, seed=len(name))
                module.write(name, rows, kinds[name])
            module.finish()
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.ones(parameter.shape)
    assert isinstance(model.model.embed_tokens.storage, PackedStorage) == is_packed
    return model

for is_tied in (True, False):
    config = ModelConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=10000.0, rotary_dim=16),
        max_position_embeddings=64,
        windows=(None,),
        tie_word_embeddings=is_tied,
    )
    plain, packed = make(config, False), make(config, True)
    for rows in (1, 40):
        tokens = torch.randint(0, 97, (rows,))
        with torch.inference_mode():
            expected, found = (
                model.logits(model(tokens, torch.arange(rows), [lambda q, *rest: q]))
                for model in (plain, packed)
            )
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        keep_copies(packed)
"""
)


def test_products_rows_and_copies_are_those_of_the_files_weights(interpreted):
    interpreted(PROGRAM)


def test_a_model_of_mixed_types_computes_what_its_widened_weights_give(interpreted):
    interpreted(MODEL)
