"""Is it a timer that asks? Times of one client's requests for one thing, judged by how even they are.

People come at random: the gaps between their requests differ by about as much as they are long. A timer's gaps are
alike, also with jitter. Several tabs behind one address are several timers of one interval: then it is not neighbours
that are evenly apart, but each request and the one k places on, for k tabs. Of random requests k places apart the
variance is k times that of neighbours, so what counts is the share of it that is there.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

FEWEST = 10  # requests of one client that are enough to judge it by
SHORT = 4  # fewer, which count where others of the same pace agree
_SHORTEST = 9.0  # seconds; who is there for less is no load
_TABS = 16  # at most, behind one address and user agent
_ROUNDED = 1 / 6  # variance, in seconds², of a difference of two times that are whole seconds


class Rhythm(NamedTuple):
    interval: float  # seconds, from one request of a timer to its next
    timers: int


def find_rhythm(times: Sequence[float], fewest: int = FEWEST) -> Rhythm | None:
    """The timer behind these times, which may be out of order and have pauses; None when there is none."""
    if len(times) < fewest:
        return None
    ordered = sorted(times)
    is_coarse = all(time == int(time) for time in ordered)
    runs = _runs(ordered)
    gaps = sum(len(run) - 1 for run in runs)
    spanned = sum(run[-1] - run[0] for run in runs)
    if gaps < fewest - 1 - len(ordered) // 8 or spanned < min(_SHORTEST, 2.0 * fewest):
        return None
    mean = spanned / gaps
    even: list[tuple[int, float, float]] = []
    for k in range(1, min(_TABS, max(1, gaps // 6)) + 1):
        apart = sorted(run[i + k] - run[i] for run in runs for i in range(len(run) - k))
        if len(apart) < SHORT - 1:
            break
        kept = apart[len(apart) // 20 : len(apart) - len(apart) // 10]
        middle = sum(kept) / len(kept)
        variance = sum((gap - middle) ** 2 for gap in kept) / len(kept)
        variance = max(0.0, variance - (_ROUNDED if is_coarse else 0.0))
        if variance < _share_of_chance(gaps // k) * k * mean * mean and middle > 0:
            even.append((k, middle, sqrt(variance)))
            if k == 1 and sqrt(variance) < (0.3 if is_coarse else 0.05 * middle):
                break
    if not even:
        return None
    best = min(spread for _, _, spread in even)
    close = 0.25 if is_coarse else 0.02 * mean
    timers, interval, _ = next(found for found in even if found[2] <= 2 * best + close)
    return Rhythm(interval, timers)


def _runs(ordered: Sequence[float]) -> list[Sequence[float]]:
    """Apart where the page was closed, or the tab hidden: where a gap is much longer than nearly all are."""
    gaps = sorted(b - a for a, b in pairwise(ordered))
    pause = 4 * gaps[len(gaps) * 9 // 10 - (1 if len(gaps) < 20 else 0)] + 1
    if gaps[-1] <= pause:
        return [ordered]
    starts = [0, *(i for i in range(1, len(ordered)) if ordered[i] - ordered[i - 1] > pause), len(ordered)]
    runs = [ordered[start:end] for start, end in pairwise(starts)]
    return [run for run in runs if len(run) > 1] or [ordered]


def _share_of_chance(samples: int) -> float:
    """How much of a random visitor's variance a timer may have: less where few samples could be even by luck."""
    if samples < 16:
        return 0.06
    return 0.12 if samples < 32 else 0.2
