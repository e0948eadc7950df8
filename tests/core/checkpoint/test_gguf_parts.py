import numpy as np
import pytest

from ferrule.checkpoint.gguf_parts import part_names, read_gguf_parts
from ferrule.errors import CheckpointError


@pytest.fixture
def write_parts(write_gguf):
    def write(folder, *, count=3, total=None, numbers=(0, 1, 2)):
        def fill(number):
            def keys(writer):
                writer.add_uint16("split.no", numbers[number])
                writer.add_uint16("split.count", count)
                writer.add_int32("split.tensors.count", count if total is None else total)
                if number == 0:
                    writer.add_string("general.name", "split model")

            return keys

        return [
            write_gguf(
                folder / f"m-{number + 1:05d}-of-{count:05d}.gguf",
                {f"blk.{number}.w": np.full((2, 4), number, np.float32)},
                fill(number),
            )
            for number in range(count)
        ]

    return write


@pytest.mark.parametrize("given", [0, 2])
def test_any_part_opens_the_whole_model(write_parts, tmp_path, given):
    files = write_parts(tmp_path)
    header = read_gguf_parts(files[given])
    assert [info.file for info in header.tensors.values()] == files
    assert header.metadata["general.name"] == "split model"


def test_missing_parts_are_named(write_parts, tmp_path):
    files = write_parts(tmp_path)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"missing: m-00002-of-00003.gguf"):
        read_gguf_parts(files[0])


def test_part_under_another_name_is_an_error(write_parts, tmp_path):
    files = write_parts(tmp_path)
    with pytest.raises(CheckpointError, match="split over 3 files, but its name"):
        read_gguf_parts(files[0].rename(tmp_path / "renamed.gguf"))


def test_parts_in_the_wrong_order_are_an_error(write_parts, tmp_path):
    files = write_parts(tmp_path, numbers=(0, 2, 1))
    with pytest.raises(CheckpointError, match="is part 2 of 3"):
        read_gguf_parts(files[0])


def test_parts_with_too_few_tensors_are_an_error(write_parts, tmp_path):
    with pytest.raises(CheckpointError, match="hold 3 tensors; 4 are expected"):
        read_gguf_parts(write_parts(tmp_path, total=4)[0])


def test_names_of_parts_follow_from_one_of_them():
    assert part_names("a/m-00002-of-00002.gguf") == [
        "a/m-00001-of-00002.gguf",
        "a/m-00002-of-00002.gguf",
    ]
    assert part_names("model.gguf") == ["model.gguf"]
