"""The assembly that unpacks codes, run by a small machine of its five instructions."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton exists for Linux only")


def run(text, inputs):
    """Outputs $0-$3 of ``text`` for words $4 and on: ints of 32 bits."""
    values = {f"${4 + i}": value for i, value in enumerate(inputs)}

    def value(name):
        return int(name, 0) if name[0].isdigit() else values[name]

    for line in text.strip("{} ").split(";"):
        if not line.strip() or ".reg" in line:
            continue
        op, rest = line.split(maxsplit=1)
        out, *sources = (part.strip() for part in rest.split(","))
        match op, [value(source) for source in sources]:
            case "mov.b32", [a]:
                values[out] = a
            case "shr.b32", [a, n]:
                values[out] = a >> n
            case "shl.b32", [a, n]:
                values[out] = (a << n) & 0xFFFFFFFF
            case "lop3.b32", [a, b, c, 0xEA]:
                values[out] = (a & b) | c
            case "fma.rn.bf16x2", [a, b, c]:
                values[out] = bits((halves(a).double() * halves(b) + halves(c)).bfloat16())
            case _:
                raise AssertionError(line)
    return [halves(values[f"${i}"]).tolist() for i in range(4)]


def halves(word):
    return torch.tensor([word & 0xFFFF, word >> 16]).to(torch.int16).view(torch.bfloat16)


def bits(pair):
    low, high = (pair.view(torch.int16).int() & 0xFFFF).tolist()
    return low | (high << 16)


@pytest.mark.parametrize(
    ("low_bits", "high_bits", "subtracted"),
    [(4, 0, 8), (4, 0, 0), (4, 1, 16), (4, 1, 0), (2, 0, 0), (2, 1, 4), (4, 2, 32)],
)
def test_codes_come_out_of_words(low_bits, high_bits, subtracted):
    from ferrule.kernels.unpack import assembly, phase

    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        low_at, high_at = phase(number, low_bits), phase(number, high_bits)
        text = assembly(low_bits, high_bits, low_at, high_at, subtracted)
        for _ in range(20):
            low, high = torch.randint(0, 1 << 32, (2,), generator=generator).tolist()
            for group, pair in enumerate(run(text, [low, high])):
                for place, found in enumerate(pair):
                    code = field(low >> 16 * place, low_at + group * low_bits, low_bits)
                    above = field(high >> 16 * place, high_at + group * high_bits, high_bits)
                    code += above << low_bits
                    assert found == (code - subtracted if subtracted else 128 + code)


def field(word, start, bits):
    return (word >> start) % (1 << bits) if bits else 0


def test_signed_bytes_come_out_of_words():
    from ferrule.kernels.unpack import byte_assembly

    for byte in range(-128, 128):
        others = [17, -3, 127, -128, 0, 1, -1]
        numbers = torch.tensor([byte, *others], dtype=torch.int8)
        low, high = (numbers.view(torch.int32).long() & 0xFFFFFFFF).tolist()
        expected = [[byte, -3], [17, 127], [-128, 1], [0, -1]]
        assert run(byte_assembly(), [low, high]) == expected
