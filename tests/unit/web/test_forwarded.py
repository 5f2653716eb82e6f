"""Whose word on a client's address counts, and by what an address is counted."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.addresses import client_network
from preread.core.errors import SettingsError
from preread.web.forwarded import Proxies

PEER = "10.0.0.1"


@pytest.mark.parametrize(
    "setting,headers,client",
    [
        ("10.0.0.1", [], PEER),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.0/8", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["1.1.1.1, nonsense"], PEER),
        ("10.0.0.0/8", ["nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::9]:4711"], "2001:db8::9"),
        ("*", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("*", ["198.51.100.7, 127.0.0.9"], "127.0.0.9"),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_is_the_client(setting: str, headers: list[str], client: str) -> None:
    assert Proxies(setting).client_of(PEER, headers) == client


@given(st.lists(st.text("0123456789.,: abx[]"), max_size=4), st.ip_addresses(v=4))
def test_what_stands_further_left_changes_nothing(written: list[str], address: ipaddress.IPv4Address) -> None:
    for setting in (PEER, "*"):
        assert Proxies(setting).client_of(PEER, [*written, str(address)]) == str(address) or str(address) == PEER


@pytest.mark.parametrize(
    "peer,inside", [("10.0.0.1", True), ("::ffff:10.0.0.1", True), ("10.0.0.2", False), ("x", False)]
)
def test_who_is_the_proxy(peer: str, inside: bool) -> None:
    assert (peer in Proxies("10.0.0.1, 192.0.2.0/24")) == inside
    assert peer not in Proxies(None)
    assert peer in Proxies("*")


def test_a_setting_that_names_no_address_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"proxy\.example"):
        Proxies("10.0.0.1,proxy.example")


@pytest.mark.parametrize(
    "address,source",
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("testclient", "testclient"),
    ],
)
def test_a_customer_of_ipv6_is_counted_once(address: str, source: str) -> None:
    assert client_network(address) == source
