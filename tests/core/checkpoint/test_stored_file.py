import pytest

from ferrule.checkpoint.stored_file import list_directory, open_stored, read_json_object
from ferrule.errors import CheckpointError


def opened(file):
    with open_stored(file) as (handle, size):
        return handle.read(), size


def test_open_gives_the_file_from_its_beginning(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert opened(file) == (b"12345", 5)


def test_git_lfs_pointer_is_told_from_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer of 63 bytes") as caught:
        opened(file)
    assert "git lfs pull" in caught.value.hint


def test_link_into_an_emptied_cache_is_named(tmp_path):
    link = tmp_path / "model.safetensors"
    link.symlink_to(tmp_path / "blob")
    with pytest.raises(CheckpointError, match=r"link to a file that no longer exists: .*/blob"):
        opened(link)


@pytest.mark.parametrize("read", [opened, read_json_object])
def test_what_cannot_be_opened_is_an_error(tmp_path, read):
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read(tmp_path / "missing")


def test_listing_what_is_no_directory_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        list_directory(tmp_path / "missing")


def test_byte_order_mark_before_json_is_dropped(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(file) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "Expecting ':' delimiter at line 2, column 6"),
        (b"", "Expecting value at line 1, column 1"),
        (b'{"a": "\xff"}', "not UTF-8 text: invalid start byte at byte 7"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
        (b"[" * 200_000, "cannot be read as JSON"),
        (b"[1, 2]", "holds a JSON array"),
        (b'"text"', "holds a JSON string"),
        (b"null", "holds a JSON null"),
        (b"true", "holds a JSON true"),
        (b"1.5", "holds a JSON number"),
    ],
)
def test_json_that_is_no_object_is_an_error_with_its_place(tmp_path, text, message):
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json_object(file)
    assert str(file) in caught.value.message
