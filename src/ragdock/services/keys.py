"""API keys: making, listing and revoking them, and telling who asks."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from ragdock.core.apikeys import hash_of, make_token, split_token
from ragdock.core.names import COLLECTION_NAME
from ragdock.errors import ConfigurationError, InputError, NotFoundError, RagdockError
from ragdock.ports import KeyStore
from ragdock.types import ApiKey, Principal, Right

__all__ = ["ADMIN_ID", "ANYBODY", "METRICS_ID", "Keys"]

ANYBODY: Final = Principal("anonymous", "anonymous", frozenset({Right.ADMIN}))
"""Who asks where no key is needed."""

ADMIN_ID: Final = "admin"
METRICS_ID: Final = "metrics"
FLUSH_SECONDS: Final = 60.0
MAX_NAME_CHARACTERS: Final = 64
_METRICS_ALONE: Final = frozenset({Right.METRICS})
_ID_BYTES: Final = 5
_SECRET_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@/-]*")
# What a token is compared with when its id is unknown, so that this takes the same time.
_NOBODY: Final = ApiKey(
    "", "", hash_of(secrets.token_hex(_SECRET_BYTES)), frozenset(), revoked_at=0
)

log = logging.getLogger(__name__)


class Keys:
    """The keys of a data directory, and beside them two static ones: admin's, and the metrics'.

    Keys are needed when `required`, when there is a static one, when there is one that isn't
    revoked at the start, and from the moment that one is made. From then on they are needed as
    long as this object lives: revoking the last key opens nothing. Raises `ConfigurationError`
    when the two static ones are the same.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        admin_key: str | None = None,
        metrics_key: str | None = None,
        required: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if admin_key is not None and admin_key == metrics_key:
            raise ConfigurationError(
                "RAG_METRICS_KEY has the value of RAG_ADMIN_KEY, which opens everything; give it "
                "one of its own (`openssl rand -hex 32`)."
            )
        self._store = store
        self._clock = clock
        self._static = tuple(
            ApiKey(key_id, name, hash_of(token), frozenset({right}))
            for key_id, name, token, right in (
                (ADMIN_ID, "RAG_ADMIN_KEY", admin_key, Right.ADMIN),
                (METRICS_ID, "RAG_METRICS_KEY", metrics_key, Right.METRICS),
            )
            if token is not None
        )
        self._required = required
        known = store.all()
        self._n_at_start = len(known)
        has_keys = any(key.revoked_at is None for key in known)
        self._is_on = required or bool(self._static) or has_keys
        # Made once for each key that was used: making one takes as long as checking it.
        self._principals: dict[str, tuple[ApiKey, Principal]] = {}
        self._used: dict[str, float] = {}
        self._flushed: dict[str, float] = {}
        self._used_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # Who asks

    def authenticate(self, token: str | None) -> Principal | None:
        """Who has this key, or None; `ANYBODY` where none is needed.

        Waits for nothing (some 15 microseconds), so the event loop may call it. Revoked here or in
        another process, a key opens nothing from the next call on. Whatever is wrong with a token,
        the same work is done. Raises `StoreError` when the keys can't be read.
        """
        if not self._is_on:
            if self._store.peek_count() == self._n_at_start:
                return ANYBODY
            log.warning("a first API key was made: from now on every request needs one")
            self._is_on = True
        if token is None:
            return None
        key_id, secret = split_token(token)
        key = self._store.peek(key_id) or _NOBODY
        digest = hash_of(secret)
        now = self._clock()
        if hmac.compare_digest(digest, key.hash) and key.is_valid(now):
            self._used[key.id] = now
            return self._principal(key)
        if self._static:
            digest = hash_of(token)
            for key in self._static:
                if hmac.compare_digest(digest, key.hash):
                    return self._principal(key)
        return None

    def _principal(self, key: ApiKey) -> Principal:
        known = self._principals.get(key.id)
        if known is None or known[0] is not key:
            principal = Principal(
                key.id, key.name, key.rights, key.collections, key.rate_per_minute
            )
            known = self._principals[key.id] = key, principal
        return known[1]

    @property
    def is_on(self) -> bool:
        """Whether a request needs a key, as far as is known."""
        return self._is_on

    def require_some(self) -> None:
        """Raise `ConfigurationError` when keys are needed and there is none but for the metrics."""
        if not self._required:
            return
        usable = [*self._static, *(key for key in self._store.all() if key.revoked_at is None)]
        if any(key.rights != _METRICS_ALONE for key in usable):
            return
        but, because = (
            (" but for the metrics", "nobody could add or ask anything")
            if usable
            else ("", "whoever reached it could read and delete everything")
        )
        make = "ragdock keys create --name admin --rights admin"
        raise ConfigurationError(
            f"There is no API key{but}, and outside of ENVIRONMENT=development the server does not "
            f"start without one, because {because}. Make one with `{make}` (under Compose: "
            f"`docker-compose run --rm web {make}`), or set RAG_ADMIN_KEY to 32 random characters "
            "or more (`openssl rand -hex 32`)."
        )

    # Making and revoking

    def create(
        self,
        name: str,
        *,
        rights: Collection[Right],
        collections: Collection[str] | None = None,
        expires_at: float | None = None,
        rate_per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which is kept nowhere.

        Raises `InputError` when a value won't do, `ConflictError` when the name is taken.
        """
        now = self._clock()
        _check(name, rights, collections, rate_per_minute)
        if expires_at is not None and expires_at <= now:
            raise InputError("The key would have expired already.", field="expires")
        token = make_token(secrets.token_bytes(_ID_BYTES), secrets.token_bytes(_SECRET_BYTES))
        key_id, secret = split_token(token)
        key = ApiKey(
            id=key_id,
            name=name,
            hash=hash_of(secret),
            rights=frozenset(rights),
            collections=None if collections is None else frozenset(collections),
            rate_per_minute=rate_per_minute,
            created_at=now,
            expires_at=expires_at,
        )
        self._store.add(key)
        return key, token

    def all(self) -> tuple[ApiKey, ...]:
        """All keys, revoked ones too, oldest first."""
        return self._store.all()

    def revoke(self, id_or_name: str) -> ApiKey:
        """Revoke the key of that id, or else of that name; raises `NotFoundError`."""
        keys = self._store.all()
        matching = [key for key in keys if key.id == id_or_name] or [
            key for key in keys if key.name == id_or_name and key.revoked_at is None
        ]
        if not matching:
            raise NotFoundError(f"There is no key {id_or_name!r} that isn't revoked already.")
        self._store.revoke(matching[0].id, self._clock())
        return next(key for key in self._store.all() if key.id == matching[0].id)

    # When they were last used

    def start(self) -> None:
        """Write once a minute, in a thread, when keys were last used."""
        self._thread = threading.Thread(target=self._flush_always, name="keys", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Write now when keys were last used."""
        with self._used_lock:
            used = {
                key_id: at
                for key_id, at in self._used.copy().items()
                if at > self._flushed.get(key_id, 0.0)
            }
            if used:
                self._store.touch(used)
                self._flushed.update(used)

    def _flush_always(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self._try_flush()

    def _try_flush(self) -> None:
        try:
            self.flush()
        except RagdockError as exc:
            log.warning("when keys were last used can't be written", extra={"reason": str(exc)})

    def close(self) -> None:
        """Write what is not written yet, and close the store."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._try_flush()
        self._store.close()


def _check(
    name: str,
    rights: Collection[Right],
    collections: Collection[str] | None,
    rate_per_minute: int | None,
) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise InputError(
            f"{name!r} won't do as a name: letters, digits, spaces and . _ @ / -, at most "
            f"{MAX_NAME_CHARACTERS}, beginning with a letter or digit.",
            field="name",
        )
    if not rights:
        raise InputError("A key needs a right: read, write, metrics or admin.", field="rights")
    if collections is not None:
        if Right.ADMIN in rights:
            raise InputError(
                "An admin key is one for all collections: leave the collections out, or give it "
                "read and write.",
                field="collections",
            )
        if Right.METRICS in rights:
            raise InputError(
                "The metrics are those of all collections: leave the collections out, or the "
                "right `metrics`.",
                field="collections",
            )
        if not collections:
            raise InputError("A key for no collection opens nothing.", field="collections")
        for collection in collections:
            if not re.fullmatch(COLLECTION_NAME, collection):
                raise InputError(
                    f"{collection!r} can't be a collection's name: lower-case letters, digits, _ "
                    "and -, at most 63.",
                    field="collections",
                )
    if rate_per_minute is not None and rate_per_minute < 0:
        raise InputError("A rate is 0 (no limit) or more.", field="rate")
