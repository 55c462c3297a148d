"""Whether this machine is connected: recovery refuses to run while it is.

Linux says so in /sys/class/net and by an ioctl. Anywhere else, and if that can't be read, the
answer is "can't tell", which is refused as well.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import List

from .errors import ToolError

SYS = "/sys/class/net"
_GET_FLAGS, _UP, _LOOPBACK = 0x8913, 0x1, 0x8
#: Link states without traffic; tunnels report "unknown" while they work.
_DOWN = ("down", "lowerlayerdown", "notpresent")


def _read(name: str, what: str) -> str:
    with open(os.path.join(SYS, name, what), encoding="ascii") as stream:
        return stream.read().strip()


def _flags(name: str) -> int:
    import fcntl  # not on every system: then "can't tell"

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH22x", name.encode(), 0)
        answer = fcntl.ioctl(any_socket.fileno(), _GET_FLAGS, request)
    return int(struct.unpack_from("H", answer, 16)[0])


def _of_this_process(interfaces: "dict[str, int]") -> bool:
    # What is mounted at /sys may tell of another network namespace.
    try:
        shown = {
            name: int(_read(name, "ifindex"))
            for name in os.listdir(SYS)
            if os.path.exists(os.path.join(SYS, name, "ifindex"))
        }
    except OSError:
        return False
    return shown == interfaces


def interfaces_up() -> List[str]:
    """Interfaces that are up, loopback left out; OSError or others if the system does not say."""
    interfaces = {name: index for index, name in socket.if_nameindex()}
    here, up = _of_this_process(interfaces), []
    for name in sorted(interfaces):
        flags = _flags(name)
        idle = here and _read(name, "operstate") in _DOWN
        if flags & _UP and not flags & _LOOPBACK and not idle:
            up.append(name)
    return up


def require_offline() -> None:
    """E_POLICY unless this machine has no network."""
    try:
        up = interfaces_up()
    except (OSError, ValueError, ImportError, AttributeError):
        message, up = "cannot tell whether this machine is connected to a network", []
    else:
        if not up:
            return
        message = "recovery is refused while a network interface is up: " + ", ".join(up)
    raise ToolError(
        "E_POLICY",
        message,
        not_lost="Nothing was read or decrypted.",
        advice="disconnect the machine, or say --allow-network if you accept the risk",
        detail={"interfaces": up} if up else {},
    )
