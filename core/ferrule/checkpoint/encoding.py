"""The weight format that a user says a checkpoint has, and whether it has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import CheckpointError, OptionError

_K_MIXES = {"q2_k": "s", "q3_k": "sml", "q4_k": "sm", "q5_k": "sm"}

# The _S, _M and _L mixes are named after the type that most of their matrices have.
ENCODINGS: Mapping[str, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q6_k": "Q6_K"}
    | {name: name.upper() for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs")}
    | {name: name.upper() for name in _K_MIXES}
    | {f"{name}_{mix}": name.upper() for name, mixes in _K_MIXES.items() for mix in mixes}
)
"""What ``--quantization-encoding`` takes, and the weight format that it means."""

# Modules whose matrix quantising tools often leave in a larger format than the rest.
_EMBEDDINGS_AND_HEADS = frozenset(
    {"token_embd", "embed_tokens", "tok_embeddings", "wte", "output", "lm_head", "embed_out"}
)


def encoding_format(encoding: str) -> str:
    """The weight format that an encoding's name (in any case) means.

    Raises:
        OptionError: There is no such encoding.
    """
    try:
        return ENCODINGS[encoding.lower()]
    except KeyError:
        raise OptionError(
            f"Unknown quantization encoding '{encoding}'. Known: {', '.join(sorted(ENCODINGS))}."
        ) from None


def main_format(checkpoint: Checkpoint) -> str | None:
    """The format of most of the matrices' bytes, embeddings and head aside; None without tensors.

    A mix such as Q4_K_M keeps some matrices in a larger format; what most of the bytes are in is
    what it is named after.
    """
    infos = list(checkpoint.tensors.values())
    matrices = [info for info in infos if len(info.shape) >= 2]
    inner = [info for info in matrices if not _EMBEDDINGS_AND_HEADS & {*info.name.split(".")}]
    return _most_common(inner or matrices or infos)


def check_encoding(checkpoint: Checkpoint, encoding: str) -> None:
    """Compares the stated encoding with the file.

    Raises:
        OptionError: There is no such encoding.
        CheckpointError: The checkpoint's weights are mainly in another format.
    """
    expected, found = encoding_format(encoding), main_format(checkpoint)
    if found == expected:
        return
    files = sorted({info.file.name for info in checkpoint.tensors.values()})
    where = files[0] if len(files) == 1 else f"{checkpoint.location} ({len(files)} files)"
    names = [name for name, format_name in ENCODINGS.items() if format_name == found]
    raise CheckpointError(
        f"--quantization-encoding {encoding} was given, which means {expected} weights, but {where}"
        f" holds mainly {found or 'no'} weights.",
        hint=f"Leave the option out, or give {names[0]}." if names else "Leave the option out.",
    )


def _most_common(infos: Iterable[TensorInfo]) -> str | None:
    num_bytes: Counter[str] = Counter()
    for info in infos:
        num_bytes[info.format] += info.nbytes
    return max(num_bytes, key=num_bytes.__getitem__, default=None)
