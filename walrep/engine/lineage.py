"""Take up a replica: its object, the local state, and one listing of what is there."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from walrep import __version__
from walrep.core.lineage import Claim, check_sequence, plan_claim
from walrep.core.names import REPLICA_KEY, SEGMENTS_PREFIX, parse_segment_key, segment_key
from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo, SegmentHeader, Writer
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq, timeline_number
from walrep.disk.peek import parse_segment_header
from walrep.disk.spool import Spool
from walrep.disk.state import StateDirectory
from walrep.engine.settings import DatabaseSettings
from walrep.errors import CorruptObject, ObjectNotFound, PreconditionFailed, ReplicaConflict
from walrep.store.base import Store

__all__ = ["check_store", "claim_replica", "read_replica_info"]

_HEADER_BYTES = 64 << 10


async def read_replica_info(store: Store) -> ReplicaInfo | None:
    """Return the replica object, None if there is none; raises `CorruptObject`."""
    try:
        data = await store.get(REPLICA_KEY)
    except ObjectNotFound:
        return None
    try:
        return msgspec.json.decode(data, type=ReplicaInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error


async def claim_replica(
    store: Store,
    directory: StateDirectory,
    settings: DatabaseSettings,
    *,
    now_ms: int,
    new_writer: Callable[[], Writer],
) -> LocalState:
    """Return the state with which this writer may write to the replica, creating either or both.

    Raises:
        ReplicaConflict: it may not.

    """
    state = directory.load()
    info = await read_replica_info(store)
    claim = plan_claim(state, info, url=settings.url, new_timeline=settings.new_timeline)
    writer = new_writer()
    if claim is Claim.CONTINUE and state is not None:
        kept = msgspec.structs.replace(writer, nonce=state.writer.nonce)
        return msgspec.structs.replace(state, writer=kept, url=settings.url)
    if claim is Claim.ADOPT:
        return await adopt_replica(store, directory, settings, now_ms=now_ms, new_writer=new_writer)
    begun = state if state is not None and state.next_seq == 1 else _fresh_state(settings, writer.nonce, writer)
    if begun is not state:
        directory.set_aside(now_ms)
    # The state first: whoever finds the replica's object with this nonce knows that it is its own.
    directory.save(begun)
    await _create(store, begun, settings, now_ms)
    return begun


async def adopt_replica(
    store: Store,
    directory: StateDirectory,
    settings: DatabaseSettings,
    *,
    now_ms: int,
    new_writer: Callable[[], Writer],
) -> LocalState:
    """Return a state without lineage, with which a new timeline can begin behind the newest segment that is there.

    What the state directory holds of another lineage is set aside in it. One LIST of all segments.

    Raises:
        ReplicaConflict: there is no replica.

    """
    info = await read_replica_info(store)
    if info is None:
        raise ReplicaConflict("the replica is gone", detail=settings.url, hint="check the URL")
    newest = await _newest_segment(store)
    adopted = _fresh_state(settings, info.replica, new_writer())
    if newest is not None:
        adopted = msgspec.structs.replace(
            adopted, next_seq=Seq(newest.seq + 1), timeline_number=timeline_number(newest.timeline)
        )
    directory.set_aside(now_ms)
    directory.save(adopted)
    return adopted


async def check_store(store: Store, spool: Spool) -> None:
    """Compare what the store holds with the lineage; one LIST, from the newest segment known to be durable.

    Raises:
        ReplicaConflict: another writer has written, or the store has lost what it had acknowledged.

    """
    waiting = [Seq(item.seq) for item in spool.outbox() if not item.is_base]
    durable = Seq(min([*waiting, spool.state.next_seq]) - 1)
    after = segment_key(durable - 1) if durable else SEGMENTS_PREFIX
    listed = [
        seq
        async for info in store.list(SEGMENTS_PREFIX, start_after=after)
        if (seq := parse_segment_key(info.key)) is not None
    ]
    foreign = check_sequence(listed, durable=durable, outbox=waiting).foreign
    if foreign is not None:
        there = parse_segment_header(await store.get(segment_key(foreign), length=_HEADER_BYTES))
        raise ReplicaConflict(
            "another walrep took this replica over",
            detail=f"segment {foreign} was written by process {there.writer.pid} on "
            f"{there.writer.host or 'an unknown host'}",
            hint="if that one is gone for good, begin a new timeline here with --new-timeline",
        )


async def _newest_segment(store: Store) -> SegmentHeader | None:
    newest = None
    async for info in store.list(SEGMENTS_PREFIX):
        newest = info.key if parse_segment_key(info.key) is not None else newest
    return None if newest is None else parse_segment_header(await store.get(newest, length=_HEADER_BYTES))


async def _create(store: Store, state: LocalState, settings: DatabaseSettings, now_ms: int) -> None:
    info = ReplicaInfo(
        format=REPLICA_FORMAT,
        replica=state.replica,
        database=str(settings.path),
        created_ms=now_ms,
        created_by=state.writer,
        walrep=__version__,
    )
    try:
        await store.put(REPLICA_KEY, msgspec.json.format(msgspec.json.encode(info)) + b"\n", if_absent=True)
    except PreconditionFailed as error:
        there = await read_replica_info(store)
        if there is None or there.created_by.nonce != state.writer.nonce:
            raise ReplicaConflict(
                "another walrep created this replica just now",
                detail=settings.url,
                hint="two databases cannot share a replica URL",
            ) from error


def _fresh_state(settings: DatabaseSettings, replica: str, writer: Writer) -> LocalState:
    return LocalState(format=STATE_FORMAT, replica=replica, url=settings.url, writer=writer)
