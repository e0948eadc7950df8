"""Makes each module's update of its tensors, and checks every shape against the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ferrule.lora.accounting import Accounting
from ferrule.lora.base import EMBEDDING, HEAD, Base
from ferrule.lora.grouping import Group
from ferrule.lora.naming import Home
from ferrule.lora.stored import PartKind, StoredAdapter
from ferrule.lora.update import ModuleUpdate

# Of a row's length; 4-bit blocks are wrong by some 8 %, and a row that was trained by far more.
_QUANTISATION = 0.25
_FULL = (PartKind.weight, PartKind.base_weight, PartKind.token_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    adapter: StoredAdapter
    base: Base
    accounting: Accounting
    merging: bool


def make_updates(
    adapter: StoredAdapter,
    placed: Mapping[str, tuple[Group, Home]],
    base: Base,
    accounting: Accounting,
    *,
    merging: bool,
) -> dict[str, ModuleUpdate]:
    """Reads all tensors.

    Args:
        adapter: Where they are.
        placed: Which module each belongs to.
        base: Whose shapes count, and whose values full copies are compared with.
        accounting: Told of what does not fit.
        merging: Whether norms and linear weights may be replaced.

    Returns:
        Updates by canonical module, in the base's order.
    """
    work = _Work(adapter=adapter, base=base, accounting=accounting, merging=merging)
    updates: dict[str, ModuleUpdate] = {}
    for module in (*(name for name in base.shapes if name in placed), *placed):
        if module not in updates:
            updates[module] = _update(work, module, *placed[module])
    _follow_ties(work, placed, updates)
    return {name: update for name, update in updates.items() if update.tensors}


def _update(work: _Work, module: str, group: Group, home: Home) -> ModuleUpdate:
    """One module's; a part that does not fit is noted and left out."""
    update = ModuleUpdate(
        full=_full(work, module, group, home), bias=_bias(work, module, group, home)
    )
    a, b = _low_rank(work, module, group, home)
    if a is None or b is None:
        return update
    out_features, in_features = _shape(work, module, update)
    _check(work, module, "A", a, (a.shape[0], in_features))
    _check(work, module, "B", b, (out_features, a.shape[0]))
    scale = work.adapter.scale(a.shape[0], group.spelled, module)
    magnitude = None
    if PartKind.magnitude in group.stored:
        magnitude = _rows(_read(work, group, PartKind.magnitude), home)
        _check(work, module, "magnitude", magnitude, (out_features,))
    if PartKind.lora_bias in group.stored:
        own = _rows(_read(work, group, PartKind.lora_bias), home).float() * scale
        _check(work, module, "bias of B", own, (out_features,))
        update = replace(update, bias=own if update.bias is None else update.bias + own)
    return replace(update, a=a, b=b, scale=scale, magnitude=magnitude)


def _low_rank(
    work: _Work, module: str, group: Group, home: Home
) -> tuple[Tensor | None, Tensor | None]:
    stored = group.stored
    a_kind = PartKind.embedding_a if PartKind.embedding_a in stored else PartKind.a
    b_kind = PartKind.embedding_b if PartKind.embedding_b in stored else PartKind.b
    if a_kind in stored and b_kind in stored:
        a, b = _read(work, group, a_kind), _read(work, group, b_kind)
        if a.dim() == 2 and b.dim() == 2:
            # llama.cpp keeps the embedding's A the other way round (llm_build_inp_embd).
            is_turned = module == EMBEDDING and work.adapter.container == "gguf"
            return (a.T.contiguous() if is_turned else a), _rows(b, home)
        work.accounting.misshaped.append(f"{group.spelled}: A and B must be matrices")
        return None, None
    low_rank = (a_kind, b_kind, PartKind.lora_bias, PartKind.magnitude)
    if present := [kind for kind in low_rank if kind in stored]:
        lacking = [kind for kind in (a_kind, b_kind) if kind not in stored]
        work.accounting.incomplete.append(
            f"{group.spelled} has {', '.join(present)} and no {' and no '.join(lacking)}"
        )
    return None, None


def _full(work: _Work, module: str, group: Group, home: Home) -> Tensor | None:
    kind = next((kind for kind in _FULL if kind in group.stored), None)
    if kind is None:
        return None
    stored = group.stored[kind]
    for other in _FULL:
        if other is not kind and other in group.stored:
            work.accounting.unused[group.stored[other]] = f"{stored} stands in its place"
    weight = _rows(_read(work, group, kind), home)
    if kind is PartKind.token_rows:
        return _with_rows(work, module, group, weight)
    expected = work.base.match.checkpoint.tensors.get(f"{module}.weight")
    shape = weight.shape if expected is None else expected.shape
    if module in (EMBEDDING, HEAD) and weight.dim() == 2:
        shape = (weight.shape[0], work.base.match.config.hidden_size)
    if not _check(work, module, "weight", weight, tuple(shape)):
        return None
    if reason := _is_the_base(work.base, module, weight, stored):
        work.accounting.unused[stored] = reason
        return None
    if module not in (EMBEDDING, HEAD) and not work.merging:
        work.accounting.refused.append(f"{module} is replaced as a whole")
    return weight


