"""The few kinds of PromQL queries that the dashboards use.

Every selector contains ``$job`` and ``$instance``, so that one set of variables controls all
panels. Every rate is over ``$__rate_interval``, for which Grafana picks a window that fits the
scrape interval.
"""

from __future__ import annotations

JOB = 'job=~"$job",instance=~"$instance"'
#: Matches nothing if all instances are selected; see ``everywhere``.
SELECTED = 'every!~"$instance"'
LOOP = f'{JOB},loop=~"$loop"'
COROUTINE = f'{JOB},coroutine=~"$coroutine"'
REQUEST = f'{JOB},request=~"$request"'
#: The time range that the dashboard shows. It is the same at every step of a chart, so Prometheus
#: evaluates it once.
WHOLE_RANGE = "[$__range] @ end()"
POINT = "coroutine, yield_point, awaits"


def select(metric: str, selector: str) -> str:
    """Return the instant vector ``metric{selector}``."""
    return f"{metric}{{{selector}}}"


def rate(metric: str, selector: str) -> str:
    """Return the query for what ``metric`` gains per second.

    The sum and the count of a histogram are also found in native ones, which have no series of
    their own for them.
    """
    gained = _rate(metric, selector)
    histogram, _, part = metric.rpartition("_")
    if part not in {"sum", "count"}:
        return gained
    return f"({gained} or histogram_{part}({_rate(histogram, selector)}))"


def _rate(metric: str, selector: str) -> str:
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def gained(metric: str, selector: str) -> str:
    """Return the query for what ``metric`` gained in the time range that the dashboard shows."""
    return f"increase({metric}{{{selector}}}[$__range])"


def total(vector: str, by: str = "") -> str:
    """Return the query for the sum of ``vector``, grouped by the labels ``by``."""
    return f"sum by ({by}) ({vector})" if by else f"sum({vector})"


def top(vector: str) -> str:
    """Return the query for the ``$topk`` largest series of ``vector``."""
    return f"topk($topk, {vector})"


def leaders(vector: str) -> str:
    """Return the query for the series of ``vector`` that are the ``$topk`` largest overall.

    ``vector`` consists of rates; the largest are chosen by their rates over the whole time range. A
    chart of ``top`` alone shows every series that was among the largest at any moment.
    """
    return f"{vector} and {top(vector.replace('[$__rate_interval]', WHOLE_RANGE))}"


def leading(metric: str, selector: str) -> str:
    """Return the same as ``leaders`` for a gauge or a recorded series, chosen by its mean."""
    vector = select(metric, selector)
    return f"{vector} and {top(f'avg_over_time({vector}{WHOLE_RANGE})')}"


def share(part: str, whole: str, selector: str, by: str = "") -> str:
    """Return the query for what ``part`` gains for each unit that ``whole`` gains.

    Its result is empty where ``whole`` does not change.
    """
    return f"{total(rate(part, selector), by)} / ({total(rate(whole, selector), by)} > 0)"


def mean(histogram: str, selector: str, by: str = "") -> str:
    """Return the query for the mean of ``histogram``; empty where it has no observations."""
    return share(f"{histogram}_sum", f"{histogram}_count", selector, by)


def everywhere(level: str, metric: str, selector: str, by: str = "", *, whole: bool = False) -> str:
    """Return the query for what ``metric`` gains per second, summed by the labels ``by``.

    It stays cheap however many instances there are. If all instances are selected, it is what a
    rule recorded for whole services at ``level``; if some are, it is their own rate. The selectors
    decide which. A recorded series has no label ``instance``, so ``instance=~"$instance"`` matches
    it only if ``$instance`` is ``.*``. No series has a label ``every``, so ``every!~"$instance"``
    matches all series unless ``$instance`` is ``.*``.
    """
    recorded = select(f"{level}:{metric.removesuffix('_total')}:rate5m", selector)
    raw = rate(metric, f"{selector},{SELECTED}")
    return _either(
        recorded, raw.replace("[$__rate_interval]", WHOLE_RANGE) if whole else raw, by, whole=whole
    )


def everywhere_now(
    level: str, metric: str, selector: str, by: str = "", *, whole: bool = False
) -> str:
    """Return the same as ``everywhere`` for the value of a gauge."""
    raw = select(metric, f"{selector},{SELECTED}")
    return _either(
        select(f"{level}:{metric}:sum", selector),
        f"avg_over_time({raw}{WHOLE_RANGE})" if whole else raw,
        by,
        whole=whole,
    )


def _either(recorded: str, raw: str, by: str, *, whole: bool) -> str:
    if whole:
        recorded = f"avg_over_time({recorded}{WHOLE_RANGE})"
    return f"({total(recorded, by)} or {total(raw, by)})"


def of_all_loops(seconds: str) -> str:
    """Return the query for ``seconds`` per second as a share of the time of all loops that run."""
    return f"{seconds} / scalar(sum({select('job_instance:asyncio_loops:count', JOB)}))"


def of_mean_loop(vector: str, by: str = "") -> str:
    """Return the query for the mean of ``vector``, which has a series for each loop.

    It is that of the loops that run, or of all if they come and go between scrapes: what is left of
    a loop that is gone would be taken for an idle one.
    """
    running = f"on (job, instance, loop) {select('asyncio_loop_process_id', LOOP)} > 0"
    mean_of = f"avg by ({by})" if by else "avg"
    return f"({mean_of} ({vector} and {running}) or {mean_of} ({vector}))"


def buckets(histogram: str, selector: str) -> str:
    """Return the query for observations per second by bucket, as a heatmap needs them.

    They are those of native histograms where there are any, which are finer.
    """
    native = total(_rate(histogram, selector))
    classic = total(_rate(f"{histogram}_bucket", selector), "le")
    return f"{native} or ({classic} unless on () {native})"


def quantile(fraction: float, histogram: str, selector: str, by: str = "") -> str:
    """Return the query for a quantile of ``histogram``; empty where it has no observations.

    It is that of native histograms where there are any, which are finer.
    """
    native = total(_rate(histogram, selector), by)
    classic = total(_rate(f"{histogram}_bucket", selector), f"le, {by}" if by else "le")
    first, second = (f"histogram_quantile({fraction:g}, {one})" for one in (native, classic))
    return f"({first} or {second})"


def named_briefly(vector: str) -> str:
    """Return ``vector`` with the labels ``at`` and ``task``, which are short enough for a legend.

    They are the yield point without its folders, and the last two names of the coroutine, which
    tell methods of different classes apart.
    """
    at = f'label_replace({vector}, "at", "$1", "yield_point", "(?:.*/)?(.*)")'
    return f'label_replace({at}, "task", "$1", "coroutine", "(?:.*?[.])??([^.]+(?:[.][^.]+)?)")'
