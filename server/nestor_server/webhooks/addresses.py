"""Where notices may go: the setting NESTOR_WEBHOOK_ALLOW, checked for a URL, and again for the address it resolves to.

A user chooses the URL, and the server is in a network that the user may not reach: next to its database, or to the
metadata service of a cloud. So the operator lists hosts and networks. A listed host may resolve to public addresses,
and any host may resolve to an address of a listed network. The connection is made to the address that was checked, so a
name that resolves to another one a moment later gains nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from nestor.errors import WebhookAddressRefused, WebhookAllowInvalid, WebhooksDisabled, WebhookUrlInvalid

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
NAT64 = IPv6Network("64:ff9b::/96")  # its last 32 bits are an IPv4 address
PUBLIC_IPV6 = IPv6Network("2000::/3")  # all that is assigned for the Internet; outside are many that lead inside


@dataclass(frozen=True)
class Rule:
    """One entry: a host, all hosts below a domain (`*.example.com`), or a network. `http://` before it allows both."""

    host: str
    network: IPv4Network | IPv6Network | None
    plain: bool  # without TLS

    @staticmethod
    def parse(entry: str) -> Rule:
        """Read one entry of the setting.

        Raises:
            WebhookAllowInvalid: it is neither a host nor a network.
        """
        scheme, _, rest = entry.rpartition("://")
        if scheme in ("", "http", "https"):
            with suppress(ValueError):
                return Rule("", ip_network(rest.strip("[]")), scheme == "http")
            if HOST.fullmatch(rest):
                return Rule(rest.lower(), None, scheme == "http")
        raise WebhookAllowInvalid(entry=entry)

    def __str__(self) -> str:
        return f"{'http://' if self.plain else ''}{self.network or self.host}"

    def names(self, host: str) -> bool:
        """Whether this is the entry of `host`."""
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return bool(self.host) and host == self.host

    def permits(self, host: str, address: Address) -> bool:
        """Whether a connection to `host` may be made to `address`, which is no IPv6 form of an IPv4 address."""
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return self.names(host) and _is_public(address)


@dataclass(frozen=True)
class AllowList:
    """The setting. It is empty by default, and then the server sends nothing."""

    rules: tuple[Rule, ...]

    @staticmethod
    def parse(setting: str) -> AllowList:
        """Read the entries, which commas separate.

        Raises:
            WebhookAllowInvalid: one is neither a host nor a network.
        """
        return AllowList(tuple(Rule.parse(entry.strip()) for entry in setting.split(",") if entry.strip()))

    def __str__(self) -> str:
        """The setting, as `parse` reads it."""
        return ",".join(map(str, self.rules))

    def __bool__(self) -> bool:
        return bool(self.rules)

    def expect(self, url: str) -> httpx.URL:
        """`url`, if a connection to it may be allowed: what can be known without resolving its name.

        Raises:
            WebhooksDisabled: the operator allows no address.
            WebhookUrlInvalid: it is not the URL of a web address.
            WebhookAddressRefused: the operator does not allow it.
        """
        if not self:
            raise WebhooksDisabled()
        parsed = _parse(url)
        host = host_of(parsed)
        try:
            permitted = self._permits(parsed, ip_address(host))
        except ValueError:
            permitted = any(rule.network or rule.names(host) for rule in self._rules_for(parsed))
        if not permitted:
            raise WebhookAddressRefused(address=f"{parsed.scheme}://{host}")
        return parsed

    def choose(self, url: httpx.URL, resolved: Iterable[str]) -> Address:
        """The first of the addresses to which the host of `url` resolves that is allowed.

        Raises:
            WebhookAddressRefused: none of them is. It does not show them: names of the server's network are not for
                users.
        """
        addresses = [ip_address(one.partition("%")[0]) for one in resolved]
        for address in addresses:
            if self._permits(url, address):
                return address
        host = host_of(url)
        log.warning(
            "no notice is sent to %s: NESTOR_WEBHOOK_ALLOW allows none of %s", host, ", ".join(map(str, addresses[:3]))
        )
        raise WebhookAddressRefused(address=f"{url.scheme}://{host}")

    def _permits(self, url: httpx.URL, address: Address) -> bool:
        return any(rule.permits(host_of(url), _unwrapped(address)) for rule in self._rules_for(url))

    def _rules_for(self, url: httpx.URL) -> list[Rule]:
        return [rule for rule in self.rules if rule.plain or url.scheme == "https"]


def host_of(url: httpx.URL) -> str:
    """The host as it is looked up: a name in ASCII, as which the setting writes it, or an address."""
    return url.raw_host.decode("ascii")


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WebhookUrlInvalid(reason=str(error)) from None
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise WebhookUrlInvalid(reason="it does not begin with https:// and a host")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise WebhookUrlInvalid(reason="its port is not between 1 and 65535")
    if parsed.userinfo or parsed.fragment:
        raise WebhookUrlInvalid(reason="it has a user name, a password or a fragment")
    return parsed


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv6Address):
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
            return inner
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in PUBLIC_IPV6:
        return False
    return address.is_global and not address.is_multicast
