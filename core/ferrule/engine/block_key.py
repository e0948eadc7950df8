"""Names for the content of full KV blocks, so that an equal prefix is found again.

A block's keys and values depend on its tokens, on every token before them and on the adapter, so
its key is a hash over the parent block's key and its own tokens, and the first parent stands for
adapter and salt.

The hash is a cryptographic one of 256 bits. Equal keys are taken to mean equal content, nothing
is compared afterwards, and prompts come from strangers: with a hash whose collisions can be made,
somebody could craft a prompt that continues from another user's context.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_KEY_BYTES = 32


def root_key(lora: str, cache_salt: str) -> bytes:
    """The parent of a sequence's first block.

    Args:
        lora: Identity of the adapter's content, empty for none.
        cache_salt: What keeps the prompts of one tenant from those of another.
    """
    adapter = lora.encode()
    # The length in front keeps ("ab", "c") and ("a", "bc") apart.
    content = len(adapter).to_bytes(8, "little") + adapter + cache_salt.encode()
    return blake2b(content, digest_size=_KEY_BYTES, person=b"ferrule root").digest()


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block.

    Args:
        parent: Key of the block before it, or the root key.
        tokens: The block's tokens, each in 32 bits.
    """
    # Both parts have a fixed length, so no two pairs give the same bytes.
    content = parent + array("I", tokens).tobytes()
    return blake2b(content, digest_size=_KEY_BYTES).digest()
