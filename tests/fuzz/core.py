"""Feeds broken pages to the C core alone, which is many times as fast as to compare with Python.

Whatever a page says, the core must take it or decline it, stay within it, and write what it took.
"""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from aiometrics.exposition import protobuf, text
from aiometrics.exposition.constant_labels import ConstantLabels
from aiometrics.exposition.detail import Detail
from aiometrics.pages import reader
from aiometrics.pages.header import PageError
from aiometrics.pages.records import Records
from aiometrics.recorder.implementation import IMPLEMENTATIONS

from .mutations import Mutator
from .pages import NOW_NS, UNIX_NS, seeds

_LABELS = ConstantLabels(("service",), ('a"b',), on_series=True)
#: How many pages, of those that it took, are broken further.
_CORPUS = 500
#: One in so many pages is added to the one before it, and one in so many is summed up.
_MERGED, _FOLDED = 3, 5


@dataclass
class Report:
    """The results of a campaign."""

    cases: int = 0
    #: How many were taken by the core, and so written, and how many it declined; the reader refused
    #: the others before.
    written: int = 0
    declined: int = 0
    #: Tracebacks of unexpected errors, each with the page that caused it.
    findings: dict[str, bytes] = field(default_factory=dict, repr=False)
    seconds: float = 0.0


def campaign(cases: int, seed: int) -> Report:
    """Try ``cases`` pages, most of them made from pages that the core took."""
    random = Random(seed)  # noqa: S311 - the campaign must be reproducible
    mutate, good, report = Mutator(random), seeds(), Report()
    corpus, started = good.copy(), time.perf_counter()
    for number in range(cases):
        page = mutate(random.choice(random.choice((good, corpus))), random.choice(corpus))
        before = random.choice(corpus) if number % _MERGED == 0 else None
        report.cases += 1
        try:
            taken = _try(page, before, folded=number % _FOLDED == 0)
        except PageError:
            continue
        except Exception:  # noqa: BLE001 - the campaign looks for any
            report.findings.setdefault(traceback.format_exc(), page)
            continue
        report.written += taken
        report.declined += not taken
        if taken:
            _keep(corpus, page, random)
    report.seconds = time.perf_counter() - started
    return report


def _keep(corpus: list[bytes], page: bytes, random: Random) -> None:
    """Keep a page, in the place of another one if there are many."""
    if len(corpus) < _CORPUS:
        corpus.append(page)
    else:
        corpus[random.randrange(_CORPUS)] = page


def _try(page: bytes, before: bytes | None, *, folded: bool) -> bool:
    """Return whether the core took the page, and wrote it in both formats.

    Raises ``PageError`` if the reader refuses it before.
    """
    records = IMPLEMENTATIONS["c"].new_records()
    if records is None:
        raise AssertionError("the C core has no records")
    if before is not None:
        with suppress(PageError):
            _add(before, records)
    if not _add(page, records) or (folded and not Detail(1).fold(records)):
        return False
    if records.filled is None:
        raise AssertionError("the core took a page and has none")
    core, layout = records.filled
    for form in (text.TEXT, text.OPENMETRICS):
        written, samples = text._text_of_records(records, core, layout, form, _LABELS)
        if len(written.splitlines()) < samples:
            raise AssertionError(f"{samples} samples in {len(written.splitlines())} lines")
        written.decode()
    protobuf._messages_of_records(records, core, layout, _LABELS)
    return True


def _add(page: bytes, records: Records) -> bool:
    """Return whether the core took the page; the other parts of it are not decoded."""
    decoder = reader._Decoder(page, UNIX_NS - NOW_NS, NOW_NS, alive=True)
    return decoder.add_to(records)
