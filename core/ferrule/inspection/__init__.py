"""Everything that serving would decide about a checkpoint, as data; reads headers only."""

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
    "inspect_checkpoint",
]
