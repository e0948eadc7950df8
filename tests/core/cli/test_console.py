from __future__ import annotations

import pytest

from ferrule.cli.console import size, stdout


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (23_040, "22.5 KiB"),
        (1023 * 1024, "1023 KiB"),
        (269_060_000, "257 MiB"),
        (1024**3, "1 GiB"),
        (16_060_000_000, "15 GiB"),
        (2 * 1024**4, "2048 GiB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(num_bytes, text):
    assert size(num_bytes) == text


def test_text_in_files_is_neither_coloured_nor_marked_up(capsys):
    stdout().print("[red]1.5[/red] :smile:")
    assert capsys.readouterr().out == "[red]1.5[/red] :smile:\n"
