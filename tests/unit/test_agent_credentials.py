import stat
from pathlib import Path

import pytest

from agent.credentials import CredentialStore, check_server, is_loopback
from agent.errors import LocalError
from tests.support.agent_api import link, quick_settings


def test_credentials_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path / "home")
    link(settings, "https://example.org")

    assert stat.S_IMODE(settings.credentials_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.folder.stat().st_mode) == 0o700


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path)
    saved = link(settings, "https://example.org")

    assert CredentialStore(settings).load() == saved


def test_tokens_never_show_when_credentials_are_printed(tmp_path: Path) -> None:
    shown = repr(link(quick_settings(tmp_path), "https://example.org"))

    assert "access-1" not in shown
    assert "refresh-1" not in shown


def test_a_crash_while_saving_leaves_the_old_credentials_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(tmp_path)
    old = link(settings, "https://example.org")

    def crash(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        link(settings, "https://example.org", access_token="access-2")
    monkeypatch.undo()

    assert CredentialStore(settings).load() == old
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"server": "https://x"}', b"\xff"])
def test_damaged_credentials_count_as_not_signed_in(tmp_path: Path, content: bytes) -> None:
    settings = quick_settings(tmp_path)
    settings.credentials_path.write_bytes(content)

    with pytest.raises(LocalError) as caught:
        CredentialStore(settings).load()
    assert caught.value.code == "not_signed_in"


def test_missing_credentials_are_none_and_removing_them_is_done(tmp_path: Path) -> None:
    store = CredentialStore(quick_settings(tmp_path / "nothing"))
    store.remove()

    assert store.load() is None
    with pytest.raises(LocalError, match="not_signed_in"):
        store.require()


async def test_one_holder_of_the_lock_at_a_time(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, credentials_lock_seconds=0.1)
    async with CredentialStore(settings).locked():
        with pytest.raises(LocalError):
            async with CredentialStore(settings).locked():
                pass
    async with CredentialStore(settings).locked():
        pass


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://lockstep.example.org", "https://lockstep.example.org"),
        ("https://lockstep.example.org/", "https://lockstep.example.org"),
        (" https://lockstep.example.org:8443/base/ ", "https://lockstep.example.org:8443/base"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.8.9.1", "http://127.8.9.1"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_servers_url_is_kept_without_its_final_slash(given: str, kept: str) -> None:
    assert check_server(given) == kept


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.org", "insecure_server"),
        ("http://10.0.0.1", "insecure_server"),
        ("http://0.0.0.0", "insecure_server"),
        ("http://localhost.example.org", "insecure_server"),
        ("http://127.0.0.1.example.org", "insecure_server"),
        ("http://[2001:db8::1]", "insecure_server"),
        ("", "usage"),
        ("example.org", "usage"),
        ("ftp://example.org", "usage"),
        ("https://", "usage"),
        ("https://user:secret@example.org", "usage"),
        ("https://example.org/?a=b", "usage"),
        ("https://example.org/#a", "usage"),
        ("https://example.org:port", "usage"),
        ("https://[::1", "usage"),
    ],
)
def test_other_urls_are_refused(url: str, code: str) -> None:
    with pytest.raises(LocalError) as caught:
        check_server(url)
    assert caught.value.code == code


def test_only_this_machine_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.255.0.1", "::1"))
    assert not any(is_loopback(host) for host in ("", "128.0.0.1", "local", "::2", "127.1.example.org"))
