"""Profiles of awaits: which stacks were active, and which waited, in an interval.

Time off the loop is exact by chain of awaits. Time on the loop is exact by coroutine, and within a
coroutine it is at the lines that samples found; what no sample stands for is at the await where its
segment ended. So the sums are those of the counters, to the nanosecond.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import add
from typing import NamedTuple, TypeVar

from aiometrics.pages.snapshot import Chain, RequestType, Snapshot

K = TypeVar("K", bound=Hashable)

#: What held a loop and what that called, in the label of a sample.
_CALLS = " > "
#: The frame of the time that a request was active.
_ACTIVE = "(active)"


class Values(NamedTuple):
    """The numbers of one stack: active and waiting ns, and the number of waits."""

    active_ns: int = 0
    wait_ns: int = 0
    waits: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A stack, outermost frame first, and what it belongs to; the other label is empty."""

    stack: tuple[str, ...]
    values: Values
    coroutine: str = ""
    route: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """The samples of an interval, which began at a Unix time and lasted for so long, in ns."""

    samples: tuple[Sample, ...]
    taken_ns: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters that profiles are made of, since the start."""

    taken_ns: int
    #: By stack, of which the first frame is the coroutine.
    chains: Mapping[tuple[str, ...], Values]
    #: Sampled ns by coroutine and line.
    held: Mapping[tuple[str, str], int]
    #: By type of request, and by what it waits for.
    routes: Mapping[tuple[str, str], Values]

    def since(self, earlier: Totals) -> Totals:
        """Return what was counted after ``earlier``."""
        return Totals(
            self.taken_ns,
            _grown(self.chains, earlier.chains),
            {
                key: ns - earlier.held.get(key, 0)
                for key, ns in self.held.items()
                if ns > earlier.held.get(key, 0)
            },
            _grown(self.routes, earlier.routes),
        )

    def by_coroutine(self, duration_ns: int) -> Profile:
        """Return the profile whose stacks begin with the coroutines of tasks."""
        waiting = [
            Sample(stack, values._replace(active_ns=0), stack[0])
            for stack, values in self.chains.items()
            if values.wait_ns or values.waits
        ]
        return Profile((*waiting, *self._active()), self.taken_ns - duration_ns, duration_ns)

    def by_route(self, duration_ns: int) -> Profile:
        """Return the profile whose stacks begin with the types of requests."""
        samples = (
            Sample((route, leaf), values, route=route)
            for (route, leaf), values in self.routes.items()
        )
        return Profile(tuple(samples), self.taken_ns - duration_ns, duration_ns)

    def _active(self) -> Iterator[Sample]:
        exact: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
        sampled: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
        for stack, values in self.chains.items():
            if values.active_ns:
                exact[stack[0]][stack] = values.active_ns
        for (coroutine, held_at), ns in self.held.items():
            sampled[coroutine][coroutine, *held_at.split(_CALLS)] = ns
        for coroutine, by_stack in exact.items():
            for stack, ns in _settled(by_stack, sampled[coroutine]).items():
                yield Sample(stack, Values(active_ns=ns), coroutine)


def totals_of(snapshot: Snapshot) -> Totals:
    """Return what a snapshot has counted."""
    chains: dict[tuple[str, ...], Values] = {}
    for chain in snapshot.chains:
        stack, values = _stack(chain), Values(chain.active_ns, chain.wait_ns, chain.waits)
        chains[stack] = Values(*map(add, values, chains.get(stack, Values())))
    routes = {(kind.request, _ACTIVE): _active_of(kind) for kind in snapshot.requests}
    for wait in snapshot.request_waits:
        routes[wait.labels] = Values(wait_ns=wait.wait_ns)
    return Totals(
        snapshot.taken_ns,
        {stack: values for stack, values in chains.items() if any(values)},
        {held.labels: held.active_ns for held in snapshot.held},
        {key: values for key, values in routes.items() if any(values)},
    )


def _stack(chain: Chain) -> tuple[str, ...]:
    """Return the coroutine and the frames of the chain, and what is awaited if no frame says it."""
    frames = chain.frames or (chain.yield_point,)
    says_it = frames[-1] != chain.yield_point or chain.awaits == chain.yield_point
    return (chain.coroutine, *frames, *(() if says_it else (chain.awaits,)))


def _active_of(kind: RequestType) -> Values:
    return Values(active_ns=kind.active.sum_ns + kind.background_ns)


def _grown(later: Mapping[K, Values], earlier: Mapping[K, Values]) -> dict[K, Values]:
    """Return by how much values have grown, without those that have not."""
    grown = {}
    for key, values in later.items():
        before = earlier.get(key, Values())
        change = Values(*(max(0, now - then) for now, then in zip(values, before, strict=True)))
        if any(change):
            grown[key] = change
    return grown


def _settled(
    exact: Mapping[tuple[str, ...], int], sampled: Mapping[tuple[str, ...], int]
) -> dict[tuple[str, ...], int]:
    """Return the active ns of one coroutine by stack; their sum is that of ``exact``.

    Samples stand for as much time as they say, but for no more than there was.
    """
    active_ns, sampled_ns = sum(exact.values()), sum(sampled.values())
    found = apportioned(min(active_ns, sampled_ns), sampled)
    for stack, ns in apportioned(active_ns - sum(found.values()), exact).items():
        found[stack] = found.get(stack, 0) + ns
    return found


def apportioned(amount: int, weights: Mapping[K, int]) -> dict[K, int]:
    """Divide a whole number by weights into whole numbers, none of which is off by more than 1.

    Nothing is divided if there are no weights. Empty shares are left out.
    """
    whole = sum(weights.values())
    if not whole:
        return {}
    shares = {key: amount * weight // whole for key, weight in weights.items()}
    rest = amount - sum(shares.values())
    for key in sorted(weights, key=lambda key: amount * weights[key] % whole, reverse=True)[:rest]:
        shares[key] += 1
    return {key: share for key, share in shares.items() if share}
