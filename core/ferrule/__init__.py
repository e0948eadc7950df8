"""The plugin author's words; everything else is imported from its own module."""

from ferrule.adapter import Permute, Split, WeightAdapter
from ferrule.architecture import Architecture
from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import FerruleError
from ferrule.hookspecs import hookimpl
from ferrule.model_config import ModelConfig, RopeConfig

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Checkpoint",
    "FerruleError",
    "ModelConfig",
    "Permute",
    "RopeConfig",
    "Split",
    "TensorInfo",
    "WeightAdapter",
    "__version__",
    "hookimpl",
]
