import numpy as np
import pytest

from ferrule.checkpoint.open import open_checkpoint


@pytest.fixture
def checkpoint(save_model, save_safetensors, tmp_path):
    folder = save_model(tmp_path)
    save_safetensors(folder / "model.safetensors", a=np.arange(6, dtype=np.int32), b=(2,))
    return open_checkpoint(str(folder))


def test_read_gives_the_stored_bytes(checkpoint):
    assert checkpoint.read("a").view(np.int32).tolist() == [0, 1, 2, 3, 4, 5]


def test_writing_into_what_was_read_leaves_the_file_alone(checkpoint):
    file = checkpoint.tensors["a"].file
    before = file.read_bytes()
    checkpoint.read("a")[:] = 255
    assert file.read_bytes() == before


def test_a_file_that_was_written_anew_is_read_anew(checkpoint, save_safetensors):
    """As when a training run saves into the directory that a script has already served."""
    assert checkpoint.read("a").view(np.int32)[0] == 0
    file = checkpoint.tensors["a"].file
    file.unlink()
    save_safetensors(file, a=np.arange(6, dtype=np.int32) + 100, b=(2,))
    again = open_checkpoint(checkpoint.location)
    assert again.read("a").view(np.int32).tolist() == [100, 101, 102, 103, 104, 105]
    # Headers and bytes of one checkpoint stay those of one file.
    assert checkpoint.read("a").view(np.int32).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_one_opening_scribbles_on_another_does_not_see(checkpoint):
    checkpoint.read("a")[:] = 255
    again = open_checkpoint(checkpoint.location)
    assert again.read("a").view(np.int32).tolist() == [0, 1, 2, 3, 4, 5]


def test_reading_an_unknown_tensor_is_a_key_error(checkpoint):
    with pytest.raises(KeyError):
        checkpoint.read("c")
