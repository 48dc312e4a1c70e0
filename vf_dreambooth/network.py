"""Whether a server can be reached, asked once and briefly: libraries repeat their requests for half a minute."""

import socket
import urllib.request
from urllib.parse import urlsplit

PATIENCE = 3.0  # seconds in which a server must answer


def answers(address: str) -> bool:
    """Whether a server, or the proxy that leads to it, can be connected to."""
    url = urlsplit(urllib.request.getproxies().get(urlsplit(address).scheme) or address)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
