"""Which weight adapters and which architecture a checkpoint needs; reads headers only."""

from ferrule.matching.match import Match, match
from ferrule.matching.renamed_checkpoint import Source

__all__ = ["Match", "Source", "match"]
