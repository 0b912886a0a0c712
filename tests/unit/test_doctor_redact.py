"""No secret gets past the redactor, and what isn't one stays readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.apikeys import make_token
from ragdock.ops.doctor.redact import Redactor, is_secret, mask, masked_length

SECRET = "hunter2-Zq8vY4"
TEXTS = [
    "REDIS_PASSWORD={}",
    "export RAG_ADMIN_KEY='{}'",
    'RAG_LLM_API_KEY="{}"',
    "api_key: {}",
    '{{"token": "{}"}}',
    "redis://user:{}@redis:6379/0",
    "redis://:{}@redis:6379/0",
    "redis-server --requirepass {} --save ''",
    "redis-cli -a {} ping",
    "Authorization: Bearer {}",
    "|1 GITHUB_TOKEN={} /bin/sh -c true",
    "{} was refused",
]


def inspected(value: str) -> dict[str, object]:
    """A container's description with a secret in its environment."""
    return {"Config": {"Env": [f"REDIS_PASSWORD={value}", "RAG_TOP_K=5", "RAG_ADMIN_KEY="]}}


@pytest.mark.parametrize("name", ["RAG_ADMIN_KEY", "github_token", "X_SECRET", "REDIS_PASSWORD"])
def test_telling_names_are_secret(name: str) -> None:
    """KEY, TOKEN, SECRET and PASS make a name's value a secret."""
    assert is_secret(name)


@pytest.mark.parametrize("name", ["REDIS_PASSWORD_FILE", "PATH", "GPG_KEY", "SandboxKey", "HOME"])
def test_harmless_names_are_not(name: str) -> None:
    """Paths of secrets, and names that only sound so."""
    assert not is_secret(name)


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_is_nowhere_in_the_text(text: str) -> None:
    """Wherever it stands, only its length is left, once the environment was seen."""
    redactor = Redactor()
    redactor.answer(inspected(SECRET))
    assert SECRET not in redactor.text(text.format(SECRET))


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_most_are_found_without_having_been_seen(text: str) -> None:
    """A telling name, a URL, an option or a header is enough."""
    assert SECRET not in Redactor().text(text.format(SECRET))


def test_keys_are_known_by_their_form() -> None:
    """Our own keys and those of well-known services, in the middle of a line."""
    ours = make_token(b"12345", b"x" * 32)
    for key in (
        ours,
        "sk-proj-abcdefghijklmnopqrstuvwx",
        "ghp_" + "a" * 36,
        "AKIA" + "ABCDEFGHIJKLMNOP",
    ):
        assert key not in Redactor().text(f"the key {key} opens nothing")


def test_answers_are_masked_at_every_depth() -> None:
    """Environments, labels, fields with telling names; other values stay."""
    answer = Redactor().answer(
        {**inspected(SECRET), "Labels": {"my.token": SECRET}, "State": {"Error": f"x {SECRET}"}}
    )
    assert SECRET not in str(answer)
    env = answer["Config"]["Env"]
    assert env == [f"REDIS_PASSWORD=<redacted {len(SECRET)}>", "RAG_TOP_K=5", "RAG_ADMIN_KEY="]


def test_a_mask_tells_what_a_parser_trips_over() -> None:
    """Length without quotes, and whether there are quotes, a dollar, a comment, a return."""
    assert mask("abc") == "<redacted 3>"
    assert mask('"a$c"') == "<redacted 3 quoted dollar>"
    assert mask("abc # d\r") == "<redacted 7 comment return>"
    assert mask("") == ""
    assert mask("${VAR:-x}") == "${VAR:-x}"
    assert masked_length("<redacted 3 quoted>") == 3
    assert masked_length("abcd") == 4


def test_masking_twice_changes_nothing() -> None:
    """A recording that is replayed stays as it is."""
    once = Redactor().text(f"REDIS_PASSWORD={SECRET} redis://u:{SECRET}@h")
    assert Redactor().text(once) == once


@given(st.text(max_size=200), st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8))
def test_no_text_lets_a_known_secret_through(text: str, secret: str) -> None:
    """Whatever surrounds it."""
    redactor = Redactor()
    redactor.learn([secret])
    assert secret not in redactor.text(f"{text}{secret}{text}").replace("redacted", "")
