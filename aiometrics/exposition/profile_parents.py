"""Puts the tasks that created others into the stacks of a profile.

Counters know no creators, so what a coroutine has is divided among the lineages of its live tasks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from aiometrics.exposition.profile import Profile, Sample, Values, apportioned

#: How many tasks were seen, by their coroutine and those of their creators, outermost first.
Lineages = Mapping[tuple[str, ...], int]


def with_parents(profile: Profile, lineages: Lineages) -> Profile:
    """Return a profile by coroutine whose stacks begin with the creators of the tasks.

    Its sums are the same for each coroutine. Coroutines of which no task was seen stay as they are.
    """
    shares: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for (*creators, coroutine), count in lineages.items():
        shares[coroutine][tuple(creators)] += count
    samples = (part for one in profile.samples for part in _divided(one, shares.get(one.coroutine)))
    return replace(profile, samples=tuple(samples))


def _divided(sample: Sample, shares: Mapping[tuple[str, ...], int] | None) -> Iterator[Sample]:
    if not shares:
        yield sample
        return
    parts = [apportioned(value, shares) for value in sample.values]
    for creators in shares:
        values = Values(*(part.get(creators, 0) for part in parts))
        if any(values):
            yield replace(sample, stack=(*creators, *sample.stack), values=values)
