from __future__ import annotations

from typing import Any

from benchmarks.compare.counts import Kind, Request, count, requests_below, trace_objects
from benchmarks.compare.wire import Operation


def request(at_s: float, operation: Operation, key: str, **rest: Any) -> Request:  # noqa: ANN401 - fields of Request
    return Request(**{"began_s": at_s, "ended_s": at_s + 0.5, "operation": operation, "key": key, "status": 200} | rest)


def kind_of(key: str) -> str:
    return key.split("/")[1]


def test_an_object_lives_from_its_put_to_its_deletion() -> None:
    objects = trace_objects(
        [
            request(1, "put", "r/a/1", stored_bytes=10),
            request(2, "put", "r/a/2", stored_bytes=20),
            request(3, "delete", "r/a/1", status=204),
            request(4, "delete", "r/a/unknown", status=204),
        ]
    )
    assert [(each.key, each.size_bytes, each.stored_s, each.deleted_s) for each in objects] == [
        ("r/a/1", 10, 1.5, 3.5),
        ("r/a/2", 20, 2.5, None),
    ]


def test_what_the_server_refused_has_not_happened() -> None:
    assert trace_objects([request(1, "put", "r/a/1", status=412)]) == []
    lives = [request(1, "put", "r/a/1"), request(2, "delete", "r/a/1", status=500)]
    assert trace_objects(lives)[0].deleted_s is None


def test_an_object_that_is_overwritten_is_made_twice_and_lives_once() -> None:
    counted = count([request(1, "put", "r/a/1"), request(2, "put", "r/a/1")], kind_of)
    assert (counted.created, counted.deleted, counted.live) == (2, 1, 1)


def test_an_upload_in_parts_is_one_object_when_it_is_finished() -> None:
    parts = [
        request(1, "begin-parts", "r/a/1"),
        request(2, "put-part", "r/a/1", upload="U", part=1, stored_bytes=100),
        request(3, "put-part", "r/a/1", upload="U", part=2, stored_bytes=50),
        # A part that is sent again replaces the one before.
        request(4, "put-part", "r/a/1", upload="U", part=2, stored_bytes=60),
    ]
    assert trace_objects(parts) == []
    finished = [*parts, request(5, "finish-parts", "r/a/1", upload="U")]
    assert [each.size_bytes for each in trace_objects(finished)] == [160]
    assert count(finished, kind_of).requests == {"PUT": 5}


def test_a_deletion_of_many_deletes_each() -> None:
    puts = [request(1, "put", f"r/a/{number}") for number in range(3)]
    counted = count([*puts, request(2, "delete-many", "", deleted=("r/a/0", "r/a/2"))], kind_of)
    assert (counted.deleted, counted.live, counted.requests) == (2, 1, {"DELETE": 1, "PUT": 3})


def test_a_window_counts_what_began_in_it_and_what_lives_at_its_end() -> None:
    requests = [
        request(1, "put", "r/base/1", stored_bytes=1000, up_bytes=1000),
        request(11, "put", "r/log/1", stored_bytes=10, up_bytes=12),
        request(12, "get", "r/base/1", down_bytes=1000),
        request(13, "head", "r/base/2", status=404),
        request(21, "put", "r/log/2", stored_bytes=10, up_bytes=12),
    ]
    counted = count(requests, kind_of, from_s=10, until_s=20)
    assert counted.requests == {"GET": 1, "HEAD": 1, "PUT": 1}
    assert (counted.up_bytes, counted.down_bytes, counted.failed) == (12, 1000, 1)
    assert (counted.created, counted.live, counted.live_bytes) == (1, 2, 1010)
    assert counted.kinds == {
        "base": Kind(live=1, live_bytes=1000),
        "log": Kind(created=1, bytes=10, live=1, live_bytes=10),
    }


def test_requests_belong_to_a_run_by_their_key_their_prefix_or_what_they_delete() -> None:
    own = [request(1, "put", "r/0/1"), request(2, "list", "r/0"), request(3, "delete-many", "", deleted=("r/0/1",))]
    others = [request(1, "put", "r2/0/1"), request(2, "list", ""), request(3, "other", "")]
    assert requests_below([*own, *others], "r/") == own
