"""Stored models: what lies in a directory, a Hub repository or a GGUF file. Imports no torch."""

from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo

__all__ = ["Checkpoint", "TensorInfo"]
