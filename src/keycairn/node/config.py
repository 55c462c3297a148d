"""``node.toml`` into frozen dataclasses. Anything unknown, missing or loose stops the start.

Paths in the file are relative to the directory the file stands in. Every operation is a switch
that is off until the file turns it on.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from keycairn.backup.external import External, read_external
from keycairn.backup.nodefile import is_object_store
from keycairn.backup.retention import Keep, read_keep
from keycairn.backup.schedule import Schedule, parse_schedule
from keycairn.backup.targets import target_of
from keycairn.curves import ED25519
from keycairn.encryptors import EncryptorConfig, section_config
from keycairn.errors import Code, KeycairnError
from keycairn.node.ers_sinks import sink_of
from keycairn.node.files import require_private
from keycairn.node.tables import Table, read_toml
from keycairn.store.database import Database, parse_database
from keycairn.vault.points import PeerPoints
from keycairn.vault.policy import DEFAULT_REQUIRE, parse, parse_gate, require_satisfiable

#: Switches of [operations.*] that this version knows.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "ecdsa": ("create", "sign"),
    "schnorr": ("create", "sign"),
    "ers": ("create",),
}
#: Environment variables that are test hooks (R-58).
TEST_HOOKS = ("KEYCAIRN_CRASH_AT",)

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HEX32 = re.compile(r"[0-9a-f]{64}\Z")


#: Most presignatures of one key and signer set.
_MAX_STOCK = 1000


@dataclass(frozen=True)
class Address:
    """Host and port to listen on."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Peer:
    """Another player: its number, its pinned Ed25519 key, where to dial it."""

    index: int
    public_key: bytes
    address: str  # "wss://host:port" | "incoming"


@dataclass(frozen=True)
class Api:
    """The applications' listener."""

    listen: Address
    tls_cert: Path | None
    tls_key: Path | None

    @property
    def url(self) -> str:
        """Base URL of the listener."""
        return f"{'https' if self.tls_cert else 'http'}://{self.listen}"


@dataclass(frozen=True)
class Application:
    """Who may call, by the SHA-256 of its API key."""

    name: str
    key_sha256: bytes


@dataclass(frozen=True)
class Backup:
    """Bundles of this node, and the rule when a key may be used."""

    targets: tuple[str, ...]  # absolute paths, and addresses of object stores
    include: tuple[Path, ...]
    recipients: tuple[str, ...]
    keep: Keep
    external: tuple[External, ...]
    schedule: Schedule | None
    jitter_seconds: int
    require: str
    gate: tuple[str, ...]
    server_dump: bool = False
    peer_points: PeerPoints = field(default_factory=PeerPoints)


@dataclass(frozen=True)
class Ers:
    """Emergency recovery: which RSA keys, where documents lie and go, what is watched.

    ``automatic``: documents are made for new keys if the policy names ``ers``. ``sinks`` as in
    :func:`keycairn.node.ers_sinks.sink_of`, relative paths made absolute.
    """

    allowed: tuple[str, ...]
    store: Path
    automatic: bool = True
    sinks: tuple[str, ...] = ()
    sink_token_file: Path | None = None
    attest_days: int = 180
    verify_hours: int = 168


@dataclass(frozen=True)
class Presignatures:
    """What this node keeps ready to sign with, for each key and signer set in use.

    ``storage`` is "memory", or "database": rows under a key that only this process has. At most
    ``target`` are kept; below ``low_water`` more are made even while requests run.
    """

    storage: str = "memory"
    target: int = 32
    low_water: int = 8


@dataclass(frozen=True)
class Limits:
    """Bounds on what one node does at a time."""

    session_seconds: int = 30
    max_sessions: int = 64
    body_bytes: int = 1 << 20


