from __future__ import annotations

import gguf


def test_a_file_is_written_and_told_of(ferrule, tiny_llama, tmp_path):
    tokenizer = tiny_llama / "tokenizer.json"
    # As real vocabularies cut text; the tiny one does not.
    tokenizer.write_text(tokenizer.read_text().replace('"use_regex":false', '"use_regex": true'))
    tokenizer.write_text(tokenizer.read_text().replace('"use_regex": false', '"use_regex": true'))
    out = tmp_path / "small.gguf"
    result = ferrule("quantize", tiny_llama, out, "--to", "Q8_0")
    assert result.exit_code == 0, result.stderr
    assert f"written: {out}" in result.stdout
    assert "Q8_0" in result.stdout
    assert "quantising" in result.stderr
    assert len(gguf.GGUFReader(out).tensors) == 20
    assert ferrule("inspect", out).exit_code == 0


def test_mistakes_are_told_before_anything_is_read(ferrule, tiny_llama, tmp_path):
    for out, to, message in [
        ("x.bin", "q8_0", "ending in .gguf"),
        ("missing/x.gguf", "q8_0", "directory that exists"),
        ("x.gguf", "q3_k_s", "q4_k_m"),
    ]:
        result = ferrule("quantize", tiny_llama, tmp_path / out, "--to", to)
        assert result.exit_code != 0
        assert message in result.stderr
    assert not list(tmp_path.glob("*.gguf"))
