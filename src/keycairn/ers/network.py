"""Whether this machine is connected: recovery refuses to run while it is.

Linux only says so in ``/sys/class/net``. If that cannot be read the answer is "can't tell",
which is refused as well.
"""

from __future__ import annotations

from pathlib import Path

from keycairn.errors import Code, KeycairnError

SYS = Path("/sys/class/net")
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


def require_offline(root: Path = SYS) -> None:
    """Refuse unless this machine has no network.

    Raises:
        KeycairnError: E_POLICY, naming the interfaces, or saying that it cannot tell.
    """
    advice = (
        "disconnect the machine, or say --allow-network if you accept the risk; a key in an HSM or "
        "service that is reached over the network needs it"
    )
    lost = "Nothing was read or decrypted."
    try:
        up = interfaces_up(root)
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
