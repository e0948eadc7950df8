"""Small checkpoints on disk, and plugins that fit them, for tests of matching."""

from __future__ import annotations

import numpy as np
import pytest

from ferrule import Architecture, Checkpoint, ModelConfig, RopeConfig, TensorInfo, WeightAdapter
from ferrule.plugins import Plugin, Plugins


@pytest.fixture
def make_checkpoint(tmp_path):
    def make(tensors, config=(), kind="safetensors"):
        """Tensors are arrays, or shapes of arrays that count up from 0."""
        file = tmp_path / "weights"
        infos, offset = {}, 0
        with file.open("wb") as out:
            for name, given in tensors.items():
                data = given if isinstance(given, np.ndarray) else counting(given)
                infos[name] = TensorInfo(
                    name=name,
                    shape=data.shape,
                    format="F32",
                    file=file,
                    offset=offset,
                    nbytes=data.nbytes,
                )
                out.write(data.tobytes())
                offset += data.nbytes
        return Checkpoint(location="the/model", kind=kind, config=dict(config), tensors=infos)

    return make


def counting(shape):
    return np.arange(np.prod(shape, dtype=int), dtype="<f4").reshape(shape)


@pytest.fixture
def make_plugins():
    """Each argument is one plugin's offers; distributions are called dist-0, dist-1 ..."""

    def make(*offers):
        return Plugins(
            tuple(
                Plugin(
                    distribution=f"dist-{i}",
                    version="1.0",
                    entry_point=f"entry-{i}",
                    architectures=tuple(o for o in each if isinstance(o, Architecture)),
                    weight_adapters=tuple(o for o in each if isinstance(o, WeightAdapter)),
                )
                for i, each in enumerate(offers)
            )
        )

    return make


@pytest.fixture
def make_architecture():
    def make(name, model_type=None, configure=None):
        return Architecture(
            name=name,
            matches=lambda config: config.get("model_type") == (model_type or name),
            configure=configure or (lambda checkpoint: model_config(notes=("a note",))),
            build=lambda config: None,
        )

    return make


def model_config(**changes):
    numbers = dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads"), 8
    )
    return ModelConfig(
        **numbers,
        num_kv_heads=8,
        head_dim=8,
        rms_norm_eps=1e-5,
        max_position_embeddings=8,
        rope=RopeConfig(rotary_dim=8),
        windows=(None,),
        **changes,
    )


TENSORS = {"emb.weight": (4, 2), "blocks.0.q.weight": (8, 2), "blocks.1.q.weight": (8, 2)}
NAMES = {"emb.weight": "model.emb.weight", "blocks.{n}.q.weight": "model.{n}.q.weight"}


@pytest.fixture
def tensors():
    """What the dialect of ``dialect`` reads."""
    return dict(TENSORS)


@pytest.fixture
def dialect():
    def make(name="plain", **changes):
        settings = {"matches": lambda stored: "emb.weight" in stored.tensors, "names": NAMES}
        return WeightAdapter(name=name, **(settings | changes))

    return make


@pytest.fixture
def wrapper():
    def make(name, matches, names, **changes):
        return WeightAdapter(name=name, kind="wrapper", matches=matches, names=names, **changes)

    return make


@pytest.fixture
def prefixed(wrapper):
    """A wrapper that takes one prefix off."""

    def make(prefix):
        return wrapper(
            f"no-{prefix}",
            lambda stored: any(name.startswith(f"{prefix}.") for name in stored.tensors),
            {f"{prefix}.{{rest*}}": "{rest*}"},
        )

    return make


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint(TENSORS, {"model_type": "toy", "heads": 2})


@pytest.fixture
def toy(make_architecture):
    return make_architecture("toy")
