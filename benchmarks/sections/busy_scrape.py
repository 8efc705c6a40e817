"""Measures how long a scrape takes beside loops that never rest, and what the loops feel of it.

``SCRAPES`` scrapes each of about 47 000 lines, 0.2 s apart: beside an idle loop, beside a loop with
turns of several lengths, beside four loops, and of 100 000 lines. prometheus_client serves fewer.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
from time import perf_counter
from typing import Any, NamedTuple

from contenders.contender import Contender, Unavailable
from contenders.ours import CRecorder, PythonRecorder
from harness import child
from harness.peer_server import prometheus_client_port
from harness.plan import Plan
from harness.samples import percentile
from harness.table import Table

SCRAPES, PAUSE_SECONDS = 50, 0.2
#: A scrape of prometheus_client's own server may take half a minute.
PEER_SCRAPES = 5
#: Coroutine functions that lead to about so many lines.
LINES = {47_000: 400, 100_000: 855}
TURNS_MS = (0.05, 0.2, 1, 5)


class Case(NamedTuple):
    """What is measured: the recorder, the loop, the server, the turns and how many loops."""

    contender: str
    loop: str
    turn_ms: float
    server: str = "aiometrics"
    loops: int = 1
    lines: int = 47_000


CASES = (
    Case(CRecorder.name, "asyncio", 0),
    Case(CRecorder.name, "asyncio", 0, lines=100_000),
    *(Case(CRecorder.name, loop, turn) for loop in ("asyncio", "uvloop") for turn in TURNS_MS),
    *(Case(CRecorder.name, "asyncio", turn, loops=4) for turn in (0.2, 1)),
    *(Case(PythonRecorder.name, "asyncio", turn) for turn in (0, *TURNS_MS)),
    *(Case(CRecorder.name, "asyncio", turn, "prometheus_client") for turn in (0, *TURNS_MS)),
)


def measure(
    contender: Contender,
    loop: str,
    *,
    turn_ms: float,
    server: str,
    loops: int,
    coroutines: int,
    scrapes: int,
) -> dict[str, Any]:
    """Return the seconds of each scrape, and of each turn without scrapes and with them."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics can be scraped")
    facade = contender.facade()
    exporter = facade.start_exporter(
        port=0,
        addr="127.0.0.1",
        registry=None,
        max_yield_points=2 * max(LINES.values()),
        max_coroutines=2 * max(LINES.values()),
    )
    port = exporter.port if server == "aiometrics" else prometheus_client_port(facade)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def main() -> dict[str, Any]:
        await _many(coroutines)
        others = [_Beside(contender, loop, turn_ms) for _ in range(loops - 1)]
        alone = await _turns_until(asyncio.create_task(asyncio.sleep(2)), turn_ms)
        scraping = asyncio.create_task(_scrapes(port, scrapes))
        beside = await _turns_until(scraping, turn_ms)
        for other in others:
            other.end()
        answer = scraping.result()
        return {
            **answer,
            "turns": alone,
            "turns scraped": beside,
            "overflow": sum(exporter.snapshot().overflow.values()),
            "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib,
        }

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


async def _many(coroutines: int) -> None:
    """Run so many coroutine functions, each once."""
    namespace: dict[str, Any] = {"sleep": asyncio.sleep, "__name__": "generated"}
    source = "".join(f"async def f{n}():\n await sleep(0)\n" for n in range(coroutines))
    exec(source, namespace)  # noqa: S102 - this function wrote it
    await asyncio.gather(*(namespace[f"f{n}"]() for n in range(coroutines)))


async def _turns_until(other: asyncio.Task[Any], turn_ms: float) -> list[float]:
    """Burn the processor in turns, and return how long each took; of 0 ms, only wait."""
    took: list[float] = []
    if not turn_ms:
        await other
        return took
    while not other.done():
        started = perf_counter()
        while perf_counter() - started < turn_ms / 1e3:
            pass
        await asyncio.sleep(0)
        took.append(perf_counter() - started)
    return took


class _Beside:
    """A loop that never rests, in a thread of its own."""

    def __init__(self, contender: Contender, loop: str, turn_ms: float) -> None:
        self._factory = contender.loop_factory(loop)
        self._turn_ms = turn_ms
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let it rest."""
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._burn())

    async def _burn(self) -> None:
        while not self._ended:
            started = perf_counter()
            while perf_counter() - started < self._turn_ms / 1e3:
                pass
            await asyncio.sleep(0)


async def _scrapes(port: int, scrapes: int) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "harness.scraper", str(port)),
        *("0", str(PAUSE_SECONDS), str(scrapes)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the scraper ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(output)
    return answer


def run(plan: Plan) -> Table:
    """Measure each case once."""
    scrapes = max(5, round(SCRAPES * plan.scale))
    table = Table(
        f"{scrapes} scrapes beside loops that never rest",
        ["recorder", "loop", "served by", "lines", "scrape ms: median / worst", "p99 turn, worst"],
        data={},
    )
    absent: dict[str, str] = {}
    for case in CASES:
        plan.progress(f"busy_scrape: {case}")
        try:
            answer = child.run(
                "busy_scrape",
                case.contender,
                case.loop,
                turn_ms=case.turn_ms,
                server=json.dumps(case.server),
                loops=case.loops,
                coroutines=LINES[case.lines],
                scrapes=scrapes if case.server == "aiometrics" else PEER_SCRAPES,
            )
        except Unavailable as error:
            absent[repr(case)] = str(error)
            continue
        table.data[repr(case)] = _summary(answer)
        table.rows.append(_row(case, answer))
        plan.progress(" | ".join(table.rows[-1]))
    table.notes.append(
        "Turns in ms, `without -> with` scrapes, from the start of a turn to the next one. "
        "Memory and overflow are in the JSON."
    )
    table.note_absent(absent)
    return table


def _summary(answer: dict[str, Any]) -> dict[str, Any]:
    turns = {key: _p99_and_worst_ms(answer[key]) for key in ("turns", "turns scraped")}
    return {**answer, **turns}


def _row(case: Case, answer: dict[str, Any]) -> list[str]:
    took_ms = sorted(seconds * 1e3 for seconds in answer["seconds"])
    loop = f"{case.loops} x {case.loop}" if case.loops > 1 else case.loop
    return [
        case.contender,
        f"{loop}, {case.turn_ms:g} ms" if case.turn_ms else f"{loop}, idle",
        case.server,
        str(answer["series"]),
        f"{took_ms[len(took_ms) // 2]:.0f} / {took_ms[-1]:.0f}",
        _turns(answer) if case.turn_ms else "",
    ]


def _turns(answer: dict[str, Any]) -> str:
    before, after = (_p99_and_worst_ms(answer[key]) for key in ("turns", "turns scraped"))
    return f"{before[0]:.2f} -> {after[0]:.2f}, {before[1]:.2f} -> {after[1]:.2f}"


def _p99_and_worst_ms(turns: list[float]) -> tuple[float, float]:
    return (percentile(turns, 99) * 1e3, max(turns) * 1e3) if turns else (0.0, 0.0)
