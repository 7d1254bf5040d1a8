"""Ports of loopback that stay ours while nobody listens on them.

A server that is to come back on its port must not find it taken.  While it is away, a client
that tries again and again may be given that very port for its own end, and is then connected to
itself; so may anybody's.
"""

import socket


def keep_port(port: int = 0, address: str = "127.0.0.1") -> socket.socket:
    """Bind *port*, or a free one, without listening: connections are refused.

    Whoever listens there needs SO_REUSEPORT as well, and to be of the same user.
    """
    kept = socket.socket()
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((address, port))
    except OSError:
        kept.close()
        raise
    return kept
