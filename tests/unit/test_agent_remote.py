import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.credentials import CredentialStore
from agent.errors import LocalError
from agent.remote import Api, open_api
from agent.remote.limited import RateLimit
from libs.contracts.api import CompleteItem, UploadBatchItem
from libs.contracts.cursor import Cursor
from libs.contracts.errors import (
    ConflictError,
    LockstepError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)
from libs.contracts.tree import CommitTarget, Delete, Move
from tests.support.agent_api import (
    DEVICE,
    NAMESPACE,
    NODE,
    UPLOAD,
    VERSION,
    link,
    linked_api,
    quick_settings,
    row,
    tokens,
    upload,
)
from tests.support.scripted import ScriptedServer, problem, resets, says, scripted, stalls
from tests.support.self_signed import self_signed
from tests.support.waiting import eventually

USAGE = {"used_bytes": 1, "reserved_bytes": 2, "quota_bytes": None, "files": 3}
TARGET = CommitTarget(parent_id=NAMESPACE, name="a.txt")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with linked_api(server, tmp_path) as opened:
        yield opened


# Requests ---------------------------------------------------------------------------------------


async def test_a_call_carries_token_and_request_id_and_its_bytes_are_counted(
    server: ScriptedServer, api: Api
) -> None:
    server.on("GET", "/v1/usage", says(USAGE))

    assert (await api.usage()).files == 3
    (seen,) = server.seen
    assert seen.headers["Authorization"] == "Bearer access-1"
    assert re.fullmatch("[0-9a-f]{24}", seen.headers["X-Request-ID"])
    assert api.api_bytes == len(json.dumps(USAGE))


async def test_operations_are_written_with_their_names_and_without_what_is_absent(
    server: ScriptedServer, api: Api
) -> None:
    server.on(
        "POST",
        "/v1/files/batch",
        says({"items": [{"index": 0, "row": row()}, {"index": 1, "code": "cycle"}]}),
    )
    move = Move(node_id=NODE, expect_parent_id=NAMESPACE, expect_name="a", parent_id=NAMESPACE, name="b")

    results = await api.tree_batch([Delete(node_id=NODE, version_id=VERSION), move])

    assert [result.ok for result in results] == [True, False]
    first, second = server.seen[0].json["ops"]
    assert first == {"op": "delete", "node_id": NODE, "version_id": VERSION}
    assert second["op"] == "move"


async def test_a_password_is_sent_as_it_is(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("POST", "/v1/auth/login", says(tokens()))
    async with open_api(quick_settings(tmp_path), server=server.url) as api:
        await api.login("a@example.org", "pass word", "A")

    (seen,) = server.seen
    assert seen.json == {"email": "a@example.org", "password": "pass word", "device_name": "A"}
    assert "Authorization" not in seen.headers


async def test_the_head_is_asked_for_without_rows(server: ScriptedServer, api: Api) -> None:
    cursor = Cursor(1, {NAMESPACE: 42}).encode()
    server.on("GET", "/v1/sync", says({"items": [], "cursor": cursor, "has_more": False, "epoch": 1}))

    assert await api.head_seq() == 42
    assert server.seen[0].query["changed_since"] > "9"


async def test_pages_are_walked_to_their_end(server: ScriptedServer, api: Api) -> None:
    server.on(
        "GET",
        "/v1/files",
        says({"items": [row(name="a")], "next_cursor": "next"}),
        says({"items": [row(name="b")]}),
    )

    assert [child.name async for child in api.children(NAMESPACE)] == ["a", "b"]
    assert [seen.query.get("cursor") for seen in server.seen] == [None, "next"]


# Errors -----------------------------------------------------------------------------------------


async def test_a_problem_becomes_the_error_of_its_code_with_what_it_says_beside(
    server: ScriptedServer, api: Api
) -> None:
    server.on("GET", f"/v1/files/{NODE}", problem("version_conflict", current=row(), missing=[1, 2]))

    with pytest.raises(ConflictError) as caught:
        await api.node(NODE)
    assert caught.value.code == "version_conflict"
    assert caught.value.extra["current"].id == NODE
    assert caught.value.extra["missing"] == [1, 2]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"<html>", LockstepError),
        (401, b"", UnauthenticatedError),
        (400, b'{"code": "of_a_later_time", "detail": "x"}', LockstepError),
        (500, b"[]", LockstepError),
        (409, b'{"code": 7}', LockstepError),
    ],
)
async def test_answers_that_are_no_known_problem_are_errors_too(
    server: ScriptedServer, api: Api, status: int, body: bytes, kind: type[LockstepError]
) -> None:
    server.on("GET", "/v1/usage", says(body, status))

    with pytest.raises(kind):
        await api.usage()


