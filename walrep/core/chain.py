"""Which of a timeline's objects count, where several hold the same transactions.

A pack may lie beside what it replaces: for a grace period, or because a deletion was interrupted. Of several ways
through the same transactions the chain takes the one that reaches furthest, in the largest steps, so that nothing is
applied twice. Where objects do not continue one another one **run** ends and another one begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from walrep.core.names import PACKS_PREFIX

__all__ = ["Chain", "Stretch", "contains"]


class Stretch(Protocol):
    """Transactions `txid_before` + 1 to `txid_after` of a timeline, from segments `first_seq` to `last_seq`."""

    @property
    def key(self) -> str:
        """The key of the object that holds them."""
        ...

    @property
    def txid_before(self) -> int:
        """The transaction that it continues."""
        ...

    @property
    def txid_after(self) -> int:
        """Its last transaction."""
        ...

    @property
    def first_seq(self) -> int:
        """The number of its first segment."""
        ...

    @property
    def last_seq(self) -> int:
        """The number of its last segment."""
        ...


T = TypeVar("T", bound=Stretch)


def contains(large: Stretch, small: Stretch) -> bool:
    """Return whether all that is in `small` is in `large` of the same timeline."""
    return (
        large.txid_before <= small.txid_before
        and small.txid_after <= large.txid_after
        and large.first_seq <= small.first_seq
        and small.last_seq <= large.last_seq
    )


class Chain(Generic[T]):
    """The runs of a timeline; `replaced` are what lies in a larger one, with that one, and `misfits` what does not."""

    def __init__(self, stretches: Sequence[T], continues: Callable[[T, T], bool]) -> None:
        """Choose; `continues(before, after)` is asked only where the transaction numbers do."""
        ordered = sorted(stretches, key=lambda each: (each.txid_before, not _is_empty(each), each.first_seq))
        paths = _Paths(ordered, continues)
        self.runs: list[list[T]] = []
        self.replaced: list[tuple[T, T]] = []
        self.misfits: list[T] = []
        self._starts: list[list[int]] = []
        chosen: set[str] = set()
        end = -1
        for stretch in ordered:
            if stretch.key in chosen or stretch.txid_after <= end:
                continue
            run = list(paths.follow(paths.best([each for each in paths.beside(stretch) if each.txid_after > end])))
            self.runs.append(run)
            chosen.update(each.key for each in run)
            end = run[-1].txid_after
        self._starts = [[each.txid_before for each in run] for run in self.runs]
        for stretch in (each for each in ordered if each.key not in chosen):
            larger = self.holder_of(stretch)
            if larger is None:
                self.misfits.append(stretch)
            else:
                self.replaced.append((stretch, larger))

    def holder_of(self, stretch: Stretch) -> T | None:
        """Return the member of the chain in which all of a stretch is: itself, if it is one; None if there is none."""
        for run, starts in zip(self.runs, self._starts, strict=True):
            place = bisect_right(starts, stretch.txid_before) - 1
            if place >= 0 and contains(run[place], stretch):
                return run[place]
        return None


class _Paths(Generic[T]):
    """Which stretch continues which, and how far one gets from each."""

    def __init__(self, ordered: Sequence[T], continues: Callable[[T, T], bool]) -> None:
        self._continues = continues
        self._starting: defaultdict[int, list[T]] = defaultdict(list)
        self._reach: dict[str, int] = {}
        # What holds no transaction comes first at its place, so that all that continues a stretch is behind it.
        for stretch in reversed(ordered):
            following = self._following(stretch)
            self._reach[stretch.key] = max([stretch.txid_after, *(self._reach[each.key] for each in following)])
            self._starting[stretch.txid_before].append(stretch)

    def beside(self, stretch: T) -> list[T]:
        """Return what begins where this one does, itself included."""
        return self._starting[stretch.txid_before]

    def best(self, stretches: Sequence[T]) -> T:
        """Return what holds no transaction if it is there, else where one gets furthest, in the largest step."""
        return max(
            stretches,
            key=lambda each: (
                _is_empty(each),
                self._reach[each.key],
                each.txid_after,
                # Of a segment and a pack of it alone, the pack.
                each.key.startswith(PACKS_PREFIX),
            ),
        )

    def follow(self, stretch: T) -> Iterator[T]:
        """Yield a stretch and the best of those that continue it, and so on."""
        following: Sequence[T] = (stretch,)
        done: set[str] = set()
        while following:
            stretch = self.best(following)
            done.add(stretch.key)
            yield stretch
            following = [each for each in self._following(stretch) if each.key not in done]

    def _following(self, stretch: T) -> list[T]:
        return [each for each in self._starting[stretch.txid_after] if self._continues(stretch, each)]


def _is_empty(stretch: Stretch) -> bool:
    return stretch.txid_after == stretch.txid_before
