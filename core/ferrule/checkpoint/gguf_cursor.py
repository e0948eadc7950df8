"""Reads GGUF's little-endian values from a mapped file, checking every length first.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ferrule.errors import CheckpointError

# Far beyond any real file (the largest vocabularies have under a million merges), and small enough
# that no header keeps the reader busy for long.
_MAX_ARRAY_LENGTH = 2**22
_MAX_ARRAY_DEPTH = 3

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Mapping[int, Struct] = {
    0: Struct("<B"),
    1: Struct("<b"),
    2: Struct("<H"),
    3: Struct("<h"),
    4: Struct("<I"),
    5: Struct("<i"),
    6: Struct("<f"),
    10: Struct("<Q"),
    11: Struct("<q"),
    12: Struct("<d"),
}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]


class Cursor:
    """A position in a mapped GGUF file that never moves beyond the end.

    Args:
        file: For messages.
        data: The whole file.
    """

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file = file
        self.position = 0
        self._data = data
        self._size = len(data)

    @property
    def remaining(self) -> int:
        """How many bytes follow."""
        return self._size - self.position

    def take(self, num_bytes: int, what: str) -> int:
        """Moves over ``num_bytes`` bytes and returns where they begin.

        Raises:
            CheckpointError: Fewer are left; ``what`` names what was being read.
        """
        start = self.position
        if num_bytes > self._size - start:
            raise CheckpointError(
                f"{self.file} has a corrupt or truncated GGUF header: {what} at byte"
                f" {start:,} needs {num_bytes:,} bytes, and {self._size - start:,} are left.",
                hint="Its download or copy was interrupted, or it was damaged: fetch it again.",
            )
        self.position = start + num_bytes
        return start

    def u32(self, what: str) -> int:
        """Reads an unsigned 32-bit number."""
        return _U32.unpack_from(self._data, self.take(4, what))[0]

    def u64(self, what: str) -> int:
        """Reads an unsigned 64-bit number."""
        return _U64.unpack_from(self._data, self.take(8, what))[0]

    def string(self, what: str) -> str:
        """Reads a length and as many bytes of UTF-8."""
        num_bytes = self.u64(what)
        start = self.take(num_bytes, what)
        try:
            return self._data[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} is not UTF-8 ({error.reason})") from error

    def value(self, what: str) -> Any:
        """Reads a type and a value of it: a number, bool, string, or a list of them."""
        return self._typed(self.u32(what), what, depth=0)

    def corrupt(self, what: str) -> CheckpointError:
        """An error that says ``what`` is wrong with the header."""
        return CheckpointError(
            f"{self.file} has a corrupt GGUF header: {what}.",
            hint="Download or convert the file again.",
        )

    def _typed(self, kind: int, what: str, depth: int) -> Any:
        if kind in _NUMBERS:
            layout = _NUMBERS[kind]
            return layout.unpack_from(self._data, self.take(layout.size, what))[0]
        if kind == _STRING:
            return self.string(what)
        if kind == _BOOL:
            return self._bools(1, what)[0]
        if kind == _ARRAY:
            return self._array(what, depth + 1)
        raise self.corrupt(f"{what} has the unknown value type {kind}")

    def _array(self, what: str, depth: int) -> list[Any]:
        kind, length = self.u32(what), self.u64(what)
        if depth > _MAX_ARRAY_DEPTH:
            raise self.corrupt(f"{what} nests arrays more than {_MAX_ARRAY_DEPTH} deep")
        if length > min(_MAX_ARRAY_LENGTH, self.remaining):
            raise self.corrupt(
                f"{what} claims {length:,} elements with {self.remaining:,} bytes left"
                f" (at most {_MAX_ARRAY_LENGTH:,} are read)"
            )
        if kind in _NUMBERS:
            return self._numbers(_NUMBERS[kind], length, what)
        if kind == _STRING:
            return self._strings(length, what)
        if kind == _BOOL:
            return self._bools(length, what)
        return [self._typed(kind, what, depth) for _ in range(length)]

    def _numbers(self, layout: Struct, length: int, what: str) -> list[Any]:
        start = self.take(layout.size * length, what)
        return np.frombuffer(self._data, layout.format, length, start).tolist()

    def _bools(self, length: int, what: str) -> list[bool]:
        start = self.take(length, what)
        stored = self._data[start : self.position]
        if stored.strip(b"\0\1"):
            raise self.corrupt(f"{what} is a bool that is neither 0 nor 1")
        return [byte == 1 for byte in stored]

    def _strings(self, length: int, what: str) -> list[str]:
        """As :meth:`string` repeated, but for vocabularies: all that can be is out of the loop."""
        strings: list[str] = []
        data, size, position = self._data, self._size, self.position
        unpack, append = _U64.unpack_from, strings.append
        try:
            for _ in range(length):
                start = position + 8
                if start > size:
                    break
                position = start + unpack(data, position)[0]
                if position > size:
                    break
                append(data[start:position].decode())
        except UnicodeDecodeError as error:
            where = f"element {len(strings)} of {what}"
            raise self.corrupt(f"{where} is not UTF-8 ({error.reason})") from error
        if len(strings) < length:
            raise self.corrupt(f"element {len(strings)} of {what} lies beyond the end of the file")
        self.position = position
        return strings
