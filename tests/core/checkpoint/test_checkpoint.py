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


def test_reading_an_unknown_tensor_is_a_key_error(checkpoint):
    with pytest.raises(KeyError):
        checkpoint.read("c")
