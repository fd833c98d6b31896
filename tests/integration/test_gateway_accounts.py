"""Accounts and devices on the running stack."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.contracts.api import Tokens
from libs.contracts.ids import new_id
from tests.support.gateway_client import PASSWORD, Api, new_email, open_api
from tests.support.stack import Stack
from tests.support.waiting import eventually


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with open_api(stack.gateway_url) as api:
        yield api


def credentials(email: str, password: str = PASSWORD, device: str = "laptop") -> dict[str, str]:
    return {"email": email, "password": password, "device_name": device}


async def refused_within_seconds(api: Api, path: str) -> None:
    async def refused() -> bool:
        return (await api.call("GET", path)).status == 401

    await eventually(refused, 15)
    assert (await api.call("GET", path)).code in {"device_revoked", "unauthenticated"}


async def test_registering_links_the_first_device_and_makes_the_root_namespace(api: Api) -> None:
    tokens = await api.register(device="laptop")
    mine = api.of(tokens)
    assert tokens.device_name == "laptop"
    assert tokens.expires_in > 0
    listing = await mine.call("GET", f"/v1/files?parent={tokens.namespace_id}")
    assert (listing.status, listing.body["items"]) == (200, [])
    (device,) = (await mine.call("GET", "/v1/devices")).body["items"]
    assert (device["id"], device["current"], device["revoked"]) == (tokens.device_id, True, False)


async def test_an_email_names_one_account_whatever_its_case(api: Api) -> None:
    email = new_email()
    await api.register(email)
    reply = await api.call("POST", "/v1/auth/register", credentials(f"  {email.upper()} "))
    assert (reply.status, reply.code) == (409, "email_taken")
    assert (await api.call("POST", "/v1/auth/login", credentials(email.upper()))).status == 200


async def test_two_registrations_of_one_email_at_once_make_one_account(api: Api) -> None:
    email = new_email()
    replies = await asyncio.gather(
        *(api.call("POST", "/v1/auth/register", credentials(email, f"password {n}")) for n in range(4))
    )
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (credentials("x@example.org", "short"), "weak_password"),
        (credentials("x@example.org", "x" * 1025), "weak_password"),
        (credentials("x@example.org", device="a/b"), "invalid_name"),
        (credentials("x@example.org", device="ü" * 21), "invalid_name"),
        (credentials("no email"), "invalid_request"),
        (credentials("x@example.org", device=""), "invalid_request"),
        ({**credentials("x@example.org"), "admin": True}, "invalid_request"),
        ({"email": "x@example.org"}, "invalid_request"),
        (["a list"], "invalid_request"),
        (b"{no json", "invalid_request"),
        (b"\xff\xfe", "invalid_request"),
        (b"", "invalid_request"),
    ],
)
async def test_what_cannot_be_registered_is_a_400_with_a_code(api: Api, body: object, code: str) -> None:
    reply = await api.call("POST", "/v1/auth/register", body)
    assert (reply.status, reply.code) == (400, code)


async def test_problems_never_repeat_a_password(api: Api) -> None:
    reply = await api.call(
        "POST", "/v1/auth/register", {**credentials("no email"), "password": ["s3cr3t-list"]}
    )
    assert reply.code == "invalid_request"
    assert "s3cr3t" not in str(reply.body)


@pytest.mark.parametrize("known", [True, False])
async def test_a_wrong_password_and_an_unknown_email_get_the_same_answer(api: Api, known: bool) -> None:
    email = new_email()
    if known:
        await api.register(email)
    reply = await api.call("POST", "/v1/auth/login", credentials(email, "wrong password"))
    assert (reply.status, reply.code) == (401, "invalid_credentials")
    assert reply.body["detail"] == "Email or password is wrong"


async def test_device_names_are_made_unique_in_the_account_even_when_linked_at_once(api: Api) -> None:
    email = new_email()
    await api.register(email, "Laptop")
    linked = await asyncio.gather(*(api.login(email, "laptop") for _ in range(3)))
    assert sorted(tokens.device_name for tokens in linked) == ["laptop 2", "laptop 3", "laptop 4"]
    assert (await api.register(device="laptop")).device_name == "laptop"


async def test_the_name_of_a_device_that_signed_out_is_free_again(api: Api) -> None:
    email = new_email()
    tokens = await api.register(email, "laptop")
    assert (await api.of(tokens).call("POST", "/v1/auth/logout")).status == 204
    assert (await api.login(email, "laptop")).device_name == "laptop"


@pytest.mark.parametrize("token", [None, "", "garbage", "a.b.c"])
async def test_without_a_valid_token_there_is_a_401_problem(api: Api, token: str | None) -> None:
    reply = await Api(api.session, api.url, token).call("GET", "/v1/devices")
    assert (reply.status, reply.code) == (401, "unauthenticated")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


# Refresh -----------------------------------------------------------------------------------


async def test_a_refresh_rotates_and_the_previous_token_works_until_its_successor_was_used(api: Api) -> None:
    first = await api.register()
    second = Tokens.model_validate((await api.refresh(first.refresh_token)).body)
    assert second.refresh_token != first.refresh_token
    assert (await api.of(second).call("GET", "/v1/devices")).status == 200
    lost_answer = await api.refresh(first.refresh_token)
    assert lost_answer.status == 200


async def test_an_old_refresh_token_is_reuse_and_revokes_the_device(api: Api) -> None:
    first = await api.register()
    second = Tokens.model_validate((await api.refresh(first.refresh_token)).body)
    third = Tokens.model_validate((await api.refresh(second.refresh_token)).body)
    reply = await api.refresh(first.refresh_token)
    assert (reply.status, reply.code) == (401, "refresh_reused")
    assert (await api.refresh(third.refresh_token)).code == "device_revoked"
    assert (await api.of(third).call("GET", "/v1/devices")).code == "device_revoked"


async def test_refreshes_at_once_all_succeed_and_do_not_revoke(api: Api) -> None:
    first = await api.register()
    replies = await asyncio.gather(*(api.refresh(first.refresh_token) for _ in range(4)))
    assert [reply.status for reply in replies] == [200] * 4
    newest = Tokens.model_validate(replies[0].body)
    assert (await api.refresh(newest.refresh_token)).status == 200


@pytest.mark.parametrize("token", ["", "x", f"lockstep_rt_{'0' * 24}_{'A' * 43}{'0' * 16}"])
async def test_a_made_up_refresh_token_is_invalid(api: Api, token: str) -> None:
    reply = await api.refresh(token)
    assert (reply.status, reply.code) == (401, "refresh_invalid")


async def test_a_made_up_token_of_a_known_device_does_not_revoke_it(api: Api) -> None:
    tokens = await api.register()
    made_up = f"lockstep_rt_{tokens.device_id}_{'A' * 43}{'0' * 16}"
    assert (await api.refresh(made_up)).code == "refresh_invalid"
    assert (await api.refresh(tokens.refresh_token)).status == 200


# Revoking ----------------------------------------------------------------------------------


async def test_a_revoked_device_is_refused_at_once_here_and_in_every_service_within_seconds(
    api: Api, stack: Stack
) -> None:
    email = new_email()
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    services = {
        "metadata": "/v1/usage",
        "upload": "/v1/uploads",
        "download": f"/v1/files/{new_id()}/download",
        "notification": "/v1/events",
    }
    direct = {name: Api(api.session, stack.url(name), phone.access_token) for name in services}
    for name in ("metadata", "upload"):
        assert (await direct[name].call("GET", services[name])).status == 200
    assert (await api.of(laptop).call("DELETE", f"/v1/devices/{phone.device_id}")).status == 204
    assert (await api.of(phone).call("GET", "/v1/devices")).code == "device_revoked"
    assert (await api.refresh(phone.refresh_token)).code == "device_revoked"
    for name, path in services.items():
        await refused_within_seconds(direct[name], path)
    shown = {
        item["name"]: item["revoked"]
        for item in (await api.of(laptop).call("GET", "/v1/devices")).body["items"]
    }
    assert shown == {"phone": True, "laptop": False}
    assert (await api.of(laptop).call("DELETE", f"/v1/devices/{phone.device_id}")).status == 204


async def test_another_accounts_device_is_not_found(api: Api) -> None:
    mine, theirs = await api.register(), await api.register()
    for device_id in (theirs.device_id, new_id(), "x"):
        reply = await api.of(mine).call("DELETE", f"/v1/devices/{device_id}")
        assert (reply.status, reply.code) == (404, "not_found")
    assert (await api.of(theirs).call("GET", "/v1/devices")).status == 200


async def test_signing_out_revokes_this_device_only(api: Api) -> None:
    email = new_email()
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    assert (await api.of(phone).call("POST", "/v1/auth/logout")).status == 204
    assert (await api.of(phone).call("GET", "/v1/devices")).code == "device_revoked"
    assert (await api.of(laptop).call("GET", "/v1/devices")).status == 200


# Password and deletion ---------------------------------------------------------------------


async def test_a_changed_password_is_needed_from_then_on_and_others_stay_linked_unless_asked(
    api: Api,
) -> None:
    email, new = new_email(), "another long password"
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    change = {"old_password": PASSWORD, "new_password": new}
    assert (await api.of(phone).call("POST", "/v1/auth/password", change)).status == 204
    assert (await api.call("POST", "/v1/auth/login", credentials(email))).code == "invalid_credentials"
    assert (await api.of(laptop).call("GET", "/v1/devices")).status == 200
    assert (await api.of(phone).call("POST", "/v1/auth/password", change)).code == "invalid_credentials"
    back = {"old_password": new, "new_password": PASSWORD, "revoke_others": True}
    assert (await api.of(phone).call("POST", "/v1/auth/password", back)).status == 204
    assert (await api.of(laptop).call("GET", "/v1/devices")).code == "device_revoked"
    assert (await api.of(phone).call("GET", "/v1/devices")).status == 200


async def test_a_weak_new_password_is_refused(api: Api) -> None:
    mine = api.of(await api.register())
    reply = await mine.call("POST", "/v1/auth/password", {"old_password": PASSWORD, "new_password": "short"})
    assert (reply.status, reply.code) == (400, "weak_password")


async def test_a_deleted_account_is_gone_with_its_devices_and_files_and_its_email_is_free(api: Api) -> None:
    email = new_email()
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    wrong = await api.of(phone).call("DELETE", "/v1/account", {"password": "wrong password"})
    assert wrong.code == "invalid_credentials"
    assert (await api.of(phone).call("DELETE", "/v1/account", {"password": PASSWORD})).status == 204
    for tokens in (phone, laptop):
        assert (await api.of(tokens).call("GET", "/v1/devices")).status == 401
        assert (await api.refresh(tokens.refresh_token)).status == 401
    assert (await api.call("POST", "/v1/auth/login", credentials(email))).code == "invalid_credentials"
    again = await api.register(email)
    assert again.namespace_id != phone.namespace_id
    assert again.device_name == "laptop"


async def test_what_metadata_left_undone_is_completed_by_a_repeat(api: Api, stack: Stack) -> None:
    for path, status in (("/v1/auth/register", 201), ("/v1/auth/login", 200)):
        email = new_email()
        stack.kill("metadata")
        try:
            reply = await api.call("POST", "/v1/auth/register", credentials(email))
            assert (reply.status, reply.code) == (503, "unavailable")
            assert int(reply.headers["Retry-After"]) >= 1
            other = await api.call("POST", "/v1/auth/register", credentials(email, "somebody else's"))
            assert other.code == "email_taken"
        finally:
            stack.ensure_running()
        assert (await api.call("POST", path, credentials(email))).status == status


async def test_a_deletion_that_metadata_could_not_do_is_repeated_with_the_same_token(
    api: Api, stack: Stack
) -> None:
    email = new_email()
    phone, laptop = await api.register(email, "phone"), await api.login(email, "laptop")
    stack.kill("metadata")
    try:
        reply = await api.of(phone).call("DELETE", "/v1/account", {"password": PASSWORD})
        assert (reply.status, reply.code) == (503, "unavailable")
        assert (await api.of(laptop).call("GET", "/v1/devices")).code == "device_revoked"
        assert (await api.call("POST", "/v1/auth/login", credentials(email))).status == 503
    finally:
        stack.ensure_running()
    assert (await api.of(phone).call("DELETE", "/v1/account", {"password": PASSWORD})).status == 204
    assert (await api.of(phone).call("GET", "/v1/devices")).status == 401
    assert (await api.register(email)).device_name == "laptop"


async def test_a_deletion_that_was_left_is_finished_by_signing_up_again(api: Api, stack: Stack) -> None:
    email = new_email()
    tokens = await api.register(email)
    stack.kill("metadata")
    try:
        reply = await api.of(tokens).call("DELETE", "/v1/account", {"password": PASSWORD})
        assert reply.status == 503
    finally:
        stack.ensure_running()
    wrong = await api.call("POST", "/v1/auth/register", credentials(email, "somebody else's"))
    assert wrong.code == "email_taken"
    again = await api.register(email)
    assert again.user_id != tokens.user_id
    assert (await api.of(tokens).call("GET", "/v1/devices")).status == 401