@pytest.mark.parametrize("body", [b"<html>Please sign in to the hotel</html>", b"{}", b""])
async def test_an_answer_of_something_else_is_not_believed(
    server: ScriptedServer, api: Api, body: bytes
) -> None:
    server.on("GET", "/v1/usage", says(body))

    with pytest.raises(LocalError, match="not_lockstep"):
        await api.usage()


async def test_a_redirect_is_not_followed(server: ScriptedServer, api: Api) -> None:
    server.on("GET", "/v1/usage", says(b"", 302, {"Location": server.url + "/elsewhere"}))

    with pytest.raises(LocalError):
        await api.usage()
    assert not server.calls("/elsewhere")


async def test_a_certificate_that_is_not_trusted_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    async with scripted(self_signed(tmp_path)) as server, linked_api(server, tmp_path / "home") as api:
        with pytest.raises(LocalError, match="tls_invalid"):
            await api.usage()
        assert not server.seen


# Repeats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [problem("unavailable", headers={"Retry-After": "0"}), says(b"", 502), resets]
)
async def test_a_call_that_is_safe_to_repeat_is_repeated(
    server: ScriptedServer, api: Api, trouble: web.Response
) -> None:
    server.on("GET", "/v1/usage", trouble, trouble, says(USAGE))  # type: ignore[arg-type]

    assert (await api.usage()).files == 3
    assert len({seen.headers["X-Request-ID"] for seen in server.seen}) == 1


