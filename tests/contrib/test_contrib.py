"""A stranger's path: refused, ``pip install`` of a plugin, served; all in a fresh environment."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

CONTRIB = Path(__file__).parents[2] / "contrib"
# More than 20 tokens: fewer do not show rows in the wrong order (case F9).
PROMPT = " ".join(f"w{token}" for token in torch.arange(7, 7 + 40 * 5, 5).remainder(97).tolist())
NUM_NEW = 12
META_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.layers": "layers",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


@pytest.fixture(scope="session")
def meta_llama(llama, tmp_path_factory):
    """The same Llama as Meta would have released it."""
    model, original = llama
    folder = tmp_path_factory.mktemp("meta")
    save_file(to_meta(model), folder / "consolidated.safetensors")
    params = {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "norm_eps": model.config.rms_norm_eps,
        "rope_theta": 10000.0,
        "vocab_size": -1,
        "multiple_of": 32,
    }
    (folder / "params.json").write_text(json.dumps(params))
    shutil.copy(original / "tokenizer.json", folder)
    return folder


def to_meta(model):
    """Meta's names, and the rows of q and k with rotary pairs side by side."""
    stored = {}
    for name, weight in model.state_dict().items():
        for ours, metas in META_NAMES.items():
            name = name.replace(ours, metas)
        if ".wq." in name or ".wk." in name:
            pairs = weight.unflatten(0, (-1, 2, 8))  # heads, halves, channels of a half
            weight = pairs.transpose(1, 2).flatten(0, 2)
        stored[name] = weight.contiguous()
    return stored


def test_the_environment_holds_ferrules_wheel_and_nothing_of_this_working_tree(environment):
    script = "import ferrule, ferrule_plugins as p; print(ferrule.__file__, p.__file__)"
    files = environment.run("python", "-c", script).stdout.split()
    assert all(Path(file).is_relative_to(environment.site_packages) for file in files), files
    listed = environment.plugins()
    assert {plugin["distribution"] for plugin in listed["plugins"]} == {"ferrule"}
    assert listed["errors"] == []


def test_meta_names_make_a_refused_checkpoint_serve(environment, llama, meta_llama, continued):
    model, original = llama
    expected = continued(model, PROMPT, NUM_NEW)
    assert environment.generate(original, PROMPT, NUM_NEW) == expected
    refused = environment.ferrule("serve", meta_llama, "--port", 0, "--devices", "cpu")
    assert refused.returncode == 1
    for part in (
        "layers.0.attention",
        "Installed weight adapters: ",
        "huggingface (ferrule 0.1.0)",
        "a weight adapter plugin of ten lines fixes this",
    ):
        assert part in refused.stderr, part
    with environment.installed("ferrule-meta-names"):
        with served(environment, meta_llama) as url:
            body = {"model": meta_llama.name, "prompt": PROMPT, "max_tokens": NUM_NEW}
            answer = httpx.post(
                f"{url}/completions", json=body | {"temperature": 0, "ignore_eos": True}, timeout=60
            )
        assert answer.json()["choices"][0]["text"].strip() == expected
    again = environment.ferrule("inspect", meta_llama)
    assert again.returncode == 1
    assert "No installed weight adapter" in again.stderr


@contextmanager
def served(environment, model):
    """The address of ``ferrule serve``, once it answers."""
    from_start = [environment.path / "bin" / "ferrule", "serve", model, "--port", "0"]
    log = environment.path / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen([*from_start, "--devices", "cpu"], stderr=out, stdout=out)
    try:
        yield wait_for_address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_address(process, log):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"Serving \S+ at (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_qwen3_is_refused_by_name_until_its_plugin_is_installed(environment, qwen3, continued):
    model, folder = qwen3
    refused = environment.ferrule("generate", folder, "--prompt", PROMPT, "--devices", "cpu")
    assert refused.returncode == 1
    for part in (
        "model_type 'qwen3'",
        "llama (ferrule 0.1.0), mistral (ferrule 0.1.0), qwen2 (ferrule 0.1.0)",
        "The nearest is 'qwen2'",
        "an architecture plugin of about fifty lines fixes this",
    ):
        assert part in refused.stderr.replace("\n", " "), part
    with environment.installed("ferrule-qwen3"):
        assert environment.generate(folder, PROMPT, NUM_NEW) == continued(model, PROMPT, NUM_NEW)


def test_plugins_lists_distribution_version_and_offers(environment):
    with environment.installed("ferrule-qwen3"), environment.installed("ferrule-meta-names"):
        listed = environment.plugins()
    assert listed["errors"] == []
    strangers = [each for each in listed["plugins"] if each["distribution"] != "ferrule"]
    assert strangers == [
        {
            "distribution": "ferrule-meta-names",
            "version": "0.1.0",
            "entry_point": "meta-names",
            "architectures": [],
            "weight_adapters": ["meta"],
            "wrappers": [],
        },
        {
            "distribution": "ferrule-qwen3",
            "version": "0.1.0",
            "entry_point": "qwen3",
            "architectures": ["qwen3"],
            "weight_adapters": [],
            "wrappers": [],
        },
    ]


@contextmanager
def written(environment, name, source):
    """A distribution of one module, as pip would leave it in the environment."""
    module = environment.site_packages / f"{name.replace('-', '_')}.py"
    info = environment.site_packages / f"{module.stem}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[ferrule]\nmine = {module.stem}\n")
    module.write_text(source)
    try:
        yield
    finally:
        module.unlink()
        shutil.rmtree(info)


MISSPELLED = """
from ferrule import hookimpl
@hookimpl
def weight_adaptors():
    return []
"""
TAKEN = """
from ferrule import WeightAdapter, hookimpl
@hookimpl
def weight_adapters():
    return [WeightAdapter(name="huggingface", matches=lambda checkpoint: False, names={})]
"""
BROKEN = {
    "cannot be imported": (
        "import no_such_module_of_ours",
        ("cannot be imported", "No module named 'no_such_module_of_ours'"),
    ),
    "misspelled hook": (MISSPELLED, ("'weight_adaptors'", "the nearest is 'weight_adapters'")),
    "name taken twice": (TAKEN, ("weight adapter 'huggingface'", "ferrule 0.1.0")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_named_and_nothing_is_served_with_it(environment, llama, case):
    source, parts = BROKEN[case]
    with written(environment, "ferrule-broken", source):
        listing = environment.ferrule("plugins", "--json")
        inspected = environment.ferrule("inspect", llama[1])
    assert (listing.returncode, inspected.returncode) == (1, 1)
    (error,) = json.loads(listing.stdout)["errors"]
    for part in ("ferrule-broken 2.5", *parts):
        assert part in error["message"], part
        assert part in inspected.stderr, part


@pytest.mark.parametrize("name", sorted(each.parent.name for each in CONTRIB.glob("*/tests")))
def test_a_plugins_own_tests_pass_where_it_is_installed(environment, extra_tools, name):
    folder = CONTRIB / name
    options = ["-q", "-p", "no:cacheprovider", "-c", folder / "pyproject.toml"]
    with environment.installed(name):
        # -P: the installed module is tested, not the one in the directory.
        done = environment.run(
            "python", "-P", "-m", "pytest", *options, cwd=folder, PYTHONPATH=str(extra_tools(name))
        )
    assert done.returncode == 0, done.stdout + done.stderr
