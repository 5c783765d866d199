"""Take up a replica: its object, the local state, and one listing of what is there; and who else writes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from walrep import __version__
from walrep.clock import Clock
from walrep.core.census import listing_lags
from walrep.core.lineage import (
    Claim,
    Rivalry,
    conflict_with,
    judge_rival,
    plan_claim,
    refuse_active_writer,
    refuse_lost,
    unknown_names,
)
from walrep.core.names import (
    PACKS_PREFIX,
    PRUNED_PREFIX,
    REPLICA_KEY,
    SEGMENTS_PREFIX,
    SegmentName,
    parse_pack_key,
    parse_segment_name,
    segment_key,
)
from walrep.core.objects import REPLICA_FORMAT, ReplicaInfo, SegmentHeader, StoreFacts, Writer
from walrep.core.prunings import decode_record
from walrep.core.state import STATE_FORMAT, LocalState
from walrep.core.units import Seq, timeline_nonce, timeline_number
from walrep.disk.peek import parse_segment_header
from walrep.disk.state import StateDirectory
from walrep.engine.prove import prove_create_only, prove_store
from walrep.engine.settings import DatabaseSettings
from walrep.errors import CorruptObject, ObjectNotFound, PreconditionFailed, ReplicaConflict
from walrep.store.base import Store

__all__ = ["ReplicaClaim", "check_store", "find_rivals", "read_replica_info", "refuse_copies"]

T = TypeVar("T")

_HEADER_BYTES = 64 << 10
_LISTS_MAX = 3


async def read_replica_info(store: Store) -> ReplicaInfo | None:
    """Return the replica object, None if there is none; raises `CorruptObject`."""
    data = await _read(store)
    return None if data is None else _parse(data)


class ReplicaClaim:
    """Takes up the replica of one database."""

    def __init__(
        self,
        store: Store,
        settings: DatabaseSettings,
        *,
        clock: Clock,
        new_writer: Callable[[], Writer],
        on_worker: Callable[[Callable[[], LocalState | None]], Awaitable[LocalState | None]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._new_writer = new_writer
        self._on_worker = on_worker

    async def take(self, directory: StateDirectory) -> tuple[LocalState, StoreFacts | None]:
        """Return the state with which this writer may write, creating replica or state or both.

        The facts are those that were found now; None where nothing but the old ones was proved again.

        Raises:
            ReplicaConflict: it may not write here.

        """
        settings, store = self._settings, self._store
        state = await self._on_worker(directory.load)
        data = await _read(store)
        info = None if data is None else _parse(data)
        claim = plan_claim(state, info, url=str(settings.url), may_adopt=settings.new_timeline or settings.take_over)
        if claim is Claim.CONTINUE and state is not None:
            kept = msgspec.structs.replace(self._new_writer(), nonce=state.writer.nonce)
            creates_only = await self.confirm(state)
            return msgspec.structs.replace(state, writer=kept, url=str(settings.url), creates_only=creates_only), None
        if claim is Claim.ADOPT:
            return await self.adopt(directory)
        writer = self._new_writer()
        begun = state if state is not None and state.next_seq == 1 else self._fresh(writer.nonce, writer)
        if begun is not state:
            await self._on_worker(partial(directory.set_aside, self._clock.now_ms()))
        facts = await prove_store(store, self._clock, writer.nonce)
        begun = msgspec.structs.replace(begun, creates_only=facts.creates_only)
        # The state first: whoever finds the replica's object with this nonce knows that it is its own.
        await self._on_worker(partial(directory.save, begun))
        await self._create(begun, facts)
        return begun, facts

    async def confirm(self, state: LocalState) -> bool:
        """Make sure that the replica is the one of this state; return whether the store refuses to overwrite, still.

        One GET, and one PUT that must be refused.

        Raises:
            ReplicaConflict: it is another replica, or none.

        """
        data = await _read(self._store)
        plan_claim(state, None if data is None else _parse(data), url=str(self._settings.url), may_adopt=False)
        return state.creates_only and data is not None and await prove_create_only(self._store, REPLICA_KEY, data)

    async def adopt(self, directory: StateDirectory) -> tuple[LocalState, StoreFacts]:
        """Return a state without lineage, with which a new timeline can begin behind the newest segment that is there.

        What the state directory holds of another lineage is set aside in it. The first segment will be a fence, which
        the writer before meets at its next PUT (INV-19). One LIST of all segments.

        Raises:
            ReplicaConflict: there is no replica, or, without `take_over`, its writer was at work a moment ago.

        """
        info = await read_replica_info(self._store)
        if info is None:
            raise ReplicaConflict("the replica is gone", detail=str(self._settings.url), hint="check the URL")
        state, now_ms = await self._on_worker(directory.load), self._clock.now_ms()
        writer = self._new_writer()
        facts = await prove_store(self._store, self._clock, writer.nonce)
        adopted = msgspec.structs.replace(
            self._fresh(info.replica, writer), fence=True, creates_only=facts.creates_only
        )
        newest = await _newest_segments(self._store)
        if newest:
            last = max(newest, key=lambda each: each.created_ms)
            if not self._settings.take_over:
                refuse_active_writer(last, own_nonce=state.writer.nonce if state else "", now_ms=now_ms)
            seq = Seq(max(each.seq for each in newest) + 1)
            number = max(timeline_number(each.timeline) for each in newest)
            adopted = msgspec.structs.replace(adopted, first_seq=seq, next_seq=seq, timeline_number=number)
        await self._on_worker(partial(directory.set_aside, now_ms))
        await self._on_worker(partial(directory.save, adopted))
        return adopted, facts

    async def _create(self, state: LocalState, facts: StoreFacts) -> None:
        info = ReplicaInfo(
            format=REPLICA_FORMAT,
            replica=state.replica,
            database=str(self._settings.path),
            created_ms=self._clock.now_ms(),
            created_by=state.writer,
            walrep=__version__,
            store=facts,
        )
        data = msgspec.json.format(msgspec.json.encode(info)) + b"\n"
        with suppress(PreconditionFailed):
            await self._store.put(REPLICA_KEY, data, if_absent=facts.creates_only)
        there = await read_replica_info(self._store)
        if there is None or there.created_by.nonce != state.writer.nonce:
            raise ReplicaConflict(
                "another walrep created this replica just now",
                detail=str(self._settings.url),
                hint="two databases cannot share a replica URL",
            )

    def _fresh(self, replica: str, writer: Writer) -> LocalState:
        return LocalState(format=STATE_FORMAT, replica=replica, url=str(self._settings.url), writer=writer)


async def check_store(store: Store, state: LocalState, waiting: list[SegmentHeader]) -> list[SegmentHeader]:
    """Compare what the store holds with the lineage; one LIST, from the newest segment known to be durable.

    What waits and is there was stored and its acknowledgement lost, or it is another's, which only its header tells. A
    segment of another writer that is packed and deleted while it is looked at is found gone by the next LIST.

    `waiting` are the segments in the outbox. Return a segment of each writer that was shut out and went on, as a store
    without create-only PUT allows.

    Raises:
        ReplicaConflict: another writer has taken over, or the store has lost what it had acknowledged.
        StoreUnavailable: the store lists less than it has.

    """
    return await _with_fresh_listing(partial(_check_store, store, state, waiting))


async def _check_store(store: Store, state: LocalState, waiting: list[SegmentHeader]) -> list[SegmentHeader]:
    durable = Seq(min([*(each.seq for each in waiting), state.next_seq]) - 1)
    if durable < state.first_seq:
        durable = Seq(0)
    listed = [name async for name in _names_after(store, max(durable, state.first_seq) - 1)]
    ours, replaced = SegmentName(durable, state.segment_nonce()), False
    if durable and ours not in listed:
        if await _is_there(store, ours):
            raise listing_lags(segment_key(durable, ours.nonce))
        # One behind it may be stored without our knowing. Then it is not the newest, and may be packed. INV-24
        stored_unknown = any(SegmentName(each.seq, ours.nonce) in listed for each in waiting)
        replaced = stored_unknown and await _is_accounted_for(store, ours)
    refuse_lost(listed, ours, replaced=replaced)
    await _refuse_unknown(store, unknown_names(listed, after=ours, creates_only=state.creates_only), waiting)
    # A rival's first segment may have a lower number than the newest of this one's.
    return [] if state.creates_only else await _judge(store, state)


async def refuse_copies(store: Store, state: LocalState, after: Seq, waiting: list[SegmentHeader]) -> None:
    """Make sure that nobody writes under the names of this writer's next segments, behind number `after`; one LIST.

    Raises:
        ReplicaConflict: somebody does, such as a copy of this state on another host.

    """

    async def look() -> None:
        listed = [name async for name in _names_after(store, after)]
        ours = SegmentName(after, state.segment_nonce())
        await _refuse_unknown(store, unknown_names(listed, after=ours, creates_only=state.creates_only), waiting)

    await _with_fresh_listing(look)


async def _refuse_unknown(store: Store, names: list[SegmentName], waiting: list[SegmentHeader]) -> None:
    for name in names:
        there = await _header(store, name)
        if there not in waiting:
            raise conflict_with(there)


async def find_rivals(store: Store, state: LocalState, after: Seq) -> list[SegmentHeader]:
    """Look for segments of other writers behind number `after`; one LIST, and another if there are any.

    Return one of each writer that was shut out and went on.

    Raises:
        ReplicaConflict: another writer has taken over.

    """
    foreign = [name async for name in _names_after(store, after) if name.nonce != state.segment_nonce()]
    return await _with_fresh_listing(partial(_judge, store, state)) if foreign else []


async def _with_fresh_listing(look: Callable[[], Awaitable[T]]) -> T:
    """Look again where an object that was listed is gone: its writer has packed it, and deleted it."""
    for _attempt in range(1, _LISTS_MAX):
        with suppress(ObjectNotFound):
            return await look()
    return await look()


async def _judge(store: Store, state: LocalState) -> list[SegmentHeader]:
    """Compare the first segments of all writers since this one's own first; one LIST of all that."""
    lowest: dict[str, SegmentName] = {}
    async for name in _names_after(store, state.first_seq - 1):
        if name.nonce != state.segment_nonce():
            lowest.setdefault(name.nonce, name)
    shut_out = []
    for name in lowest.values():
        header = await _header(store, name)
        if judge_rival(header, first_seq=state.first_seq, nonce=state.writer.nonce) is Rivalry.YIELD:
            raise conflict_with(header)
        shut_out.append(header)
    return shut_out