async def test_a_silent_server_counts_as_away(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET", "/v1/usage", stalls)
    async with linked_api(server, tmp_path, request_timeout=0.1, retry_seconds=1.5) as api:
        with pytest.raises(UnavailableError):
            await api.usage()
    assert len(server.seen) > 1


async def test_a_server_that_was_never_reached_is_given_up_soon(tmp_path: Path) -> None:
    async with scripted() as gone:
        pass
    async with linked_api(gone, tmp_path, retry_seconds=3600) as api:
        with pytest.raises(UnavailableError):
            await api.usage()


async def test_a_server_that_is_asked_too_often_is_given_longer_than_one_that_is_away(
    server: ScriptedServer, tmp_path: Path
) -> None:
    busy = problem("rate_limited", headers={"Retry-After": "0.3"})
    server.on("GET", "/v1/usage", busy, busy, busy, says(USAGE))
    async with linked_api(server, tmp_path, retry_seconds=0.0, rate_limit_seconds=3600) as api:
        assert (await api.usage()).files == 3
    assert len(server.calls("/v1/usage")) == 4


async def test_too_many_sessions_do_not_become_fewer_by_waiting(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("POST", "/v1/uploads/batch", problem("too_many_sessions", headers={"Retry-After": "0.1"}))
    async with linked_api(server, tmp_path, rate_limit_seconds=3600) as api:
        with pytest.raises(RateLimitedError):
            await api.create_upload_batch([UploadBatchItem(content_hash="1" * 64, size=1, path="a")])
    assert len(server.seen) == 1


async def test_the_wait_for_a_server_that_is_asked_too_often_can_be_interrupted(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("GET", "/v1/usage", problem("rate_limited", headers={"Retry-After": "600"}))

    async def called() -> bool:
        return len(server.seen) == 1

    async with linked_api(server, tmp_path, rate_limit_seconds=3600) as api, asyncio.timeout(30):
        call = asyncio.create_task(api.usage())
        await eventually(called, 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(server.seen) == 1


async def test_a_refresh_that_is_refused_for_long_keeps_no_call_waiting(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """The token that is there is good for a few seconds more."""
    server.on("POST", "/v1/auth/refresh", problem("rate_limited", headers={"Retry-After": "600"}))
    server.on("GET", "/v1/usage", says(USAGE))
    settings = quick_settings(tmp_path, rate_limit_seconds=3600)
    link(settings, server.url, expires_at=time.time() + 5)
    async with open_api(settings) as api, asyncio.timeout(30):
        assert (await api.usage()).files == 3


def test_once_a_call_was_refused_to_the_end_the_others_do_not_wait_it_out_too() -> None:
    now = 1000.0
    limit = RateLimit(60.0, lambda: now)
    assert limit.lets_wait(1000.0, 59.0)
    assert not limit.lets_wait(1000.0, 61.0)
    assert not limit.lets_wait(1000.0, 1.0)
    limit.lifted()
    assert limit.lets_wait(1000.0, 1.0)
    assert not limit.lets_wait(930.0, 1.0), "its time is up"
    now = 1061.0
    assert limit.lets_wait(1061.0, 1.0), "that was another time"


async def test_a_pause_longer_than_the_time_left_is_not_waited_out(server: ScriptedServer, api: Api) -> None:
    server.on("GET", "/v1/usage", problem("rate_limited", headers={"Retry-After": "600"}))

    with pytest.raises(RateLimitedError) as caught:
        await api.usage()
    assert caught.value.extra["retry_after"] == 600
    assert len(server.seen) == 1


@pytest.mark.parametrize("trouble", [resets, says(b"", 503)])
async def test_an_account_is_not_created_twice_when_the_answer_is_lost(
    server: ScriptedServer, tmp_path: Path, trouble: web.Response
) -> None:
    server.on("POST", "/v1/auth/register", trouble)  # type: ignore[arg-type]
    async with open_api(quick_settings(tmp_path), server=server.url) as api:
        with pytest.raises(UnavailableError):
            await api.register("a@example.org", "password", "A")
    assert len(server.seen) == 1


# Tokens -----------------------------------------------------------------------------------------


async def test_an_expired_token_is_refreshed_once_and_the_call_repeated(
    server: ScriptedServer, api: Api, tmp_path: Path
) -> None:
    durable: list[str] = []

    async def usage(request: web.Request) -> web.StreamResponse:
        stored = CredentialStore(quick_settings(tmp_path)).require()
        durable.append(stored.access_token)
        if request.headers["Authorization"] == "Bearer access-1":
            return await problem("token_expired")(request)
        return await says(USAGE)(request)

    server.on("GET", "/v1/usage", usage)
    server.on("POST", "/v1/auth/refresh", says(tokens()))

    replies = await asyncio.gather(*(api.usage() for _ in range(5)))

    assert len(replies) == 5
    assert len(server.calls("/v1/auth/refresh")) == 1
    assert server.calls("/v1/auth/refresh")[0].json == {"refresh_token": "refresh-1"}
    used = [seen.headers["Authorization"] for seen in server.calls("/v1/usage")]
    for token, stored in zip(used, durable, strict=True):
        assert token == "Bearer access-1" or stored == "access-2", "used before it was durable"


async def test_of_two_processes_that_refresh_at_once_only_one_asks(
    server: ScriptedServer, tmp_path: Path
) -> None:
    settings = quick_settings(tmp_path)
    link(settings, server.url, expires_at=time.time() - 1)
    server.on("POST", "/v1/auth/refresh", says(tokens()), problem("refresh_reused"))
    server.on("GET", "/v1/usage", says(USAGE))

    async with open_api(settings) as one, open_api(settings) as other:
        await asyncio.gather(one.usage(), other.usage())

    assert len(server.calls("/v1/auth/refresh")) == 1
    assert {seen.headers["Authorization"] for seen in server.calls("/v1/usage")} == {"Bearer access-2"}


async def test_a_lost_answer_to_a_refresh_is_asked_for_again_with_the_same_token(
    server: ScriptedServer, api: Api
) -> None:
    server.on("GET", "/v1/usage", problem("token_expired"), says(USAGE))
    server.on("POST", "/v1/auth/refresh", resets, says(tokens()))

    await api.usage()

    assert [seen.json["refresh_token"] for seen in server.calls("/v1/auth/refresh")] == [
        "refresh-1",
        "refresh-1",
    ]


@pytest.mark.parametrize("code", ["device_revoked", "unauthenticated"])
async def test_a_device_that_is_not_let_in_is_told_so_and_its_credentials_stay(
    server: ScriptedServer, api: Api, tmp_path: Path, code: str
) -> None:
    server.on("GET", "/v1/usage", problem(code))

    with pytest.raises(UnauthenticatedError) as caught:
        await api.usage()
    assert caught.value.code == code
    assert len(server.seen) == 1
    assert CredentialStore(quick_settings(tmp_path)).load() is not None


async def test_a_refused_refresh_ends_it(server: ScriptedServer, api: Api) -> None:
    server.on("GET", "/v1/usage", problem("token_expired"))
    server.on("POST", "/v1/auth/refresh", problem("refresh_invalid"))

    with pytest.raises(UnauthenticatedError, match="refresh_invalid"):
        await api.usage()


async def test_a_process_never_goes_on_in_the_name_of_another_account(
    server: ScriptedServer, api: Api, tmp_path: Path
) -> None:
    server.on("GET", "/v1/usage", problem("token_expired"), says(USAGE))
    link(quick_settings(tmp_path), server.url, device_id="d" * 24, access_token="of another")

    with pytest.raises(LocalError, match="not_signed_in"):
        await api.usage()
    assert not server.calls("/v1/auth/refresh")


async def test_signing_out_in_another_process_is_not_undone_by_a_refresh(
    server: ScriptedServer, api: Api, tmp_path: Path
) -> None:
    server.on("GET", "/v1/usage", problem("token_expired"))
    store = CredentialStore(quick_settings(tmp_path))
    store.remove()

    with pytest.raises(LocalError, match="not_signed_in"):
        await api.usage()
    assert store.load() is None


# Completing -------------------------------------------------------------------------------------


def _entry(result: dict[str, object] | None) -> dict[str, object]:
    return {"index": 0, "mode": "put", "content_hash": "0" * 64, "size": 1, "result": result}


async def test_a_commit_under_way_is_waited_for(server: ScriptedServer, api: Api) -> None:
    path = f"/v1/uploads/{UPLOAD}"
    server.on("POST", f"{path}/complete", says({"upload_id": UPLOAD, "state": "committing"}, 202))
    done = upload([_entry({"index": 0, "row": row()})], state="committed")
    server.on(
        "GET",
        path,
        says(upload([_entry(None)], state="completing")),
        says(upload([_entry(None)], state="committing")),
        says(done),
    )

    assert (await api.complete_upload(UPLOAD, TARGET)).id == NODE


async def test_a_commit_refused_while_waiting_raises_its_code(server: ScriptedServer, api: Api) -> None:
    path = f"/v1/uploads/{UPLOAD}"
    refused = {"index": 0, "code": "version_conflict", "detail": "newer", "current": row()}
    server.on("POST", f"{path}/complete", says({"upload_id": UPLOAD, "state": "committing"}, 202))
    server.on("GET", path, says(upload([_entry(refused)], state="open")))

    with pytest.raises(ConflictError, match="version_conflict") as caught:
        await api.complete_upload(UPLOAD, TARGET)
    assert caught.value.extra["current"].id == NODE


async def test_a_session_that_fails_for_good_is_an_error(server: ScriptedServer, api: Api) -> None:
    path = f"/v1/uploads/{UPLOAD}"
    server.on("POST", f"{path}/complete", says({"upload_id": UPLOAD, "state": "completing"}, 202))
    server.on("GET", path, says(upload([_entry(None)], state="failed", code="not_found", detail="gone")))

    with pytest.raises(NotFoundError, match="gone"):
        await api.complete_upload(UPLOAD, TARGET)


async def test_a_commit_that_takes_for_ever_is_left_to_the_server(
    server: ScriptedServer, tmp_path: Path
) -> None:
    path = f"/v1/uploads/{UPLOAD}"
    server.on("POST", f"{path}/complete", says({"upload_id": UPLOAD, "state": "committing"}, 202))
    server.on("GET", path, says(upload([_entry(None)], state="committing")))
    async with linked_api(server, tmp_path, commit_wait_seconds=0.2) as api:
        with pytest.raises(UnavailableError):
            await api.complete_upload(UPLOAD, TARGET)


async def test_a_batch_has_one_result_for_each_item_asked(server: ScriptedServer, api: Api) -> None:
    reply = {
        "upload_id": UPLOAD,
        "state": "committed",
        "results": [{"index": 2, "row": row()}, {"index": 0, "code": "name_taken"}],
    }
    server.on("POST", f"/v1/uploads/{UPLOAD}/complete-batch", resets, says(reply))
    items = [CompleteItem(index=index, **TARGET.model_dump()) for index in (0, 2)]

    results = await api.complete_upload_batch(UPLOAD, items)

    assert [(result.index, result.code) for result in results] == [(0, "name_taken"), (2, None)]


async def test_signing_in_goes_to_the_named_server_and_to_no_insecure_one(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="insecure_server"):
        async with open_api(quick_settings(tmp_path), server="http://example.org"):
            pass
    with pytest.raises(LocalError, match="not_signed_in"):
        async with open_api(quick_settings(tmp_path)):
            pass


async def test_the_linked_device_is_known(api: Api) -> None:
    assert api.credentials.device_id == DEVICE
