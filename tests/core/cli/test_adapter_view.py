from __future__ import annotations

from ferrule.cli.adapter_view import show_adapter
from ferrule.lora.report import AdapterReport, TouchedModules


def test_all_that_the_report_has_is_shown(capsys):
    touched = [
        TouchedModules(
            kind="mlp.up_proj",
            count=3,
            layers=[0, 1, 5],
            rank=16,
            scale=0.5,
            parts=["dora"],
            num_bytes=4096,
        ),
        TouchedModules(
            kind="lm_head", count=1, layers=[], rank=0, scale=1.0, parts=["full"], num_bytes=1 << 20
        ),
    ]
    show_adapter(
        AdapterReport(
            location="mine",
            container="gguf",
            base="here",
            trained_on="org/there",
            rank=16,
            num_modules=4,
            num_tensors=8,
            num_bytes=4096 + (1 << 20),
            touched=touched,
            added_tokens={f"<{n}>": 90 + n for n in range(10)},
            vocab_size=100,
            unused={"embed.base_layer.weight": "equal to the base's own weight"},
            notes=["make sure"],
        )
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "mine GGUF adapter, 1 MiB",
        "base here",
        "trained on org/there",
        "tensors 8, of which 1 change nothing",
        "modules 4 changed, largest rank 16",
        "mlp.up_proj 3 0-1,5 16 0.5 dora 4 KiB",
        "lm_head 1 full 1 MiB",
        "embed.base_layer.weight equal to the base's own weight",
        "make sure",
    ):
        assert line in lines
    assert any(line.endswith("<7> (97) and 2 more") for line in lines)
