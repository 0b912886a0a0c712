"""The form of keys, who they authenticate, and when they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragdock.adapters.stores.sqlite.keys import SqliteKeys
from ragdock.core.apikeys import KEY_PATTERN, hash_of, is_whole, make_token, split_token
from ragdock.errors import ConfigurationError, ConflictError, InputError, NotFoundError, StoreError
from ragdock.services.keys import ANYBODY, Keys
from ragdock.types import Right

READ = frozenset({Right.READ})
ADMIN_KEY = "0123456789abcdef0123456789abcdef"
METRICS_KEY = "fedcba9876543210fedcba9876543210"


class Clock:
    """A time that the test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteKeys]:
    keys = SqliteKeys(tmp_path)
    yield keys
    keys.close()


@pytest.fixture
def keys(store: SqliteKeys, clock: Clock) -> Keys:
    return Keys(store, clock=clock)


# ---- the form --------------------------------------------------------------------------------


def test_a_key_has_a_form_that_scanners_find() -> None:
    """Prefix, public id, 43 characters of secret, checksum; the pattern finds it in any text."""
    token = make_token(b"\x00\x01\x02\x03\xff", bytes(range(32)))
    assert token == "rdk_aaaqea77_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" + token[-6:]
    assert re.findall(KEY_PATTERN, f"curl -H 'X-API-Key: {token}' http://x") == [token]
    assert split_token(token) == ("aaaqea77", token[13:56])
    assert len(token) == 62
    assert is_whole(token)


@pytest.mark.parametrize("position", range(62))
def test_a_mistyped_key_is_told_by_its_checksum(position: int) -> None:
    """One wrong character anywhere, or a cut, and the key isn't whole."""
    token = make_token(b"abcde", b"s" * 32)
    wrong = "b" if token[position] != "b" else "c"
    assert not is_whole(token[:position] + wrong + token[position + 1 :])
    assert not is_whole(token[:position])


@pytest.mark.parametrize("token", ["", "rdk_", "x" * 62, "rdk_abcdefgh_" + "\u00e9" * 43, "\ud800"])
def test_what_is_no_key_is_split_into_nothing(token: str) -> None:
    """Any text may come in a header, and none breaks the parsing or the hash."""
    assert split_token(token) == ("", "")
    assert len(hash_of(token)) == 32


# ---- authenticating --------------------------------------------------------------------------


def test_a_key_says_who_asks(keys: Keys) -> None:
    """The principal has the key's id, name, rights, collections and rate."""
    key, token = keys.create("web", rights=READ, collections=["a"], rate_per_minute=7)
    principal = keys.authenticate(token)
    assert principal is not None
    assert (principal.key_id, principal.name, principal.rate_per_minute) == (key.id, "web", 7)
    assert (principal.rights, principal.collections) == (READ, frozenset({"a"}))


def test_the_secret_is_kept_nowhere(keys: Keys, tmp_path: Path) -> None:
    """Neither the files of the store nor the key's repr hold the secret, or its hash."""
    key, token = keys.create("web", rights=READ)
    secret = split_token(token)[1]
    assert secret not in repr(key)
    assert repr(key.hash) not in repr(key)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert secret.encode() not in content
        assert token[-20:].encode() not in content


def test_nothing_else_opens(keys: Keys, clock: Clock) -> None:
    """No key, garbage, an unknown id, another's secret, an expired or a revoked key: nobody."""
    _, good = keys.create("good", rights=READ)
    _, short = keys.create("short", rights=READ, expires_at=clock.now + 10)
    _, revoked = keys.create("revoked", rights=READ)
    assert all(map(keys.authenticate, (good, short, revoked)))
    clock.now += 10
    keys.revoke("revoked")
    mixed = good[:12] + short[12:]
    unknown = make_token(b"abcde", b"s" * 32)
    for token in (None, "", "garbage", unknown, mixed, short, revoked, good + "x", f" {good}"):
        assert keys.authenticate(token) is None
    assert keys.authenticate(good) is not None


