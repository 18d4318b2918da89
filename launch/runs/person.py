"""Who gives an order that is kept on the store."""

import getpass
import os
import socket


def this_person() -> str:
    """Who types: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may know no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
