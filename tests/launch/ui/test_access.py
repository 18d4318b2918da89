"""Who may read the page."""

import pytest

from launch.ui.access import access_for


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1", "LOCALHOST"])
def test_on_loopback_no_token_is_needed(host: str) -> None:
    access = access_for(host)
    assert not access.token
    assert access.lets_in(authorization="", cookies={})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "head.cluster"])
def test_beyond_loopback_a_token_is_drawn_that_no_second_server_has(host: str) -> None:
    access, other = access_for(host), access_for(host)
    assert len(access.token) >= 32
    assert access.token != other.token
    assert access.cookie != other.cookie
    assert not access.lets_in(authorization="", cookies={})


def test_a_token_that_was_given_is_needed_on_loopback_too() -> None:
    access = access_for("127.0.0.1", "secret")
    assert not access.lets_in(authorization="", cookies={})
    assert not access.lets_in(authorization="Bearer secre", cookies={access.cookie: "Secret"})
    assert not access.lets_in(authorization="Bearer sécret", cookies={})
    assert not access.lets_in(authorization="Basic secret", cookies={})
    assert access.lets_in(authorization="bearer secret", cookies={})
    assert access.lets_in(authorization="", cookies={access.cookie: "secret"})
    assert "secret" not in repr(access)


@pytest.mark.parametrize("host", ["localhost:7788", "127.0.0.1", "[::1]:7788", "10.0.0.7:80", "LocalHost", "localhost."])
def test_it_answers_to_its_own_names_and_to_numeric_addresses(host: str) -> None:
    assert access_for("127.0.0.1").answers_to(host)


@pytest.mark.parametrize("host", ["evil.example:7788", "", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "a b", "user@evil"])
def test_it_answers_to_no_name_that_others_may_have_bound_to_its_address(host: str) -> None:
    assert not access_for("127.0.0.1").answers_to(host)
