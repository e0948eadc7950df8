"""Why a directory without usable weights is refused, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ferrule.checkpoint.stored_file import read_json_object
from ferrule.errors import CheckpointError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

# What trainers pickle beside a model; none of it is weights of the model.
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")

_EXPECTED = "Give a directory with config.json and *.safetensors files, a .gguf file, or org/name."

_CONVERT_MODEL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({source!r}, dtype="auto")
model.save_pretrained({target!r}, safe_serialization=True)
AutoTokenizer.from_pretrained({source!r}).save_pretrained({target!r})"""

_CONVERT_FILE = """\
import torch
from safetensors.torch import save_file
state = torch.load({source!r}, map_location="cpu", weights_only=True)
save_file({{name: tensor.clone() for name, tensor in state.items()}}, {target!r})"""


def no_weights(where: str, folder: Path, names: Collection[str]) -> CheckpointError:
    """The error for a directory in which no safetensors and no GGUF file was found.

    Args:
        where: What the user gave.
        folder: Where its small files can be read.
        names: All names in it.
    """
    if "adapter_config.json" in names:
        return _adapter(where, folder)
    if any(name.endswith(".distcp") for name in names):
        return CheckpointError(
            f"{where} is a distributed training checkpoint of PyTorch (.distcp files).",
            hint="Convert it: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
            f" {where} model.pt`, and then to safetensors.",
        )
    if "zero_to_fp32.py" in names:
        return CheckpointError(
            f"{where} is a training checkpoint of DeepSpeed ZeRO, whose weights are in pieces.",
            hint=f"Join them: `python {where}/zero_to_fp32.py {where} OUT --safe_serialization`,"
            " and copy config.json and the tokenizer into OUT.",
        )
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    pickles = [name for name in pickles if not name.startswith(_TRAINER_STATE)]
    if pickles:
        return refused_pickle(where, pickles, is_model="config.json" in names)
    return _nothing(where, folder, names)


def refused_pickle(where: str, names: list[str], *, is_model: bool) -> CheckpointError:
    """The error for pickle files, with the code that converts them.

    Args:
        where: The directory or repository that the user gave.
        names: The pickle files in it.
        is_model: Whether a config.json lies beside them, so that transformers can load them.
    """
    target = f"{where.rstrip('/')}-safetensors"
    if is_model:
        snippet = _CONVERT_MODEL.format(source=where, target=target)
    else:
        source = f"{where.rstrip('/')}/{names[0]}"
        snippet = _CONVERT_FILE.format(source=source, target="model.safetensors")
    return CheckpointError(
        f"{where} has its weights in pickle files only ({', '.join(names[:5])}). They are never"
        " loaded, because opening one runs whatever code it holds.",
        hint=f"If you trust where they come from, convert them to safetensors:\n\n{snippet}\n",
    )


def _adapter(where: str, folder: Path) -> CheckpointError:
    base = read_json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    return CheckpointError(
        f"{where} is a LoRA adapter, not a model: it has adapter_config.json and no weights of its"
        f" own. Its base model is {base or 'not named'}.",
        hint="Serve it with its base model, or make one model of both: `ferrule merge "
        f"{base or 'BASE'} {where} {where.rstrip('/')}-merged`.",
    )


def _nothing(where: str, folder: Path, names: Collection[str]) -> CheckpointError:
    if not names:
        return CheckpointError(f"{where} is empty.", hint=_EXPECTED)
    nested = [name for name in sorted(names) if _holds_weights(folder / name)]
    found = ", ".join(sorted(names)[:10]) + (" ..." if len(names) > 10 else "")
    hint = f"Did you mean {where.rstrip('/')}/{nested[-1]}?" if nested else _EXPECTED
    return CheckpointError(
        f"{where} holds no weights: no *.safetensors and no .gguf file. It has: {found}.", hint=hint
    )


def _holds_weights(folder: Path) -> bool:
    return folder.is_dir() and any(
        next(folder.glob(pattern), None) for pattern in ("*.safetensors", "*.gguf")
    )
