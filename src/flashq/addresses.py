"""What a host is, as far as its text tells: nothing here asks the network."""

from __future__ import annotations

import ipaddress


def is_address(host: str) -> bool:
    """An IPv4 or IPv6 address, not a name."""
    return _address(host) is not None


def is_loopback(host: str) -> bool:
    """Only this machine can mean itself by `host`. Any name but localhost may resolve to anything."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return address is not None and (mapped or address).is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