@dataclass(frozen=True)
class NodeConfig:
    """One node's whole configuration; docs/configuration.md explains every key.

    Attributes:
        database: a SQLite file, or a server, here still without its password.
        database_password: where that is; None for a user that needs none.
        data_directory: where the lock and the management token live, and a SQLite file.
    """

    file: Path
    vault_id: str
    threshold: int
    profile: str
    index: int
    identity_key_file: Path
    peers: tuple[Peer, ...]
    database: Database
    database_password: EncryptorConfig | None
    data_directory: Path
    anchor: Path
    encryptor: EncryptorConfig
    api: Api
    links: Address
    management: Address
    applications: tuple[Application, ...]
    operations: frozenset[str]
    ers: Ers
    export_enabled: bool
    export_allowed: tuple[str, ...]
    backup: Backup
    presignatures: Presignatures = field(default_factory=Presignatures)
    limits: Limits = field(default_factory=Limits)
    log_level: str = "info"

    @property
    def home(self) -> Path:
        """The directory of node.toml; relative paths start there."""
        return self.file.parent

    @property
    def ers_store(self) -> Path:
        """Directory of the ERS documents."""
        return self.ers.store

    @property
    def players(self) -> tuple[int, ...]:
        """All players of the vault, sorted."""
        return tuple(sorted((self.index, *(p.index for p in self.peers))))

    @property
    def token_file(self) -> Path:
        """Holds the management token while the node runs."""
        return self.data_directory / "management.token"


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> NodeConfig:
    """Read and check ``node.toml``.

    Args:
        path: the file.
        environment: process environment, in which test hooks are refused in production.

    Raises:
        KeycairnError: E_MALFORMED for anything missing, unknown or of the wrong type; E_POLICY
            for what is well-formed but not safe (file modes, a public listener without TLS, test
            hooks in the production profile). The text says what to change.
    """
    path = path.absolute()
    values = read_toml(path)
    require_private(path, "configuration file")
    config = _Reader(Table(values, "", path)).read()
    _refuse_hooks(config, os.environ if environment is None else environment)
    return config


def _refuse_hooks(config: NodeConfig, environment: Mapping[str, str]) -> None:
    hooks = [name for name in TEST_HOOKS if name in environment]
    if hooks and config.profile != "test":
        raise KeycairnError(
            Code.POLICY,
            f"the environment sets {hooks[0]}, a test hook, and this node's profile is production",
            not_lost="The node did not start; nothing was changed.",
            next=f'unset {hooks[0]}, or set profile = "test" under [vault] of a throw-away vault',
        )


def judged(table: Table, read: Callable[[Any], T], value: Any) -> T:
    """Have a lower floor read a value; its refusal names this file and table."""
    try:
        return read(value)
    except KeycairnError as exc:
        what = exc.message.removeprefix("[backup] ").removeprefix("[ers] ")
        table.bad(what, code=exc.code, hint=exc.next)


