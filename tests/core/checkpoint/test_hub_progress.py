from ferrule.checkpoint.hub_progress import byte_counter


def test_bytes_of_a_bar_become_fractions():
    calls = []
    bar = byte_counter(lambda *call: calls.append(call), total=4_000_000)(unit="B", total=0)
    bar.update(1_000_000)
    bar.update(3_000_000)
    assert calls == [
        ("download", 0.25, "1.0 MB of 4.0 MB"),
        ("download", 1.0, "4.0 MB of 4.0 MB"),
    ]


def test_same_bytes_counted_by_two_bars_count_once():
    calls = []
    counter = byte_counter(lambda *call: calls.append(call), total=2_000)
    arriving, written = counter(unit="B"), counter(unit="B")
    arriving.update(1_000)
    written.update(1_000)
    assert [fraction for _, fraction, _ in calls] == [0.5, 0.5]


def test_bars_of_files_say_nothing():
    calls = []
    bar = byte_counter(lambda *call: calls.append(call), total=100)(total=3, desc="Fetching")
    bar.update(1)
    assert calls == []


def test_unknown_total_is_no_fraction():
    calls = []
    bar = byte_counter(lambda *call: calls.append(call), total=0)(unit="B")
    bar.update(None)
    assert calls == [("download", None, "0 B of 0 B")]


def test_nothing_is_shown(capsys):
    bar = byte_counter(lambda *call: None, total=100)(unit="B", total=100, desc="shown")
    bar.update(100)
    bar.close()
    assert capsys.readouterr() == ("", "")
