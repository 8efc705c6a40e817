"""PromQL in the few shapes that the dashboards use.

Every selector carries ``$job`` and ``$instance``, every rate is taken over ``$__rate_interval``, so that one set of variables
steers every panel and Grafana picks a window that fits the scrape interval.
"""

from __future__ import annotations

JOB = 'job=~"$job",instance=~"$instance"'
#: Finds nothing when all instances are chosen; see ``everywhere``.
CHOSEN = 'every!~"$instance"'
LOOP = f'{JOB},loop=~"$loop"'
COROUTINE = f'{JOB},coroutine=~"$coroutine"'
REQUEST = f'{JOB},request=~"$request"'
#: At every step of a chart the same: the time range that the dashboard shows, up to its end. Prometheus evaluates it once.
WHOLE_RANGE = "[$__range] @ end()"
POINT = "coroutine, yield_point, awaits"


def select(metric: str, selector: str) -> str:
    """The instant vector ``metric{selector}``."""
    return f"{metric}{{{selector}}}"


def rate(metric: str, selector: str) -> str:
    """What ``metric`` gains per second."""
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def gained(metric: str, selector: str) -> str:
    """What ``metric`` gained in the time range that the dashboard shows."""
    return f"increase({metric}{{{selector}}}[$__range])"


def total(vector: str, by: str = "") -> str:
    """The sum of ``vector``, one for each value of the labels ``by``."""
    return f"sum by ({by}) ({vector})" if by else f"sum({vector})"


def top(vector: str) -> str:
    """The ``$topk`` largest of ``vector``."""
    return f"topk($topk, {vector})"


def leaders(vector: str) -> str:
    """The course of those series of ``vector``, made of rates, that are the ``$topk`` largest over the whole range.

    A chart of ``top`` alone shows every series that was among the largest at any one moment.
    """
    return f"{vector} and {top(vector.replace('[$__rate_interval]', WHOLE_RANGE))}"


def leading(metric: str, selector: str) -> str:
    """The same for a gauge or a recorded series, by its mean."""
    return f"{select(metric, selector)} and {top(f'avg_over_time({select(metric, selector)}{WHOLE_RANGE})')}"


def share(part: str, whole: str, selector: str, by: str = "") -> str:
    """What ``part`` gains for each unit that ``whole`` gains; nothing where ``whole`` stands still."""
    return f"{total(rate(part, selector), by)} / ({total(rate(whole, selector), by)} > 0)"


def mean(histogram: str, selector: str, by: str = "") -> str:
    """The mean observation of ``histogram``; nothing where it observed nothing."""
    return share(f"{histogram}_sum", f"{histogram}_count", selector, by)


def everywhere(level: str, metric: str, selector: str, by: str = "", *, whole: bool = False) -> str:
    """What ``metric`` gains per second, summed by the labels ``by``, however many instances there are.

    Over all instances it is what a rule recorded for whole services at ``level``; over chosen ones it is their own rate. That needs no
    condition. A recorded series has no label ``instance``, so that ``instance=~"$instance"`` finds it when ``$instance`` is ``.*`` and
    only then. No series has a label ``every``, so that ``every!~"$instance"`` finds everything unless ``$instance`` is ``.*``.
    """
    recorded = select(f"{level}:{metric.removesuffix('_total')}:rate5m", selector)
    raw = rate(metric, f"{selector},{CHOSEN}")
    return _either(
        recorded, raw.replace("[$__rate_interval]", WHOLE_RANGE) if whole else raw, by, whole=whole
    )


def everywhere_now(
    level: str, metric: str, selector: str, by: str = "", *, whole: bool = False
) -> str:
    """The same for the value of a gauge."""
    raw = select(metric, f"{selector},{CHOSEN}")
    return _either(
        select(f"{level}:{metric}:sum", selector),
        f"avg_over_time({raw}{WHOLE_RANGE})" if whole else raw,
        by,
        whole=whole,
    )


def _either(recorded: str, raw: str, by: str, *, whole: bool) -> str:
    return f"({total(f'avg_over_time({recorded}{WHOLE_RANGE})' if whole else recorded, by)} or {total(raw, by)})"


def buckets(histogram: str, selector: str) -> str:
    """Observations per second by bucket, as a heatmap wants them."""
    return total(rate(f"{histogram}_bucket", selector), "le")


def quantile(fraction: float, histogram: str, selector: str, by: str = "") -> str:
    """The ``fraction`` quantile of ``histogram``; nothing where it observed nothing."""
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({fraction:g}, {total(rate(f'{histogram}_bucket', selector), labels)})"
    )
