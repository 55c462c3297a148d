"""``keycairn init``: a whole local vault in one directory.

    DIR/vault.toml                     client profile, mode 0600
    DIR/node1/node.toml, identity.key, data/node.db, anchor/, ers/
    DIR/operator1/master.key, backup-identity.age, backups/

``operator1`` is what node 1's operator keeps elsewhere, so that ``node1`` can be lost whole. In
production these are on different machines, and the age identity is never on the node's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path

import bech32

from keycairn.backup.age import recipient_of
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.anchor import write_first_anchor
from keycairn.node.config import OPERATIONS, Presignatures, load_config
from keycairn.node.files import write_private
from keycairn.node.identity import create_identity
from keycairn.node.storage import create_storage
from keycairn.ports import Clock, Rng, randbelow
from keycairn.ports.system import SystemRng
from keycairn.store.database import parse_database
from keycairn.vault.api import Identity
from keycairn.vault.policy import parse, require_satisfiable

MAX_NODES = 32
#: Below the range from which systems draw ports for outgoing connections.
_FIRST_PORT, _LAST_PORT = 18_080, 30_000
_PER_NODE = 3  # api, links, management
_HOST = "127.0.0.1"
APPLICATION = "default"
_STOCK = Presignatures()
SQLITE = "sqlite:///data/node.db"
#: Stands for a node's number in ``--database`` and ``--database-password-env``.
_NODE = "{node}"


@dataclass(frozen=True)
class Plan:
    """What a local vault is going to be.

    Attributes:
        database: URL of every node's database, with ``{node}`` for its number.
        password_env: environment variable with the password for it, in the same way.
    """

    directory: Path
    nodes: int
    threshold: int
    base_port: int
    policy: str
    database: str = SQLITE
    password_env: str | None = None

    def node(self, i: int) -> Path:
        """Directory of node ``i``."""
        return self.directory / f"node{i}"

    def operator(self, i: int) -> Path:
        """Directory of what node ``i``'s operator keeps elsewhere."""
        return self.directory / f"operator{i}"

    def port(self, i: int, listener: int) -> int:
        """Port of node ``i``: 0 api, 1 links, 2 management."""
        return self.base_port + _PER_NODE * (i - 1) + listener


def check_plan(
    directory: Path,
    nodes: int,
    threshold: int,
    base_port: int | None,
    policy: str,
    database: str = SQLITE,
    password_env: str | None = None,
) -> Plan:
    """Refuse what can't become a vault, before anything is written.

    Raises:
        KeycairnError: E_MALFORMED, E_POLICY (a policy that n and t can't meet), E_CONFLICT (the
            directory isn't empty).
    """
    if not 2 <= nodes <= MAX_NODES:
        raise malformed(f"--nodes must be between 2 and {MAX_NODES}", nodes=nodes)
    if not 1 <= threshold <= nodes - 1:
        raise KeycairnError(
            Code.MALFORMED,
            f"--threshold must be between 1 and {nodes - 1}: up to that many of the {nodes} nodes "
            "may fall to an attacker, and one more than that signs",
            not_lost="Nothing was written.",
        )
    require_satisfiable(parse(policy), nodes, threshold)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise KeycairnError(
            Code.CONFLICT,
            f"{directory} exists and is not an empty directory",
            not_lost="It was not touched.",
            next="name a directory that does not exist yet",
        )
    for i in (1, nodes):
        parse_database(database.replace(_NODE, str(i)), directory)
    if database != SQLITE and _NODE not in database:
        raise malformed(f"--database must hold {_NODE}, since each node needs its own")
    if base_port is None:
        base_port = _free_block(_PER_NODE * nodes)
    elif not 1024 <= base_port <= 65_535 - _PER_NODE * nodes:
        raise malformed(f"--base-port must be between 1024 and {65_535 - _PER_NODE * nodes}")
    return Plan(directory.absolute(), nodes, threshold, base_port, policy, database, password_env)


def create_vault(plan: Plan, clock: Clock, rng: Rng) -> Path:
    """Write the vault; returns the path of vault.toml. What was begun stays if this fails."""
    vault_id = f"vault-{rng.bytes(8).hex()}"
    indices = range(1, plan.nodes + 1)
    api_keys = {i: rng.bytes(32).hex() for i in indices}
    make_directory(plan.directory)
    identities: dict[int, Identity] = {}
    public: dict[int, bytes] = {}
    recipients: dict[int, str] = {}
    for i in indices:
        for part in ("", "data", "anchor", "ers"):
            make_directory(plan.node(i) / part)
        make_directory(plan.operator(i) / "backups")
        write_private(plan.operator(i) / "master.key", rng.bytes(32).hex().encode() + b"\n")
        recipients[i] = age_identity(plan.operator(i) / "backup-identity.age", rng)
        identities[i] = create_identity(plan.node(i) / "identity.key", rng)
        public[i] = identities[i].public
    for i in indices:
        text = _node_toml(plan, i, vault_id, public, api_keys[i], recipients[i])
        path = plan.node(i) / "node.toml"
        write_private(path, text.encode())
        config = load_config(path, {})
        asyncio.run(create_storage(config, clock, rng))
        write_first_anchor(config, identities[i], clock)
    profile = plan.directory / "vault.toml"
    write_private(profile, _vault_toml(plan, vault_id, public, api_keys).encode())
    return profile


