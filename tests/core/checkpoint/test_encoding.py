from pathlib import Path

import pytest

from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.checkpoint.encoding import ENCODINGS, check_encoding, encoding_format, main_format
from ferrule.errors import CheckpointError, OptionError


def checkpoint(*tensors):
    infos = [
        TensorInfo(
            name=name,
            shape=(4, 4) if nbytes else (4,),
            format=format_name,
            file=Path("dir/mine.gguf"),
            offset=0,
            nbytes=nbytes or 1000,
        )
        for name, format_name, nbytes in tensors
    ]
    return Checkpoint(
        location="dir", kind="gguf", config={}, tensors={info.name: info for info in infos}
    )


Q4_K_M = checkpoint(
    ("token_embd.weight", "Q6_K", 900),
    ("output.weight", "Q8_0", 900),
    ("blk.0.attn_q.weight", "Q4_K", 200),
    ("blk.0.attn_v.weight", "Q6_K", 100),
    ("blk.0.ffn_up.weight", "Q4_K", 200),
    ("blk.0.attn_norm.weight", "F32", 0),
)


@pytest.mark.parametrize("encoding", ["q4_k", "Q4_K_M", "q4_k_s"])
def test_encoding_means_most_of_the_matrices(encoding):
    check_encoding(Q4_K_M, encoding)


def test_mismatch_names_both_and_the_file():
    with pytest.raises(CheckpointError) as caught:
        check_encoding(Q4_K_M, "q8_0")
    message = caught.value.message
    assert "q8_0" in message
    assert "mine.gguf" in message
    assert "holds mainly Q4_K weights" in message
    assert "q4_k" in caught.value.hint


def test_embeddings_count_where_there_is_nothing_else():
    assert main_format(checkpoint(("model.embed_tokens.weight", "BF16", 100))) == "BF16"
    assert main_format(checkpoint(("model.norm.weight", "F32", 0))) == "F32"


def test_checkpoint_without_tensors_has_no_encoding():
    assert main_format(checkpoint()) is None
    with pytest.raises(CheckpointError, match="mainly no weights"):
        check_encoding(checkpoint(), "q8_0")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        *[("float32", "F32"), ("FLOAT16", "F16"), ("bfloat16", "BF16"), ("q2_k", "Q2_K")],
        *[("q3_k_l", "Q3_K"), ("q5_k_m", "Q5_K"), ("q6_k", "Q6_K"), ("iq4_xs", "IQ4_XS")],
    ],
)
def test_encodings_mean_formats(encoding, expected):
    assert encoding_format(encoding) == expected


def test_unknown_encoding_lists_the_known():
    with pytest.raises(OptionError, match="'q9_z'") as caught:
        check_encoding(Q4_K_M, "q9_z")
    assert all(encoding in caught.value.message for encoding in ENCODINGS)
