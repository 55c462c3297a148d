"""Whether this machine is connected: recovery refuses to run while it is.

Linux says so in ``/sys/class/net``. If that cannot be read the answer is "can't tell", which is
refused as well. What is mounted there may tell of another network namespace than this process
is in (``unshare --net``, some containers): then the interfaces themselves are asked.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from keycairn.errors import Code, KeycairnError

SYS = Path("/sys/class/net")
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
#: Link states that mean "no traffic": everything else counts as up when the interface is on.
#: Tunnels report "unknown" while they work.
_DOWN = frozenset({"down", "lowerlayerdown", "notpresent"})


def interfaces_up(root: Path = SYS) -> list[str]:
    """Names of the interfaces, loopback left out, that are up.

    Raises:
        OSError, ValueError: the kernel's tables cannot be read.
    """
    up = []
    for entry in sorted(root.iterdir()):
        if not (entry / "flags").exists():
            continue  # bonding_masters and the like are files, not interfaces
        flags = int((entry / "flags").read_text(), 16)
        state = (entry / "operstate").read_text().strip()
        if flags & _IFF_LOOPBACK or not flags & _IFF_UP or state in _DOWN:
            continue
        up.append(entry.name)
    return up


def _is_of_this_process(root: Path) -> bool:
    indices = {}
    for entry in root.iterdir():
        if (entry / "ifindex").exists():
            indices[entry.name] = int((entry / "ifindex").read_text())
    return indices == {name: index for index, name in socket.if_nameindex()}


def interfaces_switched_on() -> list[str]:
    """Names of this process's interfaces, loopback left out, that are switched on, whether or not
    anything is at the other end; OSError if the kernel does not say."""
    on = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("16sH22x", name.encode(), 0)
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("H", answer, 16)
            if flags & _IFF_UP and not flags & _IFF_LOOPBACK:
                on.append(name)
    return sorted(on)


def interfaces_here() -> list[str]:
    """Interfaces that are up in the network namespace of this process; errors as above."""
    return interfaces_up() if _is_of_this_process(SYS) else interfaces_switched_on()


def require_offline(root: Path | None = None) -> None:
    """Refuse unless this machine has no network.

    Args:
        root: tables to read instead of this process's own.

    Raises:
        KeycairnError: E_POLICY, naming the interfaces, or saying that it cannot tell.
    """
    advice = (
        "disconnect the machine, or say --allow-network if you accept the risk; a key in an HSM or "
        "service that is reached over the network needs it"
    )
    lost = "Nothing was read or decrypted."
    try:
        up = interfaces_here() if root is None else interfaces_up(root)
    except (OSError, ValueError) as exc:
        raise KeycairnError(
            Code.POLICY,
            "cannot tell whether this machine is connected to a network",
            not_lost=lost,
            next=advice,
        ) from exc
    if up:
        raise KeycairnError(
            Code.POLICY,
            "recovery is refused while a network interface is up: " + ", ".join(up),
            not_lost=lost,
            next=advice,
            detail={"interfaces": up},
        )
