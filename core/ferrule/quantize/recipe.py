"""Which format each tensor of a GGUF file gets, as llama.cpp's quantiser chooses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ferrule.errors import OptionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One of the names that people ask for.

    Attributes:
        name: As typed: ``q4_k_m``.
        file_type: The number in ``general.file_type`` (llama.cpp's enum llama_ftype).
        format: Of most matrices.
        head: Of the output head, also where that is the embedding.
        more_bits: Of some layers' v and down projections; None: the same as the others.
    """

    name: str
    file_type: int
    format: str
    head: str
    more_bits: str | None = None


def _recipes(*recipes: Recipe) -> Mapping[str, Recipe]:
    return MappingProxyType({recipe.name: recipe for recipe in recipes})


def _plain(name: str, file_type: int, head: str | None = None) -> Recipe:
    return Recipe(name=name, file_type=file_type, format=name.upper(), head=head or name.upper())


RECIPES: Mapping[str, Recipe] = _recipes(
    _plain("q8_0", 7),
    _plain("q6_k", 18),
    Recipe(name="q5_k_m", file_type=17, format="Q5_K", head="Q6_K", more_bits="Q6_K"),
    Recipe(name="q4_k_m", file_type=15, format="Q4_K", head="Q6_K", more_bits="Q6_K"),
    _plain("q5_1", 9, head="Q6_K"),
    _plain("q5_0", 8, head="Q6_K"),
    _plain("q4_1", 3, head="Q6_K"),
    _plain("q4_0", 2, head="Q6_K"),
    _plain("bf16", 32),
    _plain("f16", 1),
)
"""What can be asked for, largest first of those that quantise."""

_BLOCK_SIZES = {"F16": 1, "BF16": 1, "F32": 1}
# For rows that are no whole blocks of 256 (tensor_type_fallback of llama.cpp).
_OF_32: Mapping[str, str] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name in any case.

    Raises:
        OptionError: There is none.
    """
    try:
        return RECIPES[name.lower()]
    except KeyError:
        raise OptionError(f"--to {name} is not known; there are {', '.join(RECIPES)}.") from None


def format_of(
    name: str, shape: tuple[int, ...], recipe: Recipe, *, num_layers: int, is_tied: bool
) -> str:
    """The format of one tensor (llama_tensor_get_type of llama.cpp, without importance matrix).

    Args:
        name: As GGUF has it: ``blk.3.attn_v.weight``.
        shape: Row-major.
        recipe: What was asked for.
        num_layers: Of the model.
        is_tied: Whether the embedding is the head too.
    """
    if len(shape) < 2:
        return "F32"
    wanted = recipe.format
    if name == "output.weight" or (is_tied and name == "token_embd.weight"):
        wanted = recipe.head
    elif recipe.more_bits and name.endswith((".attn_v.weight", ".ffn_down.weight")):
        layer = int(name.split(".")[1])
        wanted = recipe.more_bits if _uses_more_bits(layer, num_layers) else wanted
    return _that_fits(wanted, shape[-1])


def _uses_more_bits(layer: int, num_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between (use_more_bits)."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _that_fits(name: str, num_cols: int) -> str:
    if name in _BLOCK_SIZES:
        return name
    if name in _OF_32 and num_cols % 256:
        name = _OF_32[name]
    return name if num_cols % 32 == 0 else "F16"