def test_the_admin_key_has_every_right(store: SqliteKeys) -> None:
    """RAG_ADMIN_KEY opens everything; nothing that resembles it does."""
    keys = Keys(store, admin_key=ADMIN_KEY)
    principal = keys.authenticate(ADMIN_KEY)
    assert principal is not None
    assert principal.may(Right.ADMIN)
    assert principal.collections is None
    assert keys.authenticate(ADMIN_KEY[:-1]) is None
    assert keys.authenticate(ADMIN_KEY.upper()) is None
    assert ADMIN_KEY not in repr(vars(keys))


def test_the_metrics_key_has_its_right_alone(store: SqliteKeys) -> None:
    """RAG_METRICS_KEY is another's than the admin's, with or without that one beside it."""
    for admin_key in (None, ADMIN_KEY):
        keys = Keys(store, admin_key=admin_key, metrics_key=METRICS_KEY)
        principal = keys.authenticate(METRICS_KEY)
        assert principal is not None
        assert (principal.key_id, principal.name) == ("metrics", "RAG_METRICS_KEY")
        assert (principal.rights, principal.collections) == ({Right.METRICS}, None)
        assert keys.authenticate(METRICS_KEY[:-1]) is None
        assert keys.authenticate(None) is None
        assert METRICS_KEY not in repr(vars(keys))
        admin = keys.authenticate(ADMIN_KEY)
        assert (admin is not None and admin.may(Right.ADMIN)) is (admin_key is not None)


def test_the_static_keys_are_two(store: SqliteKeys) -> None:
    """A metrics key that is the admin's would open everything, and is refused unquoted."""
    with pytest.raises(ConfigurationError, match="RAG_METRICS_KEY has the value of") as error:
        Keys(store, admin_key=ADMIN_KEY, metrics_key=ADMIN_KEY)
    assert ADMIN_KEY not in str(error.value)


@pytest.mark.parametrize("right", Right)
def test_no_right_but_admin_holds_another(keys: Keys, right: Right) -> None:
    """A key may what it was made for; with `admin`, everything."""
    _, token = keys.create("web", rights=[right])
    principal = keys.authenticate(token)
    assert principal is not None
    may = {each for each in Right if principal.may(each)}
    assert may == (set(Right) if right is Right.ADMIN else {right})


def test_another_process_is_seen_at_once(keys: Keys, tmp_path: Path, clock: Clock) -> None:
    """What another handle creates opens at the next call, what it revokes opens nothing."""
    elsewhere = Keys(SqliteKeys(tmp_path), clock=clock)
    _, token = elsewhere.create("web", rights=READ)
    assert keys.authenticate(token) is not None
    elsewhere.revoke("web")
    assert keys.authenticate(token) is None
    elsewhere.close()


def test_unreadable_keys_open_nothing(keys: Keys, store: SqliteKeys) -> None:
    """When the keys can't be read that is an error, and neither yes nor no."""
    _, token = keys.create("web", rights=READ)
    keys.authenticate(token)
    store.close()
    with pytest.raises(StoreError):
        keys.authenticate(token)


# ---- when keys are needed --------------------------------------------------------------------


def test_without_a_key_anybody_may_everything(keys: Keys) -> None:
    """In development, as long as there is no key, whatever is sent is welcome."""
    assert keys.authenticate(None) is ANYBODY
    assert keys.authenticate("garbage") is ANYBODY
    keys.require_some()


def test_the_first_key_closes_the_server_for_good(keys: Keys, tmp_path: Path) -> None:
    """From the first key on requests need one, and revoking the last opens nothing."""
    assert keys.authenticate(None) is ANYBODY
    keys.create("web", rights=READ)
    assert keys.authenticate(None) is None
    keys.revoke("web")
    assert keys.authenticate(None) is None
    # A restart in development, all of whose keys are revoked, begins anew.
    again = Keys(SqliteKeys(tmp_path))
    assert again.authenticate(None) is ANYBODY
    again.close()


def test_a_key_that_came_and_went_unseen_closes_the_server(keys: Keys, tmp_path: Path) -> None:
    """A worker that had no request between creation and revocation is closed like the others."""
    elsewhere = Keys(SqliteKeys(tmp_path))
    elsewhere.create("web", rights=READ)
    elsewhere.revoke("web")
    elsewhere.close()
    assert keys.authenticate(None) is None


