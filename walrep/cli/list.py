"""`walrep list`."""

from __future__ import annotations

import click
import msgspec

from walrep import app
from walrep.cli.command import Command, json_option, takes
from walrep.cli.output import Output, format_size
from walrep.cli.session import Session
from walrep.core.history import History, Problem, Segment
from walrep.core.target import format_time
from walrep.core.tree import order_tree
from walrep.engine import inspect
from walrep.engine.inspect import PackListing, ReplicaListing, SnapshotListing, TimelineListing
from walrep.errors import ObjectNotFound
from walrep.store.url import parse_url

__all__ = ["list_replica"]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    as_json: bool
    timelines: bool


@click.command("list", cls=Command, short_help="Show what a replica holds.", exits=(0, 1, 2, 4, 6, 130))
@click.argument("url")
@click.option("--timelines", is_flag=True, help="Only the timelines, as a tree.")
@json_option
@takes(_Options)
def list_replica(session: Session, options: _Options) -> None:
    """Show what the replica at URL holds: timelines, snapshots, packs, segments, and what is restorable.

    A timeline begins where capture could not go on without a gap, and after a restore; it stands below the one that it
    left.
    """
    url = parse_url(options.url)
    history = session.run(app.read_replica(url, clock=session.clock, environment=session.environment))
    if not history.object_count:
        raise ObjectNotFound(
            "there is no replica here",
            detail=str(url),
            hint="check the URL; it is the one given to `walrep replicate`",
        )
    if options.timelines:
        _print_tree(session.output, inspect.list_replica(history), as_json=options.as_json)
    elif options.as_json:
        _print_json(session.output, str(url), history)
    else:
        _print_text(session.output, str(url), history)


def _print_json(output: Output, url: str, history: History) -> None:
    listing = inspect.list_replica(history)
    output.record(
        "replica",
        {
            "url": url,
            "replica": listing.replica,
            "object_count": listing.object_count,
            "object_bytes": listing.object_bytes,
        },
    )
    for timeline, whole in zip(listing.timelines, history.timelines, strict=True):
        output.record("timeline", _timeline_fields(timeline))
        for snapshot in timeline.snapshots:
            output.record("snapshot", _snapshot_fields(timeline.timeline, snapshot))
        for pack in timeline.packs:
            output.record("pack", _pack_fields(timeline.timeline, pack))
        for segment in whole.segments:
            output.record("segment", _segment_fields(segment))
    for pin in history.pins:
        output.record("kept", {"name": pin.name, "bookmark": str(pin.position)})
    for problem in listing.problems:
        output.record("problem", {"kind": problem.kind, "timeline": problem.timeline, "message": problem.message})


def _print_tree(output: Output, listing: ReplicaListing, *, as_json: bool) -> None:
    timelines = {each.timeline: each for each in listing.timelines}
    for branch in order_tree({each.timeline: each.parent_timeline for each in listing.timelines}):
        if as_json:
            output.record("timeline", {**_timeline_fields(timelines[branch.timeline]), "depth": branch.depth})
        else:
            _print_branch(output, timelines[branch.timeline], "  " * branch.depth)


def _print_branch(output: Output, timeline: TimelineListing, indent: str) -> None:
    output.line(f"{indent}{timeline.timeline}  began {format_time(timeline.begin_ms)}: {timeline.reason}")
    if timeline.parent:
        output.line(f"{indent}  left        {timeline.parent}")
    first = timeline.first_snapshot
    if first is not None:
        kind = "full" if first.full is None else f"differential{_leans_text(timeline.timeline, first)}"
        output.line(f"{indent}  begins with transaction {first.txid}, {format_size(first.size_bytes)}, {kind}")
    _print_restorable(output, timeline, indent)


def _timeline_fields(timeline: TimelineListing) -> dict[str, object]:
    first = timeline.first_snapshot
    return {
        "timeline": timeline.timeline,
        "reason": timeline.reason,
        "parent": timeline.parent,
        "began": format_time(timeline.begin_ms),
        "first_snapshot": None if first is None else _snapshot_fields(timeline.timeline, first),
        "segment_count": timeline.segment_count,
        "segment_bytes": timeline.segment_bytes,
        "pack_count": timeline.pack_count,
        "pack_bytes": timeline.pack_bytes,
        "pack_transaction_count": timeline.pack_transaction_count,
        "spare_count": timeline.spare_count,
        "spare_bytes": timeline.spare_bytes,
        "transaction_count": timeline.transaction_count,
        "restorable": [
            {
                "first_txid": each.first_txid,
                "last_txid": each.last_txid,
                "first_time": format_time(each.first_seen_ms),
                "last_time": format_time(each.last_seen_ms),
            }
            for each in timeline.restorable
        ],
    }


