"""Modules that an architecture plugin composes; none knows a file, a page or a batch."""

from ferrule.layers.attention import Attend, Attention, AttentionSpec
from ferrule.layers.decoder import Decoder, DecoderLayer
from ferrule.layers.embedding import Embedding
from ferrule.layers.linear import Linear
from ferrule.layers.mlp import MLP
from ferrule.layers.norm import RMSNorm
from ferrule.layers.rope import Rope, Rotation, rotate

__all__ = [
    "MLP",
    "Attend",
    "Attention",
    "AttentionSpec",
    "Decoder",
    "DecoderLayer",
    "Embedding",
    "Linear",
    "RMSNorm",
    "Rope",
    "Rotation",
    "rotate",
]