def test_outside_development_keys_are_always_needed(store: SqliteKeys) -> None:
    """Required keys are needed before there is one, and the error says how to make one."""
    keys = Keys(store, required=True)
    assert keys.authenticate(None) is None
    with pytest.raises(
        ConfigurationError, match=r"ragdock keys create.*docker-compose run.*RAG_ADM"
    ):
        keys.require_some()
    keys.create("web", rights=READ)
    keys.require_some()
    keys.revoke("web")
    with pytest.raises(ConfigurationError):
        keys.require_some()
    assert keys.authenticate(None) is None
    Keys(store, required=True, admin_key=ADMIN_KEY).require_some()


def test_a_key_for_the_metrics_lets_nobody_in(store: SqliteKeys) -> None:
    """It closes a server like any key, and alone is none for one that has to have a key."""
    error = r"no API key but for the metrics.*nobody could add or ask.*ragdock keys create"
    with pytest.raises(ConfigurationError, match=error):
        Keys(store, required=True, metrics_key=METRICS_KEY).require_some()
    keys = Keys(store, required=True)
    keys.create("prometheus", rights=[Right.METRICS])
    with pytest.raises(ConfigurationError, match=error):
        keys.require_some()
    assert Keys(store).authenticate(None) is None
    keys.create("both", rights=[Right.METRICS, Right.READ])
    keys.require_some()


def test_an_expired_key_keeps_the_server_closed(store: SqliteKeys, clock: Clock) -> None:
    """A key that has expired still means that this server is not for everybody."""
    Keys(store, clock=clock).create("web", rights=READ, expires_at=clock.now + 1)
    clock.now += 100
    assert Keys(store, clock=clock).authenticate(None) is None


# ---- making, listing, revoking ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"rights": []}, "right"),
        ({"collections": []}, "no collection"),
        ({"collections": ["Upper"]}, "'Upper'"),
        ({"collections": ["a"], "rights": [Right.ADMIN]}, "all collections"),
        ({"collections": ["a"], "rights": [Right.READ, Right.METRICS]}, "all collections"),
        ({"expires_at": 999.0}, "expired already"),
        ({"rate_per_minute": -1}, "rate"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(keys: Keys, fields: object, says: str) -> None:
    """Wrong values are named before anything is stored."""
    values = {"name": "web", "rights": READ} | dict(fields)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=says):
        keys.create(values.pop("name"), **values)
    assert keys.all() == ()


def test_revoking_takes_an_id_or_a_name(keys: Keys, clock: Clock) -> None:
    """The id wins over a name; what is revoked already is found by its id only."""
    first, _ = keys.create("web", rights=READ)
    second, _ = keys.create(first.id, rights=READ)
    with pytest.raises(ConflictError):
        keys.create("web", rights=READ)
    assert keys.revoke(first.id).id == first.id
    assert keys.revoke(first.id).revoked_at == clock.now
    with pytest.raises(NotFoundError, match="'web'"):
        keys.revoke("web")
    assert keys.revoke(second.id).revoked_at is not None


def test_the_last_use_is_written_later_and_once(keys: Keys, clock: Clock) -> None:
    """Authenticating writes nothing; a flush writes what is new, the admin's use of it not."""
    _, token = keys.create("web", rights=READ)
    clock.now = 2_000.0
    keys.authenticate(token)
    assert keys.all()[0].last_used_at is None
    keys.flush()
    assert keys.all()[0].last_used_at == 2_000.0
    clock.now = 3_000.0
    keys.flush()
    assert keys.all()[0].last_used_at == 2_000.0


def test_closing_writes_the_last_use(tmp_path: Path, clock: Clock) -> None:
    """What was used since the last minute is written when the server stops."""
    keys = Keys(SqliteKeys(tmp_path), clock=clock)
    _, token = keys.create("web", rights=READ)
    keys.start()
    keys.authenticate(token)
    keys.close()
    again = SqliteKeys(tmp_path)
    assert again.all()[0].last_used_at == clock.now
    again.close()
