"""Parsing of mail servers, listen addresses, hosts and client addresses."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

MAIL_PORTS = {"smtp": 25, "starttls": 587, "smtps": 465}
ADDRESS = r"^[^\s,@]+@[^\s,@]+$"
ADDRESSES = r"^[^\s,@]+@[^\s,@]+(\s*,\s*[^\s,@]+@[^\s,@]+)*$"


def parse_mail_server(text: str) -> SplitResult:
    """Parse the URL of a mail server.

    Args:
        text: ``smtp://host:25``, ``starttls://user:password@host:587`` or ``smtps://user:password@host:465``.

    Raises:
        ValueError: it is invalid; the message does not contain the text, which may hold a password.
    """
    try:
        url = urlsplit(text)
        named = url.scheme in MAIL_PORTS and bool(url.hostname) and url.port != 0 and not url.path.strip("/")
    except ValueError:
        named = False
    if not named:
        raise ValueError("is not the URL of a mail server, such as smtp://host:25 or starttls://user:password@host:587")
    if url.scheme == "smtp" and url.username is not None:
        raise ValueError("would send a password unencrypted: write starttls:// or smtps://")
    return url


def parse_listen_address(text: str) -> tuple[str, int]:
    """Parse ``host:port``; an IPv6 address is in brackets: ``[::1]:8321``.

    Returns:
        Host without brackets, and port.

    Raises:
        ValueError: it is invalid.
    """
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not bare or (":" in bare) != bracketed or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("is not an address with a port, such as 127.0.0.1:8321 or [::1]:8321")
    return bare, int(port)


def client_network(address: str) -> str:
    """Return the network by which the requests of a client are counted.

    Args:
        address: IP address of the client.

    Returns:
        The address itself; of an IPv6 address its /64 network, which one customer holds.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((int(parsed), 64), strict=False))


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_from_header(header: str) -> str:
    """Return the host in a ``Host`` header: lower case, no port, no brackets."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
