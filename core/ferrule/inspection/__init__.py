"""Everything that serving would decide about a checkpoint, as data; reads headers only."""

from ferrule.inspection.adapter import inspect_adapter
from ferrule.inspection.base import open_base
from ferrule.inspection.inspect import inspect_checkpoint
from ferrule.inspection.report import (
    AttentionLayer,
    Choice,
    Destination,
    Inspection,
    Memory,
)

__all__ = [
    "AttentionLayer",
    "Choice",
    "Destination",
    "Inspection",
    "Memory",
    "inspect_adapter",
    "inspect_checkpoint",
    "open_base",
]
