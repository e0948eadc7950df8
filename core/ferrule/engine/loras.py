"""Which adapters there are, which of them are on the device, and who may run with them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ferrule.engine.messages import LoraLoaded, LoraRefused
from ferrule.engine.sequence import Sequence
from ferrule.errors import FerruleError, RequestError, known_name
from ferrule.plan import LoraStore

MOST_PASSED = 64
"""Sequences with adapters that may start before an older one which waits for a slot."""
_MOST_LOOKED_AT = 512
"""Waiting sequences that a step may look at."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Lora:
    """An adapter that requests may name.

    Attributes:
        slot: Where it is or is being brought, -1: nowhere.
        is_placed: Whether it is there.
        num_running: Sequences that run with it: it stays where it is.
        num_sequences: All that want it, waiting ones included: it stays known.
        is_retired: It goes when nobody wants it any more.
        error: Why it could not be brought, until those who waited have heard of it.
    """

    slot: int = -1
    is_placed: bool = False
    num_running: int = 0
    num_sequences: int = 0
    is_retired: bool = False
    error: str = ""


class Loras:
    """Gives sequences their adapter's slot; the least recently wanted adapter makes room.

    Args:
        store: Reads and places; None: adapters are not served.
    """

    def __init__(self, store: LoraStore | None) -> None:
        self._store = store
        self._known: dict[str, _Lora] = {}
        # By slot, in the order in which they were last wanted; empty ones come first.
        num_slots = 0 if store is None else store.num_slots
        self._slots: OrderedDict[int, str] = OrderedDict.fromkeys(range(num_slots), "")
        self._tickets: set[str] = set()
        self._replies: list[LoraLoaded | LoraRefused] = []
        self._num_placements = 0
        self._blocked: Sequence | None = None
        self._num_passed = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything is being read, or there is a reply to be taken."""
        return bool(self._tickets or self._replies)

    @property
    def num_slots(self) -> int:
        """Adapters that can be on the device at a time."""
        return len(self._slots)

    def figures(self) -> dict[str, int]:
        """For ``Stats``."""
        return {
            "loras_known": sum(not lora.is_retired for lora in self._known.values()),
            "loras_placed": sum(lora.is_placed for lora in self._known.values()),
            "lora_slots": self.num_slots,
            "lora_host_bytes": 0 if self._store is None else self._store.num_host_bytes(),
            "lora_device_bytes": 0 if self._store is None else self._store.num_device_bytes(),
            "lora_placements_total": self._num_placements,
        }

    def load(self, ticket: str, location: str) -> None:
        """Starts to read an adapter; ``take_replies`` will have the answer."""
        if self._store is None:
            self._replies.append(_refused(ticket, RequestError("adapters are not served here")))
            return
        self._tickets.add(ticket)
        self._store.load(ticket, location)

    def add(self, content: str) -> None:
        """Makes an adapter known that the store has read."""
        self._known.setdefault(content, _Lora()).is_retired = False

    def unload(self, content: str) -> None:
        """Lets go of an adapter, at once or when the last sequence that wants it has ended."""
        if content in self._known:
            self._known[content].is_retired = True
            self._forget_if_unwanted(content)

    def take_replies(self) -> list[LoraLoaded | LoraRefused]:
        """Answers to ``load`` that nobody has taken yet."""
        self._poll_loaded()
        replies, self._replies = self._replies, []
        return replies

    def wait(self, seconds: float) -> None:
        """Waits for news of the store, but no longer than this."""
        if self._store is not None:
            self._store.wait(seconds)

    def poll(self) -> None:
        """Takes in which slots are filled by now; call it before sequences are admitted."""
        if self._store is None:
            return
        for slot, error in self._store.placed():
            content = self._slots[slot]
            lora = self._known[content]
            lora.is_placed, lora.error = not error, error
            if error:
                lora.slot = -1
                self._empty(slot)
            self._forget_if_unwanted(content)

    def want(self, content: str) -> None:
        """A sequence that wants an adapter has come.

        Raises:
            RequestError: There is no such adapter.
        """
        if not content:
            return
        if content not in self._known:
            raise RequestError(
                "the adapter that the request names is not loaded",
                param="model",
                code="model_not_found",
            )
        self._known[content].num_sequences += 1

    def leave(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        if sequence is self._blocked:
            self._blocked = None
        if content := sequence.request.lora:
            self._known[content].num_sequences -= 1
            self._forget_if_unwanted(content)

    def take_failed(self, waiting: Iterable[Sequence]) -> dict[Sequence, str]:
        """Sequences whose adapter could not be brought, and why; the next to come tries again."""
        broken = {content: lora for content, lora in self._known.items() if lora.error}
        if not broken:
            return {}
        failed = {
            each: broken[each.request.lora].error for each in waiting if each.request.lora in broken
        }
        for lora in broken.values():
            lora.error = ""
        return failed

    def ready(self, waiting: Iterable[Sequence]) -> Iterator[Sequence]:
        """Waiting sequences in order, those passed over whose adapter is still to come."""
        for sequence in list(islice(waiting, _MOST_LOOKED_AT)):
            if len(sequence.tokens) < sequence.num_tokens:
                # It was preempted and a token of it is on its way, without which it cannot start.
                return
            if self.is_ready(sequence):
                yield sequence

    def is_ready(self, sequence: Sequence) -> bool:
        """Whether a sequence's adapter is on the device; if not, it is brought if there is room.

        Ask in the order in which sequences are to start.
        """
        content = sequence.request.lora
        if not content:
            return True
        lora = self._known[content]
        if lora.error:
            return False
        if lora.slot < 0:
            slot = self._free_slot()
            if slot is None:
                self._block(sequence)
                return False
            self._place(content, lora, slot)
        self._slots.move_to_end(lora.slot)
        if self._blocked is sequence:
            self._blocked = None
        return lora.is_placed and not self._is_too_early(sequence)

    def pin(self, content: str) -> int:
        """A sequence starts to run: its adapter's slot, which stays; -1 without an adapter."""
        if not content:
            return -1
        lora = self._known[content]
        lora.num_running += 1
        if self._blocked is not None:
            self._num_passed += 1
        return lora.slot

    def unpin(self, content: str) -> None:
        """A sequence runs no more."""
        if content:
            self._known[content].num_running -= 1

    def _block(self, sequence: Sequence) -> None:
        """Remembers the oldest that waits for a slot."""
        if self._blocked is None or sequence.arrival < self._blocked.arrival:
            self._blocked, self._num_passed = sequence, 0

    def _is_too_early(self, sequence: Sequence) -> bool:
        """Whether an older sequence has waited long enough for running ones to make room."""
        blocked = self._blocked
        is_younger = blocked is not None and sequence.arrival > blocked.arrival
        return is_younger and self._num_passed >= MOST_PASSED

    def _free_slot(self) -> int | None:
        for slot, content in self._slots.items():
            lora = self._known.get(content)
            if lora is None or (lora.is_placed and lora.num_running == 0):
                return slot
        return None

    def _place(self, content: str, lora: _Lora, slot: int) -> None:
        assert self._store is not None
        if former := self._known.get(self._slots[slot]):
            former.slot, former.is_placed = -1, False
        self._slots[slot] = content
        lora.slot = slot
        self._num_placements += 1
        self._store.place(content, slot)

    def _empty(self, slot: int) -> None:
        self._slots[slot] = ""
        self._slots.move_to_end(slot, last=False)

    def _forget_if_unwanted(self, content: str) -> None:
        lora = self._known[content]
        is_moving = lora.slot >= 0 and not lora.is_placed
        if not lora.is_retired or lora.num_sequences or is_moving:
            return
        if lora.slot >= 0:
            self._empty(lora.slot)
        del self._known[content]
        assert self._store is not None
        self._store.forget(content)

    def _poll_loaded(self) -> None:
        if self._store is None:
            return
        for ticket, result in self._store.loaded():
            self._tickets.discard(ticket)
            if isinstance(result, FerruleError):
                self._replies.append(_refused(ticket, result))
            else:
                self.add(result.content)
                self._replies.append(LoraLoaded(ticket=ticket, info=result))


def _refused(ticket: str, error: FerruleError) -> LoraRefused:
    return LoraRefused(
        ticket=ticket, error_type=known_name(error), message=error.message, hint=error.hint
    )
