"""A fresh environment in which ferrule and its plugins are really installed.

Nothing is downloaded: the distributions that ferrule's wheel requires are linked, one by one, from
the environment that runs the tests. So pip resolves what a stranger's pip would resolve, and an
import that no requirement declares fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from contextlib import contextmanager
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib"
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


class Environment:
    """A virtual environment and the wheels that its pip finds."""

    def __init__(self, path: Path, wheels: Path) -> None:
        self.path = path
        self.wheels = wheels
        self.site_packages = Path(
            sysconfig.get_path("purelib", "venv", {"base": str(path), "platbase": str(path)})
        )

    def run(self, command, *arguments, cwd=None, **variables):
        """Runs a command of the environment as if no other one were active."""
        return subprocess.run(
            [self.path / "bin" / command, *map(str, arguments)],
            cwd=cwd or self.path,
            env=clean_variables() | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ferrule(self, *arguments, cwd=None):
        return self.run("ferrule", *arguments, cwd=cwd)

    def plugins(self):
        """What ``ferrule plugins --json`` writes."""
        return json.loads(self.ferrule("plugins", "--json").stdout)

    def generate(self, model, prompt, num_tokens):
        """The greedy continuation that ``ferrule generate`` writes."""
        flags = f"--devices cpu --temperature 0 --ignore-eos --max-tokens {num_tokens}"
        done = self.ferrule("generate", model, "--raw", "--prompt", prompt, *flags.split())
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pip(self, *arguments):
        done = self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def installed(self, name):
        """``pip install`` of one of the wheels, undone at the end."""
        self.pip("install", "--quiet", "--no-index", "--find-links", self.wheels, name)
        try:
            yield
        finally:
            self.pip("uninstall", "--quiet", "--yes", name)


def clean_variables():
    """The variables of this process without what would change a fresh environment."""
    changing = ("PYTHON", "PIP_", "FERRULE_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    # The models are so small that a second thread would only wait for the first.
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def build_wheel(source: Path, wheels: Path) -> None:
    """Builds a wheel with the backend at hand: what ``pip wheel`` would do after a download."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def requirements(wheels: Path, name: str, extra: str = "") -> list[Requirement]:
    """What a wheel requires, or what one of its extras requires besides."""
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    version = wheel.name.split("-")[1]
    metadata = PathDistribution(ZipPath(wheel) / f"{name.replace('-', '_')}-{version}.dist-info")
    declared = [Requirement(text) for text in metadata.requires or ()]
    return [each for each in declared if applies(each, {extra}) and each.name != "ferrule"]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def link(wanted: Iterable[Requirement], target: Path) -> None:
    """Links the distributions that meet requirements, and all that these require."""
    pending = [(each.name, each.extras) for each in wanted]
    seen = set()
    while pending:
        name, extras = pending.pop()
        key = (canonicalize_name(name), frozenset(extras))
        if key in seen:
            continue
        seen.add(key)
        found = distribution(name)
        link_files(found, target)
        nested = [Requirement(text) for text in found.requires or ()]
        pending += [(each.name, each.extras) for each in nested if applies(each, extras)]


def link_files(found: Distribution, target: Path) -> None:
    for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
        if not (target / top).exists():
            (target / top).symlink_to(Path(found.locate_file(top)).resolve())


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Wheels of ferrule and of every distribution in contrib."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, *sorted(file.parent for file in CONTRIB.glob("*/pyproject.toml"))):
        build_wheel(project, folder)
    return folder


@pytest.fixture(scope="session")
def environment(wheels, tmp_path_factory):
    """ferrule installed, and no plugin but its own."""
    path = tmp_path_factory.mktemp("environment")
    venv.create(path, with_pip=True)
    fresh = Environment(path, wheels)
    link(requirements(wheels, "ferrule"), fresh.site_packages)
    fresh.pip("install", "--quiet", "--no-index", "--find-links", wheels, "ferrule")
    return fresh


@pytest.fixture(scope="session")
def build_tools(tmp_path_factory):
    """A folder with hatchling: what pip would fetch to build a plugin."""
    folder = tmp_path_factory.mktemp("build-tools")
    link([Requirement("hatchling")], folder)
    return folder


@pytest.fixture
def extra_tools(wheels, tmp_path_factory):
    """Makes a folder with what the tests of a distribution need besides."""

    def make(name):
        folder = tmp_path_factory.mktemp("test-tools")
        link(requirements(wheels, name, extra="test"), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def save(tmp_path_factory):
    """Makes a random model of transformers, and its directory with a tokenizer.

    The tokenizer's tokens are the words ``w0``, ``w1`` and so on, so that texts show the tokens.
    """

    def make(model_class, config):
        torch.manual_seed(0)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
        folder = tmp_path_factory.mktemp(config.model_type)
        model.save_pretrained(folder)
        words = {f"w{i}": i for i in range(config.vocab_size)}
        tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        tokenizer.save(str(folder / "tokenizer.json"))
        return model, folder

    return make


@pytest.fixture(scope="session")
def llama(save):
    return save(LlamaForCausalLM, LlamaConfig(**SIZES))


@pytest.fixture(scope="session")
def qwen3(save):
    return save(Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32))


@pytest.fixture(scope="session")
def continued():
    """The greedy continuation of a text by transformers."""

    def run(model, prompt, num_tokens):
        tokens = [int(word[1:]) for word in prompt.split()]
        given = len(tokens)
        with torch.no_grad():
            for _ in range(num_tokens):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        return " ".join(f"w{token}" for token in tokens[given:])

    return run
