"""`walrep list --timelines`: which timeline left which, and on what each begins."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from walrep.cli.main import run
from walrep.core.tree import Branch, order_tree
from walrep.core.units import TimelineId, timeline_number
from walrep.runner import InlineRunner
from walrep.store.local import LocalStore
from walrep.testing.history import HistoryBuilder

BEGAN_MS = 1_763_717_585_000
PAGE_SIZE = 512


def page(value: int) -> bytes:
    return bytes([value]) * PAGE_SIZE


@pytest.fixture
def builder() -> HistoryBuilder:
    """Three timelines: the second left the first at 2, the third at 1; both begin on top of its base."""
    builder = HistoryBuilder(PAGE_SIZE)
    first = builder.begin({1: page(1), 2: page(2)}, BEGAN_MS)
    for txid in (1, 2):
        builder.commit([(2, page(txid + 2))], 2, BEGAN_MS + 1000 * txid)
        builder.seal()
    image = dict(builder.image)
    for number, txid in ((10, 2), (20, 1)):
        at_ms = BEGAN_MS + number * 1000
        builder.begin({**image, 1: page(number)}, at_ms, parent=builder.positions[first, txid], base=False)
        builder.snapshot(at_ms, full_txid=0, full_timeline=first)
        builder.commit([(1, page(number + 1))], 2, at_ms + 1000)
        builder.seal()
    return builder


def stored(builder: HistoryBuilder, folder: Path) -> str:
    asyncio.run(builder.store_in(LocalStore(folder / "replica", InlineRunner())))
    return str(folder / "replica")


def test_for_people_it_is_a_tree(builder: HistoryBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--timelines", stored(builder, tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) - len(line.lstrip()) for line in lines if " began " in line] == [0, 2, 2]
    assert lines[1:3] == [
        "  begins with transaction 0, " + lines[1].split(", ")[1] + ", full",
        "  restorable  transactions 0 to 2, 2025-11-21T09:33:05.000Z to 2025-11-21T09:33:07.000Z",
    ]
    assert lines[4].startswith("    left        00001-a1b2c3d4-0000000000000002-")
    assert lines[5].endswith(", differential, on top of that of transaction 0 of timeline 00001-a1b2c3d4")
    assert lines[8].startswith("    left        00001-a1b2c3d4-0000000000000001-")


def test_as_json_each_line_tells_its_place(
    builder: HistoryBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["list", "--timelines", "--json", stored(builder, tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["type"], line["timeline"][:5], line["depth"]) for line in lines] == [
        ("timeline", "00001", 0),
        ("timeline", "00002", 1),
        ("timeline", "00003", 1),
    ]
    firsts = [line["first_snapshot"] for line in lines]
    assert [(each["full_timeline"], each["full_txid"]) for each in firsts] == [
        (None, None),
        (lines[0]["timeline"], 0),
        (lines[0]["timeline"], 0),
    ]
    assert [line["parent"] is None for line in lines] == [True, False, False]


def test_a_parent_that_is_gone_leaves_its_children_at_the_top() -> None:
    gone, left, child = (TimelineId(f"0000{number}-a") for number in (1, 2, 3))
    assert order_tree({child: left, left: gone}) == (Branch(left, 0), Branch(child, 1))


IDS = st.builds("{:05d}-{}".format, st.integers(0, 5), st.sampled_from("ab")).map(TimelineId)


@given(st.dictionaries(IDS, st.none() | IDS, max_size=12))
def test_every_timeline_stands_once_and_below_its_parent(parents: dict[TimelineId, TimelineId | None]) -> None:
    """Whatever damaged objects say."""
    tree = order_tree(parents)
    assert sorted(branch.timeline for branch in tree) == sorted(parents)
    above: list[TimelineId] = []
    for branch in tree:
        del above[branch.depth :]
        parent = parents[branch.timeline]
        is_below = parent is not None and timeline_number(parent) < timeline_number(branch.timeline)
        assert above[-1:] == ([parent] if is_below and parent in parents else [])
        above.append(branch.timeline)
