"""What every test may use."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long figures too")


#: Left out of ``./test --fast``: real processes, whole nodes, long tables of trials.
SLOW = (
    "backup/test_restore",
    "backup/test_servers",
    "backup/test_targets",
    "cli/test_demo",
    "cli/test_presignatures",
    "cli/test_populate",
    "cli/test_vault_commands",
    "disasters/",
    "encryptors/test_contract",
    "encryptors/test_five_nodes",
    "encryptors/test_plugins",
    "encryptors/test_transit",
    "ers/test_cheating",
    "ers/test_cli",
    "ers/test_forms",
    "ers/test_kit",
    "ers/test_mutations",
    "ers/test_recover",
    "ers/test_token",
    "ers/test_transit",
    "kit/",
    "links/test_tls",
    "node/test_encryptor",
    "node/test_openapi",
    "protocols/cheating/",
    "protocols/dkls23/test_presign",
    "protocols/dkls23/test_sign",
    "protocols/test_frost_bip340",
    "protocols/test_frost_suites",
    "protocols/test_volume",
    "store/test_conformance",
    "store/test_integrity",
    "store/test_lost_updates",
    "store/test_migrations",
    "store/test_patrol",
    "store/test_servers",
    "store/test_sqlite",
    "system/",
    "vault/test_service",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow files; leave out ``full`` tests unless --full is given."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder with public test vectors."""
    folder = os.environ.get("KEYCAIRN_VECTORS")
    if not folder:
        pytest.skip("KEYCAIRN_VECTORS is not set: public test vectors are not here")
    if not Path(folder).is_dir():
        pytest.fail(f"KEYCAIRN_VECTORS names {folder}, which is not a directory")
    return Path(folder)


# Below the range from which the system draws ports for outgoing connections, so that none of
# these is taken between the check and its use; starting at another place in each process.
_LOW, _HIGH = 12_000, 32_000
_next_port = itertools.count(_LOW + os.getpid() * 61 % (_HIGH - _LOW))


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def free_ports() -> Callable[..., int]:
    """``free_ports(count=1)`` gives the first of ``count`` consecutive free ports."""

    def find(count: int = 1) -> int:
        run = 0
        for n in itertools.islice(_next_port, 2 * (_HIGH - _LOW)):
            port = _LOW + (n - _LOW) % (_HIGH - _LOW)
            if port == _LOW:
                run = 0
            run = run + 1 if _is_free(port) else 0
            if run == count:
                return port - count + 1
        pytest.fail(f"no {count} consecutive free ports")

    return find
