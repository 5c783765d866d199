"""A case: a moment, a fault that strikes there, and for how long.

    put-segments-2:denied:minutes    from the second PUT of a segment on, 403 to every such request of ten minutes
    any-40:no-bucket:long            from the 40th request on, 404 to every request until the life is over

A moment is a verb and what it is about, the first part of the key, and counts such requests of the whole story, whoever
makes them; `all` is a LIST of the whole replica, `any` a request of any kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf
from random import Random

import msgspec

from walrep.clock import Clock
from walrep.testing.answers import REFUSALS
from walrep.testing.faults import KINDS, Call, Fault

__all__ = ["FAULTS", "SPANS", "UNDISTURBED", "Case", "CasePlan", "cases_of", "parse_case", "sample_of"]

_HOURS_5_S = 5 * 3600.0

FAULTS: Mapping[str, Fault] = {
    "failed": Fault(error=REFUSALS["failed"]),
    "lost-answer": Fault(when="after", error=REFUSALS["timeout"]),
    "throttled": Fault(error=REFUSALS["throttled"]),
    "denied": Fault(error=REFUSALS["denied"]),
    "no-bucket": Fault(error=REFUSALS["no-bucket"]),
    "cut": Fault(kind="cut", error=REFUSALS["timeout"]),
    "slow": Fault(kind="slow", seconds=50.0),
    "short": Fault(kind="short"),
    "rot": Fault(kind="rot"),
    "stale": Fault(kind="stale", seconds=1000.0),
    "ahead": Fault(kind="skew", seconds=_HOURS_5_S),
    "behind": Fault(kind="skew", seconds=-_HOURS_5_S),
}
"""What strikes, by name."""

SPANS: Mapping[str, tuple[int, float]] = {
    "once": (1, inf),
    "thrice": (3, inf),
    "minutes": (1 << 30, 600.0),
    "long": (1 << 30, inf),
}
"""How many requests of the moment's kind a fault strikes at most, and for how many seconds from the first one on."""

UNDISTURBED = "any-0:failed:once"


class Case(msgspec.Struct, frozen=True):
    """See the module."""

    verb: str
    about: str
    number: int
    fault: str
    span: str

    def __str__(self) -> str:
        """Return its text form."""
        moment = f"{self.verb}-{self.about}-{self.number}" if self.about else f"{self.verb}-{self.number}"
        return f"{moment}:{self.fault}:{self.span}"


def parse_case(text: str) -> Case:
    """Read the text form."""
    moment, fault, span = text.split(":")
    verb, *about, number = moment.split("-")
    return Case(verb, "".join(about), int(number), fault, span)


class CasePlan:
    """What a case does to the requests of a story; `requests` counts them by moment. It is over when a test says so."""

    def __init__(self, case: Case, clock: Clock) -> None:
        self.requests: Counter[str] = Counter()
        self.is_over = False
        self._case = case
        self._clock = clock
        self._times, self._seconds = SPANS[case.span]
        self._since_s: float | None = None
        self._struck = 0

    def fault_for(self, call: Call) -> Fault | None:
        """Return what strikes this call."""
        about = call.key.partition("/")[0] or "all"
        for moment in ("any", f"{call.verb}-{about}"):
            self.requests[moment] += 1
        case = self._case
        moment = f"{case.verb}-{case.about}" if case.about else case.verb
        is_meant = moment in {"any", f"{call.verb}-{about}"}
        if self.is_over or not case.number or not is_meant or self.requests[moment] < case.number:
            return None
        fault = FAULTS[case.fault]
        if call.verb not in KINDS[fault.kind]:
            return None
        now_s = self._clock.monotonic_s()
        self._since_s = now_s if self._since_s is None else self._since_s
        self._struck += 1
        return fault if self._struck <= self._times and now_s - self._since_s < self._seconds else None


def cases_of(requests: Mapping[str, int]) -> list[str]:
    """Return the whole matrix, for the requests of a story that nothing happened to."""
    return [str(case) for moment in sorted(requests) for case in _cases_at(moment, requests[moment])]


def _cases_at(moment: str, count: int) -> Iterator[Case]:
    verb, _, about = moment.partition("-")
    parts = 8 if verb == "any" else 2
    for number in sorted({1 + part * (count - 1) // parts for part in range(parts + 1)}):
        for name, fault in FAULTS.items():
            if verb == "any" or verb in KINDS[fault.kind]:
                for span in SPANS:
                    yield Case(verb, about, number, name, span)


def sample_of(cases: list[str], seed: int, count: int) -> list[str]:
    """Return so many cases, drawn by the seed, of every fault about as many."""
    dice = Random(seed)
    by_fault = {name: [case for case in cases if f":{name}:" in case] for name in FAULTS}
    return [dice.choice(by_fault[name]) for name in (list(by_fault) * count)[:count]]
