"""``keycairn init DIR --node I``: one node of a vault whose nodes are on different machines.

Two steps, since nobody knows the others' keys at first:

1. :func:`begin_node`: the identity key, ``node.toml`` with everything that its operator decides,
   and ``node.card`` for the other operators.
2. :func:`finish_node`, with the cards of all others: they become ``[[peers]]`` in ``node.toml``,
   and the node gets its empty database and its anchor.

    DIR/node.toml, identity.key, node.card, NAME.api-key, data/, anchor/, ers/

What opens the node's database or its bundles isn't in DIR: neither the master secret nor the age
identity.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.backup.age import check_recipients
from keycairn.backup.nodefile import is_object_store
from keycairn.cli.cards import Card, agree, check_card, read_card, vault_fingerprint
from keycairn.cli.layout import age_identity, make_directory, quoted
from keycairn.curves import ED25519
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.anchor import write_first_anchor
from keycairn.node.config import OPERATIONS, Presignatures, load_config
from keycairn.node.files import write_private
from keycairn.node.identity import create_identity, load_identity
from keycairn.node.storage import create_storage
from keycairn.node.tables import read_toml
from keycairn.ports import Clock, Rng
from keycairn.store.opening import require_unused
from keycairn.vault.policy import parse, require_satisfiable

CARD = "node.card"
_PEERS_HERE = "# [[peers]] come here: keycairn init DIR --peer CARD --peer CARD\n"
_STOCK = Presignatures()


@dataclass(frozen=True)
class Wishes:
    """What an operator decides; see docs/configuration.md for each.

    Attributes:
        secret: ("file" | "env" | "credential", where), or None for an encryptor that needs none.
        encryptor: "keyfile", "password", or a TOML file with an [encryptor] section.
        password: where the database's password is, in the same way.
        operations: schemes that are switched on.
    """

    directory: Path
    index: int
    vault: str
    nodes: int
    threshold: int
    address: str
    links: str
    api: str
    management: str
    tls: tuple[str, str] | None
    database: str
    password: tuple[str, str] | None
    encryptor: str
    secret: tuple[str, str] | None
    application: str
    operations: Sequence[str]
    ers_allowed: Sequence[str]
    targets: Sequence[str]
    recipients: Sequence[str]
    schedule: str
    policy: str
    include: Sequence[str] = ()


# -- step 1 -----------------------------------------------------------------------------------


def begin_node(wishes: Wishes, rng: Rng) -> dict[str, Any]:
    """Write the files of one node that need nobody else.

    Raises:
        KeycairnError: E_MALFORMED, E_POLICY, E_BAD_INDEX before anything is written; E_CONFLICT
            when the directory isn't empty.
    """
    home = wishes.directory.absolute()
    _check(wishes, home)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise KeycairnError(
            Code.CONFLICT,
            f"{home} exists and is not an empty directory",
            not_lost="It was not touched.",
            next="name a directory that does not exist yet; to go on with a node that was begun, "
            f"keycairn init {home} --peer CARD for each of the others",
        )
    api_key = rng.bytes(32).hex()
    text = _node_toml(wishes, hashlib.sha256(api_key.encode()).hexdigest())
    _judge(text.replace(_PEERS_HERE, _stand_ins(wishes)), home)
    for part in ("", "anchor", "ers", "data"):
        make_directory(home / part)
    identity = create_identity(home / "identity.key", rng)
    card = _card(wishes, identity.public, wishes.index, wishes.address)
    made_secret = _make_secret(wishes, rng)
    write_private(home / f"{wishes.application}.api-key", api_key.encode() + b"\n")
    write_private(home / "node.toml", text.encode())
    path = home / CARD
    write_public(path, _json_line(card))
    return {
        "directory": str(home),
        "config": str(home / "node.toml"),
        "card": str(path),
        "vault": wishes.vault,
        "node": wishes.index,
        "quorum": f"{wishes.threshold + 1}-of-{wishes.nodes} (t={wishes.threshold})",
        "fingerprint": card.fingerprint,
        "public_key": identity.public.hex(),
        "api_key_file": str(home / f"{wishes.application}.api-key"),
        "made_secret": made_secret,
        "next": [
            *(
                [f"copy {made_secret} to a safe: without it no bundle of this node opens"]
                if made_secret
                else []
            ),
            f"read {home / 'node.toml'} and correct what differs here",
            f"give {path} to the operators of the other nodes, and get theirs",
            f"keycairn init {home} --peer CARD, with the card of each other node",
        ],
    }


def _check(wishes: Wishes, home: Path) -> None:
    own = _card(wishes, _made_up_key(0), wishes.index, wishes.address)
    check_card(own, "this node")
    require_satisfiable(parse(wishes.policy), wishes.nodes, wishes.threshold)
    unknown = sorted(set(wishes.operations) - set(OPERATIONS))
    if unknown:
        raise malformed(f"--operations knows {', '.join(OPERATIONS)}; not {', '.join(unknown)}")
    if not wishes.recipients:
        raise KeycairnError(
            Code.MALFORMED,
            "--backup-recipient is missing: who can open this node's bundles?",
            not_lost="Nothing was written.",
            next="on another machine: keycairn backup keygen --out backup-identity.age; give the "
            "age1… that it prints here",
        )
    check_recipients(wishes.recipients)
    if not wishes.targets:
        raise malformed("--backup-target is missing: where do this node's bundles go?")
    inside = [("--secret-file", wishes.secret), ("--database-password-file", wishes.password)]
    for option, source in inside:
        if source is not None and source[0] == "file" and _within(Path(source[1]), home):
            raise KeycairnError(
                Code.POLICY,
                f"{option} is in the node's own directory: who finds that has both lock and key",
                not_lost="Nothing was written.",
                next="keep it elsewhere, for example under /etc/keycairn",
            )
    if wishes.encryptor in ("keyfile", "password") and wishes.secret is None:
        raise malformed("where is the master secret? --secret-file, -env or -credential")


def _within(path: Path, home: Path) -> bool:
    return path.absolute().resolve().is_relative_to(home.resolve())


def _card(wishes: Wishes, public: bytes, index: int, address: str) -> Card:
    return Card(wishes.vault, wishes.nodes, wishes.threshold, index, public, address)


def _make_secret(wishes: Wishes, rng: Rng) -> str | None:
    """A key file that isn't there yet is made; one that is there is left alone."""
    if wishes.encryptor != "keyfile" or wishes.secret is None or wishes.secret[0] != "file":
        return None
    path = Path(wishes.secret[1]).absolute()
    if path.exists():
        return None
    write_private(path, rng.bytes(32).hex().encode() + b"\n")
    return str(path)


