"""One step: the chunks that run together, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from ferrule.engine.sequence import Sequence
from ferrule.plan import Admission, Chunk, Plan


@dataclass(kw_only=True, slots=True, eq=False)
class Step:
    """What the scheduler puts together, the runner computes and the scheduler takes back.

    It knows sequences, because a slot may have another owner by the time the tokens are read.

    Attributes:
        released: Slots that are free from here on.
        admitted: Sequences that take a slot.
        chunks: What runs, in order.
        sequences: Whose chunks they are.
        ending: Those whose last token this step gives, whatever the token is.
    """

    released: list[int] = field(default_factory=list[int])
    admitted: list[Admission] = field(default_factory=list[Admission])
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    sequences: list[Sequence] = field(default_factory=list[Sequence])
    ending: list[Sequence] = field(default_factory=list[Sequence])

    @property
    def plan(self) -> Plan:
        """The part that the runner gets to know."""
        return Plan(released=self.released, admitted=self.admitted, chunks=self.chunks)

    @property
    def sampled(self) -> list[Sequence]:
        """Those that get a token, in the order of the result."""
        owners = zip(self.chunks, self.sequences, strict=True)
        return [sequence for chunk, sequence in owners if chunk.samples]

    def add(self, sequence: Sequence, num_tokens: int, new_blocks: Items[int] = ()) -> None:
        """Lets a sequence's next tokens run.

        From here on they count as computed, and the token that their step samples counts as one
        of the sequence's: a step after this one builds on both.
        """
        start = sequence.num_computed
        end = sequence.num_computed = start + num_tokens
        samples = end == sequence.num_tokens
        if samples:
            sequence.num_tokens = end + 1
            if end + 1 >= sequence.final_length:
                self.ending.append(sequence)
        self.sequences.append(sequence)
        self.chunks.append(
            Chunk(
                slot=sequence.slot,
                start=start,
                num_tokens=num_tokens,
                new_blocks=new_blocks,
                samples=samples,
            )
        )
