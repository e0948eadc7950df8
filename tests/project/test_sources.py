"""Rules of docs/contributing.md about files, names and exports."""

from __future__ import annotations

import ast
import importlib

import pytest

# Spelled in parts, so that this file keeps its own rule.
MACHINE_PATHS = tuple(f"/{name}/" for name in ("work", "root", "opt"))

# Modules without a test file of their own, and what tests them instead.
_STRUCTS = "structs without behaviour; the routes' tests send and read them"
_BLOCKS = "tests/core/quantization/test_gguf_blocks.py compares every type with the gguf package"
_ROUTES = "tests/core/server/test_chat.py and test_completions.py see all that it makes"
_FAMILY = "tests/plugins/architectures/test_against_transformers.py"
_ADAPTERS = "tests/core/lora/test_open.py reads adapters of every kind through it"
WITHOUT_MIRROR = {
    "core/ferrule/__main__.py": "calls the app; tests/core/cli runs the command",
    "core/ferrule/architecture.py": "a dataclass without behaviour",
    "core/ferrule/engine/options.py": "a struct without behaviour",
    "core/ferrule/engine/status.py": "a dataclass without behaviour",
    "core/ferrule/errors.py": "classes that hold a message",
    "core/ferrule/hookspecs.py": "tests/project/test_hooks.py",
    "core/ferrule/kernels/heads.py": "for kernels: test_paged_decode.py and test_rotate_write.py",
    "core/ferrule/kernels/lora_gated.py": "with both halves: test_lora_expand.py",
    "core/ferrule/kernels/lora_shrink.py": "with what follows it: test_lora_expand.py",
    "core/ferrule/kernels/parts.py": "tests/core/kernels/test_paged_decode.py joins parts",
    "core/ferrule/kernels/follow.py": "only a Hopper device runs it: tests/gpu/test_kernels.py",
    "core/ferrule/kernels/product_tile.py": "for kernels: test_skinny.py and test_packed.py",
    "core/ferrule/kernels/span.py": "for kernels: test_paged_decode.py and test_shared_prefix.py",
    "core/ferrule/kernels/shared.py": "a dataclass without behaviour",
    "core/ferrule/kernels/planes.py": "for kernels: test_dequantize.py and test_packed.py",
    "core/ferrule/layers/weights.py": "a protocol",
    "core/ferrule/inspection/adapter.py": "tests/core/cli/test_merge.py inspects adapters",
    "core/ferrule/inspection/base.py": "tests/core/cli/test_merge.py opens bases",
    "core/ferrule/lora/accounting.py": _ADAPTERS,
    "core/ferrule/lora/adapter.py": _ADAPTERS,
    "core/ferrule/lora/base.py": _ADAPTERS,
    "core/ferrule/lora/grouping.py": _ADAPTERS,
    "core/ferrule/lora/merged_files.py": "tests/core/lora/test_added_tokens.py merges tokenizers",
    "core/ferrule/lora/refused_settings.py": _ADAPTERS,
    "core/ferrule/lora/stored.py": _ADAPTERS,
    "core/ferrule/lora/targets.py": _ADAPTERS,
    "core/ferrule/lora/updates.py": _ADAPTERS,
    "core/ferrule/plugins/plugin.py": "tests/core/plugins/test_discovery.py",
    "core/ferrule/quantization/format.py": "protocols",
    "core/ferrule/quantization/gguf_bits.py": _BLOCKS,
    "core/ferrule/quantization/gguf_iq.py": _BLOCKS,
    "core/ferrule/quantization/gguf_k.py": _BLOCKS,
    "core/ferrule/quantization/gguf_legacy.py": _BLOCKS,
    "core/ferrule/quantization/packed_fields.py": "tests/core/kernels/test_dequantize.py",
    "core/ferrule/runtime/model.py": "a protocol",
    "core/ferrule/server/chat_chunks.py": _ROUTES,
    "core/ferrule/server/chat_schema.py": _STRUCTS,
    "core/ferrule/server/completion_choices.py": _ROUTES,
    "core/ferrule/server/completions_schema.py": _STRUCTS,
    "core/ferrule/server/job.py": _ROUTES,
    "core/ferrule/server/schema.py": _STRUCTS,
    "core/ferrule/worker.py": "tests/golden/test_http.py asks a served model",
    "plugins/ferrule_plugins/adapters/gguf/metadata.py": "tests/plugins/adapters/gguf",
    "plugins/ferrule_plugins/architectures/llama.py": _FAMILY,
    "plugins/ferrule_plugins/architectures/mistral.py": _FAMILY,
    "plugins/ferrule_plugins/architectures/qwen2.py": _FAMILY,
}


def test_files_have_300_lines_at_most(root, sources, tracked):
    contrib = [file for file in tracked if "contrib" in file.parts and file.suffix == ".py"]
    lengths = {file: len(file.read_text().splitlines()) for file in (*sources, *contrib)}
    assert {str(file.relative_to(root)): n for file, n in lengths.items() if n > 300} == {}


def test_every_module_has_a_test_file_at_the_mirror_path(root, sources):
    missing = set()
    for file in sources:
        below = file.relative_to(root)
        top, _, *folders = below.parent.parts
        if file.name == "__init__.py" and not _defines_something(file):
            continue
        # The test of a package's own code carries the package's name.
        name = below.parent.name if file.name == "__init__.py" else file.stem
        if not (root / "tests" / top / "/".join(folders) / f"test_{name}.py").is_file():
            missing.add(below.as_posix())
    lacking = sorted(missing - WITHOUT_MIRROR.keys())
    assert not lacking, "without a test file: " + ", ".join(lacking)
    needless = sorted(WITHOUT_MIRROR.keys() - missing)
    assert not needless, "have a test file, so need no exemption: " + ", ".join(needless)


def _defines_something(file):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, kinds) for node in ast.parse(file.read_text()).body)


def test_the_vocabulary_of_plugins_is_sorted_and_complete():
    names = importlib.import_module("ferrule").__all__
    assert names == sorted(names)


def test_packages_export_what_they_import(root, sources):
    """``__all__`` of a package holds every public name of it, and nothing else."""
    for file in sources:
        tree = ast.parse(file.read_text())
        listed = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if listed:
            where = str(file.relative_to(root))
            assert (where, set(listed[0])) == (where, set(_public_names(tree)))


def _public_names(tree):
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) != "__all__":
            yield ast.unparse(node.targets[0])


def test_no_file_names_a_path_of_somebodys_machine(root, tracked):
    found = []
    for file in tracked:
        name = file.relative_to(root).as_posix()
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {path}" for path in MACHINE_PATHS if path in text]
    assert found == []


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "NotImplementedError"])
def test_nothing_is_left_for_later(root, sources, word):
    assert [str(file.relative_to(root)) for file in sources if word in file.read_text()] == []


def test_messages_name_flags_that_exist(root, sources, command_line):
    """A hint that sends people to a flag sends them to one of ours, or to one listed here."""
    others = {"--safe_serialization"}  # zero_to_fp32.py of DeepSpeed
    flags = {
        flag
        for command in command_line.commands.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    unknown = []
    for file in sources:
        if "cli" in file.parts:
            continue
        texts = (
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        words = (word.strip("`.,:;()'") for text in texts for word in text.split())
        unknown += [
            f"{file.relative_to(root)}: {word}"
            for word in words
            if word.startswith("--") and word.strip("-") and word not in flags | others
        ]
    assert unknown == []