def _snapshot_fields(timeline: str, snapshot: SnapshotListing) -> dict[str, object]:
    return {
        "key": snapshot.key,
        "size_bytes": snapshot.size_bytes,
        "timeline": timeline,
        "txid": snapshot.txid,
        "time": format_time(snapshot.seen_ms),
        "full_timeline": snapshot.full.timeline if snapshot.full else None,
        "full_txid": snapshot.full.txid if snapshot.full else None,
    }


def _pack_fields(timeline: str, pack: PackListing) -> dict[str, object]:
    return {
        "key": pack.key,
        "size_bytes": pack.size_bytes,
        "timeline": timeline,
        "txid_before": pack.first_txid - 1,
        "txid_after": pack.last_txid,
        "first_seq": pack.first_seq,
        "last_seq": pack.last_seq,
        "first_time": format_time(pack.first_seen_ms),
        "last_time": format_time(pack.last_seen_ms),
    }


def _segment_fields(segment: Segment) -> dict[str, object]:
    return {
        "key": segment.key,
        "size_bytes": segment.size_bytes,
        "seq": segment.seq,
        "timeline": segment.header.timeline,
        "txid_before": segment.header.txid_before,
        "txid_after": segment.footer.txid_after,
        "first_time": format_time(segment.footer.first_seen_ms),
        "last_time": format_time(segment.footer.last_seen_ms),
    }


def _print_text(output: Output, url: str, history: History) -> None:
    listing = inspect.list_replica(history)
    output.line(f"replica   {url}")
    output.line(f"identity  {listing.replica or 'unknown'}")
    output.line(f"objects   {listing.object_count}, {format_size(listing.object_bytes)}")
    for timeline in listing.timelines:
        output.line()
        _print_timeline(output, timeline)
    if history.pins:
        output.line()
    for pin in history.pins:
        output.line(f"kept      {pin.name}  {pin.position}")
    if listing.problems:
        output.line()
    for problem in listing.problems:
        output.line(f"problem: {_problem_text(problem)}")


def _print_timeline(output: Output, timeline: TimelineListing) -> None:
    output.line(f"timeline {timeline.timeline}")
    output.line(f"  began       {format_time(timeline.begin_ms)} ({timeline.reason})")
    if timeline.parent:
        output.line(f"  left        {timeline.parent}")
    for snapshot in timeline.snapshots:
        what = f"transaction {snapshot.txid}, {format_time(snapshot.seen_ms)}, {format_size(snapshot.size_bytes)}"
        output.line(f"  snapshot    {what}{_leans_text(timeline.timeline, snapshot)}")
    if timeline.pack_count:
        packs = f"{timeline.pack_count} with {timeline.pack_transaction_count} transactions"
        output.line(f"  packs       {packs}, {format_size(timeline.pack_bytes)}")
    hot_count = timeline.transaction_count - timeline.pack_transaction_count
    segments = f"{timeline.segment_count} with {hot_count} transactions"
    output.line(f"  segments    {segments}, {format_size(timeline.segment_bytes)}")
    if timeline.spare_count:
        spares = f"{timeline.spare_count}, {format_size(timeline.spare_bytes)}"
        output.line(f"  replaced    {spares}, by packs, and not deleted yet")
    _print_restorable(output, timeline, "")


def _print_restorable(output: Output, timeline: TimelineListing, indent: str) -> None:
    for each in timeline.restorable:
        first, last = format_time(each.first_seen_ms), format_time(each.last_seen_ms)
        output.line(f"{indent}  restorable  transactions {each.first_txid} to {each.last_txid}, {first} to {last}")
    if not timeline.restorable:
        output.line(f"{indent}  restorable  nothing yet")


def _leans_text(timeline: str, snapshot: SnapshotListing) -> str:
    if snapshot.full is None:
        return ""
    elsewhere = f" of timeline {snapshot.full.timeline}" if snapshot.full.timeline != timeline else ""
    return f", on top of that of transaction {snapshot.full.txid}{elsewhere}"


def _problem_text(problem: Problem) -> str:
    return f"timeline {problem.timeline}: {problem.message}" if problem.timeline else problem.message
