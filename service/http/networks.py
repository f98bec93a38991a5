"""Who may be one client: the networks that an address is of."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4096)
def networks(address: str) -> tuple[str, ...]:
    """An IPv4 address, or the /64 and the /56 of IPv6: whoever has one address of those has them all."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return (address,)
    if isinstance(found, ipaddress.IPv4Address) or found.ipv4_mapped:
        return (str(getattr(found, "ipv4_mapped", None) or found),)
    return tuple(str(ipaddress.ip_network((found, length), strict=False)) for length in (64, 56))


def network(address: str) -> str:
    """The largest of them: what one customer usually gets."""
    return networks(address)[-1]
