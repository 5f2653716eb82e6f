"""Client address and scheme as forwarded by a trusted proxy.

Headers are trusted from the proxy only; plain HTTP from elsewhere is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from preread.core.errors import SettingsError

ANYBODY = "*"
_NOT_THE_PROXY = (
    "This address takes requests of the proxy alone, which brings TLS. Use the page's own address, with https.\n"
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """Addresses of ``PREREAD_WEB_PROXY``.

    Args:
        text: addresses and networks separated by ``,``, or ``*`` for any; ``None`` without a proxy.

    Raises:
        SettingsError: a part is neither an address nor a network.
    """

    def __init__(self, text: str | None) -> None:
        parts = [part.strip() for part in (text or "").split(",") if part.strip()]
        self.any = ANYBODY in parts
        self.networks: list[Network] = []
        for part in parts:
            if part == ANYBODY:
                continue
            try:
                self.networks.append(ipaddress.ip_network("127.0.0.1" if part == "localhost" else part, strict=False))
            except ValueError:
                raise SettingsError(
                    f"PREREAD_WEB_PROXY has {part!r}, which is neither an address nor a network such as 10.0.0.0/24"
                ) from None

    def __bool__(self) -> bool:
        return self.any or bool(self.networks)

    def __contains__(self, address: str) -> bool:
        """Return whether this peer is the proxy."""
        return self.any or self._named(address)

    def client_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the client's address: the right-most one that is no proxy.

        Args:
            peer: address of the proxy.
            forwarded: values of ``X-Forwarded-For``; parts further left may be forged by the client.
        """
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        client = peer
        for hop in reversed(hops):
            address = _bare(hop)
            if address is None:
                break
            client = address
            if not self._named(address):
                break
        return client

    def _named(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None)
        return any((mapped or ip) in network for network in self.networks)


class Forwarded:
    """Middleware that sets client address and scheme of a request.

    Args:
        app: next application.
        proxies: trusted proxies.
        tls: this server has a certificate, so that others than the proxy may connect, too.
    """

    def __init__(self, app: ASGIApp, *, proxies: Proxies, tls: bool) -> None:
        self._app = app
        self._proxies = proxies
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._proxies:
            await self._app(scope, receive, send)
            return
        peer = scope["client"][0] if scope.get("client") else ""
        headers = Headers(scope=scope)
        if peer in self._proxies:
            client = self._proxies.client_of(peer, headers.getlist("x-forwarded-for"))
            schemes = [
                part.strip().lower() for value in headers.getlist("x-forwarded-proto") for part in value.split(",")
            ]
            scheme = schemes[-1] if schemes else scope["scheme"]
            # without the header, the setting states that the proxy uses TLS
            plain = bool(schemes) and scheme not in {"https", "wss"}
            scope = {**scope, "client": (client, 0), "scheme": scheme}
        else:
            plain = scope["scheme"] != "https"
        if plain and not (self._tls and peer not in self._proxies):
            connection = scope.get("state", {}).get("connection")
            if connection is not None:
                connection.refuse_rest()
            await PlainTextResponse(_NOT_THE_PROXY, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _bare(hop: str) -> str | None:
    """Return the address of one hop without brackets and port, or ``None``."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None
