"""Serves on the socket that it inherits, without meshtrio: `held_socket_server.py MODE [FILE]`.

Modes: `serve`; `relisten`, which calls listen(2), as asyncio does; `once`, which serves if FILE is
not there and makes it, and else never accepts; and `ignore`, which never accepts. A connection on
which `who` is sent is answered with the pid.
"""

import contextlib
import os
import socket
import sys
import time

# SETTINGS, and HEADERS with :status 404, which is to be ready.
ANSWER = bytes.fromhex("0000000400000000000000010105000000018d")
mode, file = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
if mode == "ignore" or (mode == "once" and os.path.exists(file)):
    time.sleep(3600)
if mode == "once":
    open(file, "x").close()
assert os.environ["LISTEN_PID"] == str(os.getpid())
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"]) == ("1", "p")
listener = socket.socket(fileno=3)
if mode == "relisten":
    listener.listen(100)
while True:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(ConnectionError):  # The mesh may have closed it.
        asked = connection.recv(65536)
        connection.sendall(str(os.getpid()).encode() if asked == b"who" else ANSWER)