def _is_the_base(base: Base, module: str, weight: Tensor, stored: str) -> str:
    """Why a stored weight changes nothing of the base; empty if it does."""
    own = base.read(f"{module}.weight")
    if own.shape != weight.shape:
        return ""
    if torch.equal(weight.to(own.dtype), own) or torch.equal(own.to(weight.dtype), weight):
        return "equal to the base's own weight"
    # Beside a low-rank part peft saves the frozen weight, before the base was quantised.
    if base.is_packed(module) and ".base_layer." in stored:
        own, weight = own.float(), weight.float()
        differences = torch.linalg.vector_norm(weight - own, dim=-1)
        lengths = torch.linalg.vector_norm(own, dim=-1)
        if bool((differences <= _QUANTISATION * lengths).all()):
            return "the base's own weight, before it was quantised"
    return ""


def _with_rows(work: _Work, module: str, group: Group, rows: Tensor) -> Tensor | None:
    """The base's matrix with some tokens' rows replaced."""
    config = work.adapter.config
    assert config is not None
    own = work.base.read(f"{module}.weight")
    named = config.token_indices.items()
    indices = next((list(i) for name, i in named if f".{group.spelled}".endswith(f".{name}")), None)
    if module not in (EMBEDDING, HEAD) or indices is None:
        work.accounting.not_taken.append(f"{group.stored[PartKind.token_rows]} (no indices for it)")
        return None
    if not _check(work, module, "token rows", rows, (len(indices), own.shape[1])):
        return None
    if not indices or max(indices) >= own.shape[0] or min(indices) < 0:
        work.accounting.misshaped.append(f"{module}: trainable_token_indices exceed its rows")
        return None
    full = own.clone()
    full[torch.tensor(indices)] = rows.to(own.dtype)
    return full


def _bias(work: _Work, module: str, group: Group, home: Home) -> Tensor | None:
    """What a trained bias adds to the base's own."""
    if PartKind.bias not in group.stored:
        return None
    stored = group.stored[PartKind.bias]
    if not work.base.has_bias(module):
        work.accounting.not_taken.append(f"{stored} (the base's {module} has no bias)")
        return None
    own = work.base.read(f"{module}.bias").float()
    trained = _rows(_read(work, group, PartKind.bias), home).float()
    if not _check(work, module, "bias", trained, tuple(own.shape)):
        return None
    if torch.equal(trained, own):
        work.accounting.unused[stored] = "equal to the base's own bias"
        return None
    return trained - own


def _follow_ties(
    work: _Work,
    placed: Mapping[str, tuple[Group, Home]],
    updates: dict[str, ModuleUpdate],
) -> None:
    """A tied head follows a replaced embedding, but not a trained copy of it (as in PEFT)."""
    embedding = updates.get(EMBEDDING)
    if not work.base.is_tied or embedding is None:
        return
    config = work.adapter.config
    ties = config is not None and config.ties_weights
    group, home = placed[EMBEDDING]
    followed = embedding.full
    if PartKind.weight in group.stored and not ties:
        followed = _original(work, group, home)
    head = updates.get(HEAD, ModuleUpdate())
    if followed is not None and head.full is None:
        updates[HEAD] = replace(head, full=followed)
    if ties and embedding.a is not None and head.a is None:
        work.accounting.not_taken.append(
            f"{EMBEDDING} with ensure_weight_tying: its low-rank part counts for the head too"
        )


def _original(work: _Work, group: Group, home: Home) -> Tensor | None:
    """The stored matrix behind a trained copy; None if there is none or it is the base's."""
    if PartKind.base_weight not in group.stored:
        return None
    weight = _rows(_read(work, group, PartKind.base_weight), home)
    stored = group.stored[PartKind.base_weight]
    return None if _is_the_base(work.base, EMBEDDING, weight, stored) else weight


def _shape(work: _Work, module: str, update: ModuleUpdate) -> tuple[int, int]:
    """``(out, in)`` that the low-rank part must have."""
    out_features, in_features = work.base.shapes.get(module, (0, 0))
    if update.full is not None and module == EMBEDDING:
        return out_features, update.full.shape[0]
    if update.full is not None and module == HEAD:
        return update.full.shape[0], in_features
    return out_features, in_features


def _read(work: _Work, group: Group, kind: PartKind) -> Tensor:
    tensor = work.adapter.read(group.stored[kind])
    # Either end is NaN if any value is, and this takes half the time of looking at every value.
    if tensor.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(tensor)):
        work.accounting.broken.append(group.stored[kind])
    return tensor


def _rows(tensor: Tensor, home: Home) -> Tensor:
    if home.rows is None:
        return tensor
    rows = home.rows if isinstance(home.rows, slice) else torch.from_numpy(home.rows)
    return tensor[rows].contiguous()


def _check(work: _Work, module: str, what: str, tensor: Tensor, expected: tuple[int, ...]) -> bool:
    if tuple(tensor.shape) == expected:
        return True
    work.accounting.misshaped.append(
        f"{what} of {module}: {list(tensor.shape)} in the adapter, {list(expected)} expected"
    )
    return False
