"""LoRA adapters: read from any container, held against their base model, merged into it."""

from ferrule.checkpoint.adapter_base import find_base, is_adapter
from ferrule.lora.adapter import Adapter
from ferrule.lora.base import Base
from ferrule.lora.merge import Merged, merge_adapter
from ferrule.lora.open import open_adapter
from ferrule.lora.report import AdapterReport
from ferrule.lora.update import ModuleUpdate, dora_gain

__all__ = [
    "Adapter",
    "AdapterReport",
    "Base",
    "Merged",
    "ModuleUpdate",
    "dora_gain",
    "find_base",
    "is_adapter",
    "merge_adapter",
    "open_adapter",
]