def _judge(text: str, home: Path) -> None:
    """What a node that starts with this file would say of it.

    Raises:
        KeycairnError: E_MALFORMED, E_POLICY.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "node.toml"
        write_private(path, text.encode())
        try:
            load_config(path, {})
        except KeycairnError as exc:
            exc.message = exc.message.replace(str(path), str(home / "node.toml"))
            exc.not_lost = "Nothing was written."
            raise


def _stand_ins(wishes: Wishes) -> str:
    """Peers that are made up, for judging a file while the real ones are not known."""
    others = (i for i in range(1, wishes.nodes + 1) if i != wishes.index)
    return _peers([_card(wishes, _made_up_key(i), i, "incoming") for i in others])


def _made_up_key(index: int) -> bytes:
    return ED25519.base_mul(index + 1).encode()


# -- step 2 -----------------------------------------------------------------------------------


def finish_node(directory: Path, cards: Sequence[Path], clock: Clock, rng: Rng) -> dict[str, Any]:
    """Enter the peers, and make the node's database and anchor. Can be repeated until it succeeds.

    Raises:
        KeycairnError: E_CONFLICT (cards that disagree; other peers were entered before; the node
            is there already), E_MALFORMED, what making a database raises. node.toml is changed
            last of what can be refused, and in one step.
    """
    home = directory.absolute()
    path = home / "node.toml"
    own = _own_card(home)
    peers = agree(own, {str(card): read_card(card) for card in cards})
    text = path.read_text(encoding="utf-8")
    if "peers" in read_toml(path):
        config = load_config(path, {})
        entered = {(p.index, p.public_key, p.address) for p in config.peers}
        if entered != {(c.index, c.public_key, c.address) for c in peers}:
            raise KeycairnError(
                Code.CONFLICT,
                f"{path} names other [[peers]] than these cards",
                not_lost="Nothing was changed.",
                next="compare the fingerprints with the other operators; correct [[peers]] by hand",
            )
    else:
        entry = _peers(peers)
        here = _PEERS_HERE in text
        text = text.replace(_PEERS_HERE, entry) if here else f"{text.rstrip()}\n\n{entry}"
        _judge(text, home)
        write_private(path, text.encode())
        config = load_config(path, {})
    every = [own, *peers]
    try:
        if isinstance(config.database, Path):
            require_unused(config.database)
        identity = load_identity(config.identity_key_file)
        make_directory(config.data_directory)
        asyncio.run(create_storage(config, clock, rng))
    except KeycairnError as exc:
        if exc.code is Code.CONFLICT:  # Asked again, perhaps since [[peers]] were corrected.
            exc.next = (
                f"node.toml has the peers of these cards; fingerprint of the vault: "
                f"{vault_fingerprint(every)}. If this is the node's own database: "
                f"keycairn node run --config {path}"
            )
        raise
    write_first_anchor(config, identity, clock)
    return {
        "directory": str(home),
        "config": str(path),
        "vault": own.vault,
        "node": own.index,
        "vault_fingerprint": vault_fingerprint(every),
        "nodes": [
            {"node": c.index, "address": c.address, "fingerprint": c.fingerprint}
            for c in sorted(every, key=lambda c: c.index)
        ],
        "next": [
            "read the fingerprint of the vault to the other operators, by voice: all must have "
            "the same",
            f"keycairn encryptor check --config {path}",
            f"keycairn node run --config {path}, or the service of your system",
            f"keycairn node status --config {path}",
        ],
    }


def _own_card(home: Path) -> Card:
    """This node's card, held against its key and its node.toml: a peer's card here would put the
    peer in this node's place."""
    if not (home / CARD).exists():
        raise KeycairnError(
            Code.NOT_FOUND,
            f"there is no {home / CARD}: no node was begun in this directory",
            next=f"keycairn init {home} --node NUMBER --vault-id ID …",
        )
    card = read_card(home / CARD)
    values = read_toml(home / "node.toml")
    vault, player = values.get("vault", {}), values.get("player", {})
    key_file = home / str(player.get("identity_key_file", "identity.key"))
    same = (
        vault.get("id") == card.vault
        and vault.get("threshold") == card.threshold
        and player.get("index") == card.index
        and load_identity(key_file).public == card.public_key
    )
    if not same:
        raise KeycairnError(
            Code.CONFLICT,
            f"{home / CARD} and node.toml disagree on vault, threshold, number or key",
            not_lost="Nothing was changed.",
            next="begin again in an empty directory, and give the new card to the others",
        )
    return card


