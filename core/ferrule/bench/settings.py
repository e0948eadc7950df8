"""How a measurement is made: which load, how many requests, of what kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from ferrule.bench.workload import Workload
from ferrule.errors import OptionError

_MIN_REQUESTS = 16
_REQUESTS_PER_CLIENT = 4
_SECONDS_OF_ARRIVALS = 30


class Load(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One point of a sweep: a number of clients, or a rate of arrivals.

    Attributes:
        concurrency: So many requests run at any time: where one ends, the next begins.
        rate: So many requests arrive in a second on average, whatever becomes of them.
        num_requests: How many are measured.
    """

    concurrency: int | None = None
    rate: float | None = None
    num_requests: int

    @property
    def name(self) -> str:
        """In a few words."""
        if self.rate is not None:
            return f"{self.rate:g} {'request' if self.rate == 1 else 'requests'} a second"
        return "1 client" if self.concurrency == 1 else f"{self.concurrency} clients"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        loads: One point each.
        workload: Prompts and lengths.
        models: Names that requests ask for in turn; empty: the server's own model.
        warmup: Requests before the first point, which are not measured.
        seed: Of prompts and arrivals.
        temperature: 0 is greedy.
        timeout: Seconds that a request may take.
    """

    loads: tuple[Load, ...]
    workload: Workload
    models: tuple[str, ...] = ()
    warmup: int = 2
    seed: int = 0
    temperature: float = 0.0
    timeout: float = 600.0


def make_loads(
    concurrency: Sequence[int], rate: Sequence[float], num_requests: int | None
) -> tuple[Load, ...]:
    """The points of a sweep.

    Args:
        concurrency: Of each point.
        rate: Of each point, in place of that.
        num_requests: Of each point; None: enough for its load.

    Raises:
        OptionError: Both kinds were given, or a value is no load.
    """
    if concurrency and rate:
        raise OptionError(
            "--concurrency and --rate are two kinds of load: clients that wait for their answers, "
            "and requests that arrive whatever happens",
            hint="Give one of them.",
        )
    for value in (*concurrency, *rate):
        if not 0 < value < math.inf:
            raise OptionError(f"{value:g} is no load; it must be above 0")
    return tuple(_loads(concurrency, rate, num_requests))


def _loads(
    concurrency: Sequence[int], rate: Sequence[float], num_requests: int | None
) -> Iterator[Load]:
    for clients in concurrency:
        enough = max(_MIN_REQUESTS, _REQUESTS_PER_CLIENT * clients)
        yield Load(concurrency=clients, num_requests=num_requests or enough)
    for each in rate:
        enough = max(_MIN_REQUESTS, math.ceil(_SECONDS_OF_ARRIVALS * each))
        yield Load(rate=each, num_requests=num_requests or enough)
