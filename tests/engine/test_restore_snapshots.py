"""Restores from full and differential snapshots, whole, damaged and missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from walrep.core.target import AtTxid, Target
from walrep.core.units import Txid
from walrep.engine.restorer import RestoreOutcome
from walrep.errors import CorruptObject, RestoreMismatch
from walrep.testing.history import HistoryBuilder
from walrep.testing.restores import restore_to

PAGE = 512
Damage = Callable[[bytes], bytes]


def page(value: int) -> bytes:
    return Random(value).randbytes(PAGE)


def build() -> tuple[HistoryBuilder, dict[str, str]]:
    """A base at 0, full snapshots at 2 and 6, differential ones at 4 and 8, and two transactions after each."""
    builder = HistoryBuilder(PAGE)
    builder.begin({pgno: page(pgno) for pgno in range(1, 30)}, 1000)
    keys = {}
    for txid in range(1, 11):
        size = 30 if txid < 5 else 12 + txid
        builder.commit([(1 + txid * 7 % 12, page(100 + txid)), (size, page(200 + txid))], size, 1000 + txid * 1000)
        builder.seal()
        if txid in (2, 6):
            keys[f"full {txid}"] = builder.snapshot(1500 + txid * 1000)
        elif txid in (4, 8):
            keys[f"diff {txid}"] = builder.snapshot(1500 + txid * 1000, full_txid=txid - 2)
    return builder, keys


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """Change a byte of a page block's body."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def restore_all(builder: HistoryBuilder, folder: Path, txids: range) -> dict[int, RestoreOutcome]:
    """Restore transactions and compare each with what the database was."""
    outcomes = {}
    for txid in txids:
        output = folder / f"{txid}.db"
        outcomes[txid] = restore_to(output, builder.objects, AtTxid(Txid(txid)))
        assert output.read_bytes() == builder.states[builder.timeline, txid]
        output.unlink()
    assert list(folder.iterdir()) == []
    return outcomes


def test_every_transaction_is_restored_on_top_of_the_newest_snapshot_before_it(tmp_path: Path) -> None:
    builder, keys = build()
    outcomes = restore_all(builder, tmp_path, range(11))
    under = {txid: outcome.plan.under.key if outcome.plan.under else None for txid, outcome in outcomes.items()}
    assert [txid for txid in under if under[txid] == keys["full 2"]] == [4, 5]
    assert [txid for txid in under if under[txid] == keys["full 6"]] == [8, 9, 10]
    assert [outcome.plan.snapshot.name.txid for outcome in outcomes.values()] == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 8]
    for outcome in outcomes.values():
        # The plan itself has read the small segments.
        assert outcome.plan.download_bytes == sum(each.size_bytes for each in outcome.plan.snapshots)
        assert outcome.plan.requests == len(outcome.plan.snapshots)
        assert outcome.notices[1:] == ()


@pytest.mark.parametrize("name", ["full 2", "diff 4", "full 6", "diff 8"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_snapshot_is_named_and_an_older_one_is_used(tmp_path: Path, name: str, damage: Damage) -> None:
    """A damaged full one costs the differential ones that lean on it, too."""
    builder, keys = build()
    builder.objects[keys[name]] = damage(builder.objects[keys[name]])
    outcomes = restore_all(builder, tmp_path, range(11))
    told = {txid for txid, outcome in outcomes.items() if any(keys[name] in notice for notice in outcome.notices)}
    assert told == {"full 2": {2, 3, 4, 5}, "diff 4": {4, 5}, "full 6": {6, 7, 8, 9, 10}, "diff 8": {8, 9, 10}}[name]
    assert all(keys[name] not in {each.key for each in outcomes[txid].plan.snapshots} for txid in told)


@pytest.mark.parametrize("name", ["full 6", "diff 8"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_snapshot_without_which_nothing_leads_there_is_the_error(
    tmp_path: Path, name: str, damage: Damage
) -> None:
    """As after retention: what is older is gone."""
    builder, keys = build()
    gone = [key for key in builder.objects if key.startswith(("segments/", "snapshots/"))]
    gone = [key for key in gone if key not in (keys["full 6"], keys["diff 8"], max(builder.packable()))]
    opening = min(key for key in gone if key.startswith("segments/"))
    for key in gone:
        if key != opening:
            del builder.objects[key]
    builder.objects[keys[name]] = damage(builder.objects[keys[name]])
    with pytest.raises(CorruptObject) as caught:
        restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(8)))
    assert keys[name] in caught.value.detail
    assert list(tmp_path.iterdir()) == []


def test_a_differential_snapshot_is_not_loaded_on_top_of_another_full_one(tmp_path: Path) -> None:
    """What its key says it leans on is not what it was made on: its own header tells."""
    builder, keys = build()
    wrong = keys["diff 8"].replace(f"{6:016}", f"{2:016}")
    builder.objects[wrong] = builder.objects.pop(keys["diff 8"])
    outcome = restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(8)))
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, 8]
    assert outcome.plan.snapshot.key == keys["full 6"]
    assert any("leans on another one than its key says" in notice for notice in outcome.notices)


def test_a_differential_snapshot_under_the_key_of_a_full_one_is_refused(tmp_path: Path) -> None:
    builder, keys = build()
    posing = keys["diff 8"].replace(f"diff-{builder.timeline}-{6:016}", "full")
    builder.objects = {
        key: data for key, data in builder.objects.items() if not key.startswith("snapshots/") or key == keys["diff 8"]
    }
    builder.objects[posing] = builder.objects.pop(keys["diff 8"])
    with pytest.raises(RestoreMismatch, match="leans on another one than its key says"):
        restore_to(tmp_path / "o.db", builder.objects, AtTxid(Txid(8)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [AtTxid(Txid(8)), AtTxid(Txid(10))])
def test_a_differential_snapshot_whose_full_one_is_gone_is_passed_over(tmp_path: Path, target: Target) -> None:
    builder, keys = build()
    del builder.objects[keys["full 6"]]
    outcome = restore_to(tmp_path / "o.db", builder.objects, target)
    assert (tmp_path / "o.db").read_bytes() == builder.states[builder.timeline, outcome.txid]
    assert outcome.plan.snapshot.key == keys["diff 4"]
