"""Tiny models by transformers, and adapters that peft itself has made and saved."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from ferrule.checkpoint.open import open_checkpoint
from ferrule.lora import Base, dora_gain
from ferrule.lora.base import EMBEDDING
from ferrule.matching import match
from ferrule.plugins import Plugins

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
TOKENS = torch.arange(24).reshape(2, 12) * 7 % 90


def _model(family: str = "llama", *, tied: bool = False, **changes):
    import transformers

    torch.manual_seed(5)
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
    config = getattr(transformers, f"{names[family]}Config")(
        **{**SIZES, "tie_word_embeddings": tied, **changes}
    )
    model = getattr(transformers, f"{names[family]}ForCausalLM")(config).float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter.data, std=0.1)
        elif parameter.dim() == 2:
            torch.nn.init.normal_(parameter.data, std=0.15)
    return model


def randomise(model) -> None:
    """Training's place: every trained tensor gets other values."""
    torch.manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
        elif parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.15


@pytest.fixture(scope="session")
def make_model():
    """``make_model("llama", tied=True, hidden_size=64)``: transformers' own, tiny."""
    return _model


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return Plugins.installed()


@pytest.fixture
def open_base(plugins):
    """``open_base(folder)``."""
    return lambda folder: Base(match=match(open_checkpoint(str(folder)), plugins), plugins=plugins)


class Trained:
    """A base model on disk, and an adapter of it that peft has saved.

    Attributes:
        base: The base's directory.
        adapter: The adapter's.
        logits: Of peft's model.
        model: peft's.
    """

    def __init__(self, folder: Path, model, settings: dict, save: dict, before=None):
        import peft

        self.base, self.adapter = folder / "base", folder / "adapter"
        model.save_pretrained(self.base)
        if before is not None:
            before(model)
        settings = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.config._name_or_path = model.name_or_path = str(self.base)
            self.model = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
            randomise(self.model)
            with torch.no_grad():
                self.logits = self.model(TOKENS).logits
            self.model.save_pretrained(self.adapter, **save)

    @property
    def config(self) -> dict:
        return json.loads((self.adapter / "adapter_config.json").read_text())

    def change_config(self, **changes) -> None:
        text = json.dumps({**self.config, **changes})
        (self.adapter / "adapter_config.json").write_text(text)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.adapter / "adapter_model.safetensors")

    def rename(self, rename, *, add=None) -> None:
        """Writes the tensors under other names; None drops one."""
        from safetensors.torch import save_file

        renamed = {rename(name): each for name, each in self.tensors.items()}
        renamed.pop(None, None)
        save_file({**renamed, **(add or {})}, self.adapter / "adapter_model.safetensors")


@pytest.fixture
def train(tmp_path):
    """``train(target_modules=[...], tied=True, ...)``: what peft makes of a tiny model."""

    def make(family="llama", *, tied=False, sizes=None, before=None, save=None, **settings):
        model = _model(family, tied=tied, **(sizes or {}))
        settings.setdefault("target_modules", ["q_proj", "v_proj"])
        return Trained(tmp_path, model, settings, save or {}, before)

    return make


@pytest.fixture
def logits_with():
    """``logits_with(folder, adapter)``: transformers' model with an Adapter beside its weights."""
    import transformers

    def run(folder: Path, adapter) -> torch.Tensor:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
        own = {name: model.get_submodule(name).weight.data for name in adapter.modules}
        for name, update in adapter.modules.items():
            module = model.get_submodule(name)
            module.forward = _applied(own[name], module, update, name == EMBEDDING)
        with torch.no_grad():
            return model(TOKENS).logits

    return run


def _applied(own, module, update, is_embedding):
    """The update's definition, in plain torch."""
    weight = own if update.full is None else update.full.float()
    if is_embedding:
        # One-hot tokens times the matrix are its rows.
        weight = weight.T
    own_bias = getattr(module, "bias", None)

    def forward(x):
        x = torch.nn.functional.one_hot(x, weight.shape[1]).float() if is_embedding else x
        y = x @ weight.T
        if update.a is not None:
            y = y + update.scale * ((x @ update.a.float().T) @ update.b.float().T)
        if update.magnitude is not None:
            y = y * dora_gain(update, weight)
        for bias in (own_bias, update.bias):
            y = y if bias is None else y + bias
        return y

    return forward


@pytest.fixture
def logits_of():
    """``logits_of(folder)``: of a model on disk, by transformers."""
    import transformers

    def run(folder: Path) -> torch.Tensor:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
        with torch.no_grad():
            return model(TOKENS).logits

    return run
