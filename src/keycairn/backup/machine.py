"""Is this machine fit for the restored node: nothing in the way, nothing alive, ports free."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from keycairn.backup.database import Finding
from keycairn.errors import Code, KeycairnError

#: The file that a running node holds locked, in its data directory (store/lock.py).
NODE_LOCK = "node.lock"
#: Stands in a directory that a restore is making; names the bundle by its SHA-256.
MARKER = ".keycairn-restore"
_UNTOUCHED = "Nothing was written; what stands there is unchanged."


def staging_of(into: Path) -> Path:
    """The sibling directory in which a restore into ``into`` is prepared."""
    return into.with_name(f".{into.name}.restoring")


def check_target(into: Path, sha256: str) -> None:
    """Refuse a place that is taken.

    Raises:
        KeycairnError: E_CONFLICT when ``into`` is anything but absent or an empty directory, with
            words of its own for a live node and for a restore that was already finished;
            E_UNAVAILABLE when its parent directory isn't there.
    """
    if not into.parent.is_dir():
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"{into.parent}, in which the node is to be restored, is not a directory",
            not_lost=_UNTOUCHED,
            next=f"mkdir -p {into.parent}",
        )
    if not into.is_symlink() and not into.exists():
        return
    if into.is_symlink() or not into.is_dir():
        raise _conflict(f"{into} exists and is not a directory")
    if not any(into.iterdir()):
        return
    if is_live(into):
        raise _conflict(
            f"a node is running in {into}: a restore never touches a live node",
            "if it must be replaced, stop it first (SIGTERM, or keycairn vault down), then move "
            "its directory away",
        )
    with suppress(OSError):
        if (into / MARKER).read_text().strip() == sha256:
            raise KeycairnError(
                Code.CONFLICT,
                f"this bundle was restored to {into} already, completely",
                not_lost=_UNTOUCHED,
                next=f"rm {into / MARKER}, then keycairn node run --config {into}/node.toml",
            )
    raise _conflict(f"{into} is not empty")


def _conflict(
    message: str, next: str = "name another directory with --into, or move this one away yourself"
) -> KeycairnError:
    return KeycairnError(Code.CONFLICT, message, not_lost=_UNTOUCHED, next=next)


def is_live(home: Path) -> bool:
    """Whether some process holds a node's lock below ``home``."""
    return any(
        _held(path) for pattern in ("", "*/", "*/*/") for path in home.glob(pattern + NODE_LOCK)
    )


def _held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def check_ports(listeners: Mapping[str, str]) -> list[Finding]:
    """Addresses of this machine that are taken, one finding each.

    Only loopback and wildcard addresses are tried: another address may be one that the machine
    gets later.
    """
    found = []
    for key, text in sorted(listeners.items()):
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
        if host == "localhost":
            host = "127.0.0.1"
        try:
            address = ipaddress.ip_address(host)
            local = address.is_loopback or address.is_unspecified
            taken = local and _taken(address, int(port))
        except ValueError:
            continue
        if taken:
            found.append(
                Finding(
                    "port",
                    f"{key} = {text} is in use on this machine",
                    f"stop what uses it, or map {key} to a free address with --map",
                )
            )
    return found


def _taken(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(address), port))
        except (OSError, OverflowError) as exc:
            return getattr(exc, "errno", None) == errno.EADDRINUSE
    return False
