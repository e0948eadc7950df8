"""What to ask for: how long prompts and answers are, or which file they come from."""

from __future__ import annotations

import msgspec

# Means of 1000 conversations of ShareGPT in vLLM's benchmark: 230 tokens in, 203 out (vllm#18566).
# The spreads are those of the logarithms of the words of 9897 first turns; the medians are chosen
# so that the means come out after clipping. All of it is a choice of ours, not a standard.
SHAREGPT_INPUT = (120.0, 1.3)
SHAREGPT_OUTPUT = (140.0, 0.9)
# vLLM's benchmark takes conversations within these bounds.
SHAREGPT_MIN, SHAREGPT_MAX = 4, 1024


class FixedLengths(msgspec.Struct, frozen=True, kw_only=True, tag="fixed", tag_field="kind"):
    """Random token ids, the same number in every request.

    Attributes:
        input_len: Tokens of a prompt.
        output_len: Tokens of an answer.
        shared_prefix: How many tokens all prompts begin with.
        vocab: Ids are below it.
    """

    input_len: int = 1024
    output_len: int = 256
    shared_prefix: int = 0
    vocab: int = 32000

    def describe(self) -> str:
        """In a few words."""
        return f"{self.input_len} tokens in, {self.output_len} out" + _shared(self.shared_prefix)


class ShareGptLengths(msgspec.Struct, frozen=True, kw_only=True, tag="sharegpt", tag_field="kind"):
    """Random token ids, as many as people's questions and their answers have.

    Both lengths are drawn from log-normal distributions and clipped to 4 to 1024 tokens.

    Attributes:
        shared_prefix: How many tokens all prompts begin with, as far as they are that long.
        vocab: Ids are below it.
    """

    shared_prefix: int = 0
    vocab: int = 32000

    def describe(self) -> str:
        """In a few words."""
        return "lengths like ShareGPT's, about 230 tokens in, 203 out" + _shared(self.shared_prefix)


class Dataset(msgspec.Struct, frozen=True, kw_only=True, tag="dataset", tag_field="kind"):
    """Questions that people asked.

    Attributes:
        file: In ShareGPT's format.
        output_len: Tokens of an answer; None: as many as the file's answer has, by its words.
    """

    file: str
    output_len: int | None = None

    def describe(self) -> str:
        """In a few words."""
        out = "as in the file" if self.output_len is None else f"{self.output_len} tokens"
        return f"prompts of {self.file}, out {out}"


Workload = FixedLengths | ShareGptLengths | Dataset


def _shared(num: int) -> str:
    return f", {num} shared" if num else ""