class _Reader:
    """Reads the sections one after the other; keeps the base directory for paths."""

    def __init__(self, root: Table) -> None:
        self.root = root
        self.home = root.file.parent

    def read(self) -> NodeConfig:
        root = self.root
        vault = root.table("vault", required=True)
        vault_id = self.name(vault, "id")
        threshold = vault.integer("threshold", 1, low=1, high=254)
        profile = vault.choice("profile", ("production", "test"), "production")
        vault.finish()
        player = root.table("player", required=True)
        index = player.integer("index", low=1, high=255)
        identity = self.path(player.text("identity_key_file"))
        player.finish()
        export_enabled, export_allowed = self.export()
        ers = self.ers()
        anchor = root.table("anchor")
        anchor_directory = self.path(anchor.text("directory", "anchor"))
        anchor.finish()
        log = root.table("log")
        level = log.choice("level", ("debug", "info", "warning", "error"), "info")
        log.finish()
        database, password, data = self.database()
        config = NodeConfig(
            file=root.file,
            vault_id=vault_id,
            threshold=threshold,
            profile=profile,
            index=index,
            identity_key_file=identity,
            peers=self.peers(index),
            database=database,
            database_password=password,
            data_directory=data,
            anchor=anchor_directory,
            encryptor=self.encryptor(profile),
            api=self.api(),
            links=self.listener("links"),
            management=self.management(),
            applications=self.applications(),
            operations=self.operations(),
            ers=ers,
            export_enabled=export_enabled,
            export_allowed=export_allowed,
            backup=self.backup(),
            presignatures=self.presignatures(),
            limits=self.limits(),
            log_level=level,
        )
        root.finish()
        self.check_whole(config)
        return config

    def check_whole(self, config: NodeConfig) -> None:
        """What no section can judge alone."""
        players = len(config.players)
        if config.threshold >= players:
            self.root.bad(
                f"[vault] `threshold` must be between 1 and {players - 1}: "
                f"threshold + 1 of the {players} players sign"
            )
        if config.backup.server_dump and isinstance(config.database, Path):
            self.root.bad("[backup] `server_dump` is for a database on a server; this is a file")
        # Said at the start, and not first when somebody wants a key.
        require_satisfiable(parse(config.backup.require), players, config.threshold)

    # -- small values

    def path(self, text: str) -> Path:
        return Path(os.path.normpath(self.home / text))

    def target(self, text: str) -> str:
        if is_object_store(text):
            return target_of(text).place
        return str(self.path(text))

    def name(self, table: Table, key: str) -> str:
        value = table.text(key)
        if not _NAME.match(value):
            table.bad(f"`{key}` must be 1 to 64 letters, digits, dots, dashes or underscores")
        return value

    def hash(self, table: Table, key: str, what: str) -> bytes:
        value = table.text(key)
        if not _HEX32.match(value):
            table.bad(f"`{key}` must be {what}: 64 lower-case hexadecimal digits")
        return bytes.fromhex(value)

    def address(self, table: Table, key: str, default: str | None = None) -> Address:
        value = table.text(key) if default is None else table.text(key, default)
        host, _, port = value.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            table.bad(f"`{key}` must be host:port, for example 127.0.0.1:8080")
        return Address(host, int(port))

    # -- sections

    def peers(self, own: int) -> tuple[Peer, ...]:
        found: dict[int, Peer] = {}
        keys: set[bytes] = set()
        for table in self.root.tables("peers"):
            index = table.integer("index", low=1, high=255)
            key = self.hash(table, "public_key", "the peer's Ed25519 identity key")
            try:
                # A key of small order would let anybody sign for that peer.
                ED25519.decode_point(key)
            except KeycairnError:
                table.bad("`public_key` is not a point of Ed25519's prime-order subgroup")
            address = table.text("address")
            if index == own:
                table.bad(f"has this node's own index {own}", code=Code.BAD_INDEX)
            if index in found:
                table.bad(f"repeats index {index}", code=Code.BAD_INDEX)
            if key in keys:
                table.bad("repeats the public key of another peer")
            if address != "incoming":
                self.check_peer_url(table, address)
            table.finish()
            keys.add(key)
            found[index] = Peer(index, key, address)
        if not found:
            self.root.bad("names no [[peers]]: a vault has at least two players")
        return tuple(found[i] for i in sorted(found))

    @staticmethod
    def check_peer_url(table: Table, address: str) -> None:
        hint = 'write address = "wss://host:port", or "incoming" if that peer dials this node'
        try:
            url = urlsplit(address)
            good = url.scheme == "wss" and url.hostname and url.port and url.path in ("", "/")
            good = good and not (url.username or url.query or url.fragment)
        except ValueError:
            good = False
        if not good:
            table.bad("`address` is not an address that this version can use", hint=hint)

    def database(self) -> tuple[Database, EncryptorConfig | None, Path]:
        """Database, where its password is, and the data directory."""
        table = self.root.table("database")
        url = table.text("url", "sqlite:///data/node.db")
        file = table.optional("password_file")
        env = table.optional("password_env")
        credential = table.optional("password_credential")
        directory = table.optional("directory")
        table.finish()
        if credential is not None and not _NAME.match(credential):
            table.bad("`password_credential` must be a plain credential name, not a path")
        given = sum(s is not None for s in (file, env, credential))
        if given > 1:
            table.bad(
                "needs one of `password_file`, `password_env`, `password_credential`",
                hint="keep the one that holds the password",
            )
        try:
            database = parse_database(url, self.home)
        except KeycairnError as exc:
            what = exc.message.removeprefix("[database] ")
            table.bad(what, code=exc.code, hint=exc.next)
        if isinstance(database, Path):
            if given or directory is not None:
                table.bad("has keys that only a server needs: a password, or `directory`")
            return database, None, database.parent
        path = None if file is None else self.path(file)
        source = EncryptorConfig("password", path, env, credential) if given else None
        return database, source, self.path(directory or "data")

    def encryptor(self, profile: str) -> EncryptorConfig:
        table = self.root.table("encryptor", required=True)
        return section_config(
            table.rest(), self.home, where=str(table.file), production=profile == "production"
        )

    def api(self) -> Api:
        table = self.root.table("api", required=True)
        listen = self.address(table, "listen")
        cert, key = table.optional("tls_cert"), table.optional("tls_key")
        table.finish()
        if (cert is None) != (key is None):
            table.bad("needs both `tls_cert` and `tls_key`, or neither")
        if cert is None and not listen.loopback:
            table.bad(
                f"listens on {listen} without TLS: API keys would cross the network in clear",
                code=Code.POLICY,
                hint="set tls_cert and tls_key, or listen on 127.0.0.1 behind a TLS proxy",
            )
        return Api(
            listen,
            None if cert is None else self.path(cert),
            None if key is None else self.path(key),
        )

    def listener(self, section: str) -> Address:
        table = self.root.table(section, required=True)
        listen = self.address(table, "listen")
        table.finish()
        return listen

    def management(self) -> Address:
        table = self.root.table("management")
        listen = self.address(table, "listen", "127.0.0.1:9090")
        table.finish()
        if not listen.loopback:
            table.bad(
                f"listens on {listen}: management is for this machine only",
                code=Code.POLICY,
                hint="listen on 127.0.0.1 and reach it through SSH",
            )
        return listen

    def applications(self) -> tuple[Application, ...]:
        found: dict[str, Application] = {}
        for table in self.root.tables("applications"):
            name = self.name(table, "name")
            digest = self.hash(table, "key_sha256", "the SHA-256 of the API key")
            table.finish()
            if name in found or any(a.key_sha256 == digest for a in found.values()):
                table.bad("repeats the name or the key of another application")
            found[name] = Application(name, digest)
        return tuple(found.values())

    def operations(self) -> frozenset[str]:
        table = self.root.table("operations")
        enabled = set()
        for scheme, switches in OPERATIONS.items():
            section = table.table(scheme)
            enabled |= {f"{scheme}.{s}" for s in switches if section.flag(s)}
            section.finish()
        table.finish()
        return frozenset(enabled)

    def presignatures(self) -> Presignatures:
        table = self.root.table("presignatures")
        known = Presignatures()
        storage = table.choice("storage", ("memory", "database"), known.storage)
        target = table.integer("target", known.target, low=0, high=_MAX_STOCK)
        usual = min(known.low_water, target)
        low_water = table.integer("low_water", usual, low=0, high=_MAX_STOCK)
        table.finish()
        if low_water > target:
            table.bad(
                f"has a `low_water` of {low_water} above its `target` of {target}",
                hint="set low_water to a quarter of target, or leave it out",
            )
        return Presignatures(storage, target, low_water)

    def ers(self) -> Ers:
        table = self.root.table("ers")
        token = table.optional("sink_token_file")
        ers = Ers(
            allowed=table.texts("allowed"),
            store=self.path(table.text("store", "ers")),
            automatic=table.flag("automatic", True),
            sinks=tuple(judged(table, self.sink, text) for text in table.texts("sinks")),
            sink_token_file=None if token is None else self.path(token),
            attest_days=table.integer("attest_days", 180, low=1, high=3650),
            verify_hours=table.integer("verify_hours", 168, low=1, high=8760),
        )
        table.finish()
        if len(set(ers.sinks)) != len(ers.sinks):
            table.bad("names a sink twice")
        if ers.store in map(Path, ers.sinks):
            table.bad("names its own `store` as a sink: a copy must lie elsewhere")
        return ers

    def sink(self, text: str) -> str:
        sink_of(text, self.home)
        return text if "://" in text else str(self.path(text))

    def export(self) -> tuple[bool, tuple[str, ...]]:
        table = self.root.table("export")
        enabled = table.flag("enabled")
        allowed = table.texts("allowed")
        table.finish()
        if enabled:
            table.bad(
                "turns export on, which this version can't do",
                code=Code.POLICY,
                hint="set enabled = false",
            )
        return enabled, allowed

    def backup(self) -> Backup:
        table = self.root.table("backup")
        targets = table.texts("targets")
        include = table.texts("include")
        recipients = table.texts("recipients")
        external = judged(table, read_external, table.value("external", []))
        schedule = table.optional("schedule")
        jitter = table.integer("jitter_seconds", 300, low=0, high=86_400)
        keep = judged(table, read_keep, table.value("keep", 10))
        peer_points = PeerPoints(
            table.flag("points_from_peers"),
            table.integer("point_interval_seconds", 3600, low=10, high=30 * 86_400),
        )
        server_dump = table.flag("server_dump")
        policy = table.table("policy")
        require = policy.text("require", DEFAULT_REQUIRE)
        gate = policy.texts("gate", ("address", "sign"))
        policy.finish()
        table.finish()
        parse(require)
        parse_gate(gate)
        if recipients and not targets:
            table.bad("names `recipients` but no `targets` to write bundles to")
        if peer_points.allowed and not recipients:
            table.bad("sets `points_from_peers`, but no bundle can be made without `recipients`")
        if schedule is not None and not recipients:
            table.bad(
                "sets `schedule`, but no bundle can be made without `targets` and `recipients`"
            )
        return Backup(
            targets=tuple(judged(table, self.target, t) for t in targets),
            include=tuple(self.path(i) for i in include),
            recipients=recipients,
            keep=keep,
            external=external,
            schedule=None if schedule is None else judged(table, parse_schedule, schedule),
            jitter_seconds=jitter,
            require=require,
            gate=gate,
            peer_points=peer_points,
            server_dump=server_dump,
        )

    def limits(self) -> Limits:
        table = self.root.table("limits")
        limits = Limits(
            session_seconds=table.integer("session_seconds", 30, low=1, high=3600),
            max_sessions=table.integer("max_sessions", 64, low=1, high=10_000),
            body_bytes=table.integer("body_bytes", 1 << 20, low=1024, high=1 << 20),
        )
        table.finish()
        return limits
