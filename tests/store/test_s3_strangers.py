"""What answers in the place of a store (a proxy, a portal, a page for maintenance) is not believed."""

from __future__ import annotations

import pytest

from tests.store.buckets import OwningStore
from tests.store.scripted import USES, Answer, Request, content, error_of, in_order, refusal, scripted
from walrep.errors import StoreError, StoreUnavailable
from walrep.store.observe import ObservedStore, RequestCounter

REDIRECTS = {301: StoreError, 302: StoreUnavailable, 303: StoreUnavailable, 307: StoreUnavailable, 308: StoreError}
PAGE = b"<!doctype html><html><head><title>Please log in</title><br></head></html>"


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("body", [b"", PAGE], ids=["empty", "page"])
async def test_a_redirect_is_an_error_and_is_not_followed(verb: str, status: int, body: bytes) -> None:
    """Followed, a PUT would end on the login page of a proxy as a GET, whose 200 would count as stored."""

    def redirect(request: Request) -> Answer:
        if request.path == "/login":
            return content(PAGE)
        return Answer(status, body, {"Location": f"{server.endpoint}/login?token=private"})

    async with scripted(redirect) as server:
        store = server.store()
        with pytest.raises(StoreError, match=f"to {server.endpoint}/login") as caught:
            await USES[verb](store)
        await store.aclose()
    assert type(caught.value) is REDIRECTS[status]
    assert "endpoint" in caught.value.hint
    assert "private" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (307, "TemporaryRedirect")])
async def test_a_bucket_of_another_region_is_an_error_that_says_which_also_with_a_location(
    verb: str, status: int, code: str
) -> None:
    answer = refusal(status, code, location="http://elsewhere.example/", x_amz_bucket_region="eu-central-1")
    error = await error_of(USES[verb], answer)
    assert (type(error), error.hint) == (StoreError, "say region=eu-central-1")


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (307, "TemporaryRedirect")])
async def test_a_bucket_elsewhere_that_does_not_say_where_is_an_error_with_what_to_say(status: int, code: str) -> None:
    error = await error_of(USES["put"], refusal(status, code))
    assert (type(error), "region=" in error.hint, "endpoint=" in error.hint) == (StoreError, True, True)


HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize("verb", USES)
@pytest.mark.parametrize("body", [PAGE, b"<html><body>well-formed</body></html>"], ids=["broken", "well-formed"])
async def test_a_page_for_people_is_no_answer_of_a_store(verb: str, body: bytes) -> None:
    """Of one that is no XML, the client makes an answer with the status 500."""
    error = await error_of(USES[verb], Answer(body=body, headers=HTML))
    assert type(error) is StoreUnavailable
    assert "not an S3 store" in str(error) or "500" in str(error)
    assert PAGE.decode() not in str(error)


@pytest.mark.parametrize("verb", ["put", "get", "head", "list"])
async def test_an_empty_answer_is_none_of_a_store(verb: str) -> None:
    error = await error_of(USES[verb], Answer())
    assert (type(error), "not an S3 store" in str(error)) == (StoreUnavailable, True)


async def test_a_page_in_the_place_of_a_single_delete_is_no_answer_of_a_store() -> None:
    error = await error_of(lambda store: store.delete(["a"]), Answer(body=PAGE, headers=HTML))
    assert type(error) is StoreUnavailable


@pytest.mark.parametrize("answer", [Answer(), Answer(body=PAGE, headers=HTML)], ids=["empty", "page"])
async def test_what_no_store_has_acknowledged_is_not_counted_as_stored(answer: Answer) -> None:
    async with scripted(in_order(answer)) as server:
        counter = RequestCounter()
        store = ObservedStore(OwningStore(server.url(), counter=counter), counter=counter)
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"12345", if_absent=True)
        await store.aclose()
    assert (counter.counts.put, counter.counts.bytes_up, counter.counts.errors) == (1, 0, 1)