async def _names_after(store: Store, seq: int) -> AsyncIterator[SegmentName]:
    """Yield the names of segments with a number above `seq`."""
    async for info in store.list(SEGMENTS_PREFIX, start_after=segment_key(seq) if seq > 0 else ""):
        name = parse_segment_name(info.key)
        if name is not None and name.seq > seq:
            yield name


async def _is_there(store: Store, name: SegmentName) -> bool:
    try:
        await store.head(segment_key(name.seq, name.nonce))
    except ObjectNotFound:
        return False
    return True


async def _is_accounted_for(store: Store, name: SegmentName) -> bool:
    """Say whether a pack holds a segment, or retention has deleted it."""
    async for info in store.list(PACKS_PREFIX):
        pack = parse_pack_key(info.key)
        is_own = pack is not None and name.nonce.startswith(timeline_nonce(pack.timeline) if name.nonce else "")
        if pack is not None and is_own and pack.first_seq <= name.seq <= pack.last_seq:
            return True
    records = [decode_record(await store.get(info.key)) async for info in store.list(PRUNED_PREFIX)]
    return any(first <= name.seq <= last for record in records for first, last in record.gone)


async def _header(store: Store, name: SegmentName) -> SegmentHeader:
    return parse_segment_header(await store.get(segment_key(name.seq, name.nonce), length=_HEADER_BYTES))


async def _newest_segments(store: Store) -> list[SegmentHeader]:
    """Return the newest segment of each writer that its keys tell apart; one LIST of all segments."""
    newest: dict[str, SegmentName] = {}
    async for name in _names_after(store, 0):
        newest[name.nonce] = name
    return [await _header(store, name) for name in newest.values()]


async def _read(store: Store) -> bytes | None:
    try:
        return await store.get(REPLICA_KEY)
    except ObjectNotFound:
        return None


def _parse(data: bytes) -> ReplicaInfo:
    try:
        return msgspec.json.decode(data, type=ReplicaInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject("malformed replica object", offset=0, detail=str(error)) from error
