"""Feeds broken requests to the parser, which may refuse them, and to the readers of headers.

Nothing else may happen: no content of a header is an error.
"""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from aiometrics.base.http import basic_auth, negotiation
from aiometrics.base.http import messages as http_messages
from aiometrics.base.http.basic_auth import Credentials
from aiometrics.base.http.messages import HEAD_END, RequestError, check_start, parse_head
from aiometrics.base.http.negotiation import accepts_gzip, choose_format

from .branches import Branches

_SEEDS = (
    (
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=1.0.0,*/*;q=0.1\r\n"
        b"Accept-Encoding: gzip, br;q=0\r\n\r\n"
    ),
    (
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YWxpY2U6d29uZGVybGFuZA==\r\n"
        b"User-Agent: Prometheus/2.42.0\r\n\r\n"
    ),
    (
        b"POST http://a:9400/%41?x=1 HTTP/1.0\r\nContent-Length: 5\r\n"
        b"Connection: keep-alive, Close\r\n\r\nhello"
    ),
)
_PARTS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"q=",
        b"q=1.0001",
        b"=",
        b'"',
        b"%",
        b"%ff",
        b"/",
        b"?",
        b"#",
        b"\xff",
    ),
    *(
        b"HTTP/2.0\r\n",
        b"GET / HTTP/3.0\r\n",
        b"Content-Length: 99999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: x\r\n",
    ),
    *(
        b"Host: b\r\n",
        b"Authorization: Basic ",
        b"====",
        b"\xc2\xb2",
        b"9" * 20,
        b"-1",
        b"x" * 5000,
        b"X: 1\r\n" * 70,
    ),
)


@dataclass
class Report:
    """The results of a campaign."""

    cases: int = 0
    accepted: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    #: Tracebacks of unexpected errors, each with the request that caused it.
    findings: dict[str, bytes] = field(default_factory=dict)
    branches: int = 0


def campaign(cases: int, seed: int) -> Report:
    """Try ``cases`` requests.

    Later requests are made from those that took a branch for the first time.
    """
    random, corpus, report = Random(seed), list(_SEEDS), Report()  # noqa: S311 - for reproducibility
    with Branches(http_messages, negotiation, basic_auth) as branches:
        for data in corpus:
            _try(data, report)
        for _ in range(cases):
            known = len(branches)
            data = _mutated(random.choice(random.choice((_SEEDS, corpus))), random)
            _try(data, report)
            if len(branches) > known:
                corpus.append(data)
    report.branches = len(branches)
    return report


def _mutated(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(changed) + 1)
        if random.random() < 0.5:  # where a line begins
            place = changed.find(b"\n", place) + 1
        part = (
            random.choice(_PARTS)
            if random.random() < 0.8
            else random.randbytes(random.randint(0, 3))
        )
        changed[place : place + random.choice((0, 0, 0, 1, len(part)))] = part
    return bytes(changed)


def _try(data: bytes, report: Report) -> None:
    report.cases += 1
    try:
        check_start(data)
        end = data.find(HEAD_END)
        request = parse_head(data if end < 0 else data[: end + len(HEAD_END)]).request
        report.accepted += 1
        choose_format(request.headers.get("accept"))
        accepts_gzip(request.headers.get("accept-encoding"))
        Credentials.of(request.headers.get("authorization"))
    except RequestError as error:
        report.refusals[error.status] += 1
    except Exception:  # noqa: BLE001 - the campaign looks for any
        report.findings.setdefault(traceback.format_exc(), data)
