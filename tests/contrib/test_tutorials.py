"""The tutorials on plugins, followed to the letter in a fresh environment."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^`(?P<file>\S+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
# torchtune's names of Llama's weights (torchtune/models/convert_weights.py).
TORCHTUNE_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.layers": "layers",
    "model.norm.weight": "norm.scale",
    "lm_head": "output",
    "input_layernorm.weight": "sa_norm.scale",
    "post_attention_layernorm.weight": "mlp_norm.scale",
    "self_attn": "attn",
    "o_proj": "output_proj",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
}


@dataclass
class Page:
    """A tutorial: its files, and its commands with the lines that it says they write."""

    files: dict[str, str] = field(default_factory=dict)
    commands: list[tuple[list[str], list[str]]] = field(default_factory=list)


def read_page(name):
    page = Page()
    for block in BLOCK.finditer((ROOT / "docs" / "tutorial" / f"{name}.md").read_text()):
        if block["file"]:
            page.files[block["file"]] = block["text"]
        elif block["kind"] == "console":
            lines = block["text"].replace("\\\n", "").splitlines()
            page.commands += [(shlex.split(line), []) for line in lines]
        else:
            assert block["kind"] == "text"
            page.commands[-1][1].extend(block["text"].splitlines())
    return page


@pytest.fixture
def follow(environment, build_tools, tmp_path):
    """Writes the files of a page and runs its commands beside a checkpoint."""

    def run(page):
        for name, text in page.files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
            (tmp_path / name).with_name("README.md").touch()
        for command, lines in page.commands:
            output = execute(environment, command, tmp_path, build_tools)
            assert_written(lines, output)

    return run


def execute(environment, command, folder, build_tools):
    variables = {"COLUMNS": "200", "FERRULE_DEVICES": "cpu"}
    if command[0] == "pip":
        # The backend is at hand; a stranger's pip fetches it.
        command = [*command, "--no-build-isolation", "--no-index"]
        variables["PYTHONPATH"] = str(build_tools)
    done = environment.run(*command, cwd=folder, **variables)
    assert done.returncode == int("error: " in done.stderr), done.stderr
    return done.stdout + done.stderr


def assert_written(lines, output):
    """Each line of a page is written, in this order; ``...`` stands for anything."""
    written = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in lines:
        pattern = re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*")
        pattern = re.sub(r"\d+\\ tensors", r"\\d+ tensors", pattern)
        if pattern != ".*":
            assert any(re.fullmatch(pattern, each) for each in written), f"{line}\n\n{output}"


def to_torchtune(weights):
    """torchtune's names, and the rows of q and k with rotary pairs side by side."""
    stored = {}
    for name, weight in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            pairs = weight.unflatten(0, (-1, 2, 8))  # heads, halves, channels of a half
            weight = pairs.transpose(1, 2).flatten(0, 2)
        for ours, theirs in TORCHTUNE_NAMES.items():
            name = name.replace(ours, theirs)
        stored[name] = weight.contiguous()
    return stored


def test_first_adapter_leads_from_the_error_to_the_same_tokens(
    environment, follow, llama, continued, tmp_path
):
    model, original = llama
    tuned = tmp_path / "tuned-llama"
    shutil.copytree(original, tuned)
    save_file(to_torchtune(model.state_dict()), tuned / "model.safetensors")
    try:
        follow(read_page("first-adapter"))
        prompt = " ".join(f"w{token}" for token in range(3, 93, 3))
        assert environment.generate(tuned, prompt, 12) == continued(model, prompt, 12)
    finally:
        environment.pip("uninstall", "--yes", "ferrule-torchtune")


def test_first_architecture_leads_from_the_error_to_an_installed_plugin(
    environment, follow, qwen3, tmp_path
):
    shutil.copytree(qwen3[1], tmp_path / "my-qwen3")
    try:
        follow(read_page("first-architecture"))
    finally:
        environment.pip("uninstall", "--yes", "ferrule-qwen3")


def test_first_architecture_shows_the_files_of_contrib():
    files = read_page("first-architecture").files
    assert len(files) == 2
    for name, text in files.items():
        assert text == (ROOT / "contrib" / name).read_text()
