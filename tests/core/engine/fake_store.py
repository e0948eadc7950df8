"""A store of adapters without tensors, whose placements take a few looks to come about."""

from __future__ import annotations

from ferrule.engine.loras import Loras
from ferrule.errors import LoadError
from ferrule.plan import LoraInfo


class FakeStore:
    """What a location holds is its own name.

    Attributes:
        slots: What is in each slot; None while it is on its way.
        forgotten: Contents that were let go of.
        broken: Contents that cannot be brought.
    """

    def __init__(self, num_slots=2, num_looks=2) -> None:
        self.num_slots = num_slots
        self.slots = [None] * num_slots
        self.forgotten = []
        self.broken = set()
        self._num_looks = num_looks
        self._on_their_way = []
        self._loaded = []

    def load(self, ticket, location):
        if location.startswith("wrong"):
            self._loaded.append((ticket, LoadError(f"{location} is no adapter", hint="Look.")))
        else:
            self._loaded.append((ticket, LoraInfo(content=location, location=location)))

    def loaded(self):
        loaded, self._loaded = self._loaded, []
        return loaded

    def place(self, content, slot):
        assert content not in self.forgotten
        self.slots[slot] = None
        self._on_their_way.append([self._num_looks, content, slot])

    def placed(self):
        done = []
        for one in self._on_their_way:
            one[0] -= 1
            if one[0] <= 0:
                error = "it is broken" if one[1] in self.broken else ""
                self.slots[one[2]] = None if error else one[1]
                done.append((one[2], error))
        self._on_their_way = [one for one in self._on_their_way if one[0] > 0]
        return done

    def forget(self, content):
        self.forgotten.append(content)

    def wait(self, seconds):
        pass

    def num_host_bytes(self):
        return 100

    def num_device_bytes(self):
        return 1000


def known_loras(store, *contents) -> Loras:
    loras = Loras(store)
    for content in contents:
        loras.add(content)
    return loras
