"""What a service does not start with, and what mends it: said before a port is opened or a server started.

An open service is fine for whoever sits at this machine, and for nobody else; rules that are not asked are worse than
none.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from .auth.jwts import Jwts
from .auth.rules_file import read_rules
from .config import Config, Jwt
from .errors import ConfigError
from .stores.open_meteo import OpenMeteo


def refuse(config: Config) -> None:
    """Raises ConfigError."""
    auth = config.auth
    if not auth.on and not is_loopback(config.host):
        raise ConfigError(
            f"config: host is {config.host!r}, which is not this machine alone, and nobody would be asked who they are:"
            " set REALTIME_AUTH__ON=1 and make the first account with `realtime user add`,"
            " or keep to this machine with --host 127.0.0.1"
        )
    if not auth.on and auth.rules is not None:
        raise ConfigError(
            f"config: auth.rules is {auth.rules!r}, but nobody is asked who they are: set REALTIME_AUTH__ON=1"
        )
    if not auth.on and auth.jwt != Jwt():
        raise ConfigError("config: auth.jwt is set, but nobody is asked who they are: set REALTIME_AUTH__ON=1")
    read_rules(auth.rules)
    Jwts.of(auth.jwt)
    if not config.demo:
        OpenMeteo(config.weather.uri, config.weather.places)


def is_loopback(host: str) -> bool:
    """Every address that the name stands for; no name at all stands for all of them, one that is unknown for none."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False  # now; a moment later it may stand for any
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