# -- files ------------------------------------------------------------------------------------


def age_keygen(path: Path, rng: Rng) -> str:
    """A new age identity (X25519) in a file of mode 0600; returns its recipient.

    Raises:
        KeycairnError: E_CONFLICT when the file is there, E_UNAVAILABLE.
    """
    if path.exists():
        raise KeycairnError(
            Code.CONFLICT, f"{path} is there already", not_lost="It was not touched."
        )
    return age_identity(path, rng)


def write_public(path: Path, data: bytes) -> None:
    """A small file that others may read."""
    write_private(path, data)
    path.chmod(0o644)


def _json_line(card: Card) -> bytes:
    return json.dumps(card.to_json(), indent=1).encode() + b"\n"


def _peers(cards: Sequence[Card]) -> str:
    return "\n".join(
        f"[[peers]]\n"
        f"index = {c.index}\n"
        f"public_key = {quoted(c.public_key.hex())}\n"
        f"address = {quoted(c.address)}\n"
        for c in sorted(cards, key=lambda c: c.index)
    )


def _source(name: str, source: tuple[str, str] | None) -> str:
    if source is None:
        return ""
    kind, where = source
    if kind == "file":
        where = str(Path(where).absolute())
    return f"{name}_{kind} = {quoted(where)}\n"


def _encryptor(wishes: Wishes) -> str:
    if wishes.encryptor in ("keyfile", "password"):
        return f"kind = {quoted(wishes.encryptor)}\n" + _source("secret", wishes.secret)
    path = Path(wishes.encryptor)
    section = read_toml(path).get("encryptor")
    if not isinstance(section, dict):
        raise malformed(
            f"{path} has no [encryptor] section; --encryptor is keyfile, password or it"
        )
    lines = []
    for key, value in section.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise malformed(f"[encryptor] `{key}` in {path} is neither a text nor a number")
        lines.append(f"{key} = {quoted(value) if isinstance(value, str) else value}\n")
    return "".join(lines) + _source("secret", wishes.secret)


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(quoted(t) for t in texts) + "]"


def _node_toml(wishes: Wishes, key_sha256: str) -> str:
    operations = "\n".join(
        f"[operations.{scheme}]\n"
        + "".join(f"{s} = {str(scheme in wishes.operations).lower()}\n" for s in switches)
        for scheme, switches in OPERATIONS.items()
    )
    targets = [t if is_object_store(t) else str(Path(t).absolute()) for t in wishes.targets]
    tls = ""
    if wishes.tls is not None:
        cert, key = (str(Path(p).absolute()) for p in wishes.tls)
        tls = f"tls_cert = {quoted(cert)}\ntls_key = {quoted(key)}\n"
    return f"""# Node {wishes.index} of {wishes.nodes}. docs/configuration.md explains every key.

[vault]
id = {quoted(wishes.vault)}
threshold = {wishes.threshold}
profile = "production"

[player]
index = {wishes.index}
identity_key_file = "identity.key"

{_PEERS_HERE}
[database]
url = {quoted(wishes.database)}
{_source("password", wishes.password)}
[anchor]
# Not on a volume that is snapshot or put back together with the database.
directory = "anchor"

[encryptor]
{_encryptor(wishes)}
[api]
listen = {quoted(wishes.api)}
{tls}
[links]
listen = {quoted(wishes.links)}

[management]
listen = {quoted(wishes.management)}

[[applications]]
name = {quoted(wishes.application)}
key_sha256 = {quoted(key_sha256)}

{operations}
[presignatures]
storage = "memory"
target = {_STOCK.target}
low_water = {_STOCK.low_water}

[ers]
allowed = {_list(wishes.ers_allowed)}
store = "ers"

[backup]
targets = {_list(targets)}
recipients = {_list(wishes.recipients)}
include = {_list(wishes.include)}
schedule = {quoted(wishes.schedule)}
keep = {{ last = 3, daily = 7, weekly = 4 }}
# Whether a peer's operator may begin a backup point, in which this node writes a bundle, too.
points_from_peers = true
point_interval_seconds = 3600

[backup.policy]
require = {quoted(wishes.policy)}
gate = ["address", "sign"]
"""
