from __future__ import annotations

import msgspec

from ferrule.engine.options import EngineOptions
from ferrule.inspection import Inspection, inspect_checkpoint


def test_the_report_survives_json(tiny_llama):
    report = inspect_checkpoint(EngineOptions(model=str(tiny_llama), devices="cpu"))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Inspection) == report