def make_directory(path: Path) -> None:
    """Make a directory (mode 0700) and those above it; E_UNAVAILABLE."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"the directory {path} cannot be made: {exc.strerror}"
        ) from exc


def age_identity(path: Path, rng: Rng) -> str:
    """Write an age identity (X25519) and return its recipient."""
    secret = rng.bytes(32)
    words = bech32.convertbits(secret, 8, 5) or []
    line = bech32.bech32_encode("age-secret-key-", words).upper().encode()
    [recipient] = recipient_of(SecretBytes(line))
    write_private(path, b"# public key: " + recipient.encode() + b"\n" + line + b"\n")
    return recipient


def _free_block(count: int) -> int:
    """The first port of ``count`` consecutive ports that nobody listens on.

    The search begins at a random place: two vaults made at the same moment shall not meet.
    """
    run = 0
    start = _FIRST_PORT + randbelow(SystemRng(), (_LAST_PORT - _FIRST_PORT) // 2)
    for port in range(start, _LAST_PORT):
        run = run + 1 if _is_free(port) else 0
        if run == count:
            return port - count + 1
    raise KeycairnError(
        Code.UNAVAILABLE, f"no {count} free ports in a row", next="give --base-port P"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def quoted(text: str) -> str:
    """A TOML string."""
    # A JSON string is a TOML basic string, as long as it stays out of surrogates.
    return json.dumps(text, ensure_ascii=False)


def _node_toml(
    plan: Plan, i: int, vault_id: str, public: dict[int, bytes], api_key: str, recipient: str
) -> str:
    peers = "\n".join(
        f"[[peers]]\n"
        f"index = {j}\n"
        f"public_key = {quoted(key.hex())}\n"
        f"address = {quoted(f'wss://{_HOST}:{plan.port(j, 1)}')}\n"
        for j, key in public.items()
        if j != i
    )
    operations = "\n".join(
        f"[operations.{scheme}]\n" + "".join(f"{switch} = true\n" for switch in switches)
        for scheme, switches in OPERATIONS.items()
    )
    elsewhere = f"../operator{i}"
    database = f"url = {quoted(plan.database.replace(_NODE, str(i)))}"
    if plan.password_env is not None:
        database += f"\npassword_env = {quoted(plan.password_env.replace(_NODE, str(i)))}"
    return f"""# Node {i} of {plan.nodes}. Every key is explained in docs/configuration.md.

[vault]
id = {quoted(vault_id)}
threshold = {plan.threshold}

[player]
index = {i}
identity_key_file = "identity.key"

{peers}
[database]
{database}

[anchor]
directory = "anchor"

[encryptor]
kind = "keyfile"
secret_file = {quoted(f"{elsewhere}/master.key")}

[api]
listen = {quoted(f"{_HOST}:{plan.port(i, 0)}")}

[links]
listen = {quoted(f"{_HOST}:{plan.port(i, 1)}")}

[management]
listen = {quoted(f"{_HOST}:{plan.port(i, 2)}")}

[[applications]]
name = {quoted(APPLICATION)}
key_sha256 = {quoted(hashlib.sha256(api_key.encode()).hexdigest())}

{operations}
[presignatures]
storage = "memory"
target = {_STOCK.target}
low_water = {_STOCK.low_water}

[ers]
allowed = []
store = "ers"

[backup]
targets = [{quoted(f"{elsewhere}/backups")}]
recipients = [{quoted(recipient)}]
points_from_peers = true

[backup.policy]
require = {quoted(plan.policy)}
gate = ["address", "sign"]
"""


def _vault_toml(
    plan: Plan, vault_id: str, public: dict[int, bytes], api_keys: dict[int, str]
) -> str:
    nodes = "\n".join(
        f"[[nodes]]\n"
        f"index = {i}\n"
        f"url = {quoted(f'http://{_HOST}:{plan.port(i, 0)}')}\n"
        f"api_key = {quoted(api_keys[i])}\n"
        f"public_key = {quoted(public[i].hex())}\n"
        f"config = {quoted(f'node{i}/node.toml')}\n"
        for i in public
    )
    return f"""# A user of all nodes of this vault. Holds API keys: keep it to yourself.

[vault]
id = {quoted(vault_id)}
threshold = {plan.threshold}

{nodes}"""
