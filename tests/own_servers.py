"""Database servers of a test's own: with TLS, to be stopped, killed and failed over.

They run as an unprivileged user (PostgreSQL refuses root), in a directory of their own, on a free
port of 127.0.0.1, and are gone at the end. Tests are skipped, saying why, where the server programs
are not installed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Where distributions put what is not on the path.
_PLACES = (
    "/usr/sbin",
    "/usr/local/sbin",
    "/usr/libexec",
    *map(str, Path("/").glob("usr/lib/postgresql/*/bin")),
)
#: Seconds until a server must answer, on a busy machine.
_PATIENCE = 60
NAME = "store"


def program(name: str) -> str:
    """The path of a server's program; skips the test if there is none."""
    found = shutil.which(name) or shutil.which(name, path=":".join(_PLACES))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _unprivileged(*names: str) -> dict[str, Any]:
    """As whom a server runs: arguments of a process, empty when this one is nobody special."""
    if os.geteuid() != 0:
        return {}
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("there is no unprivileged user to run the server as")


# -- certificates


@dataclass
class Authority:
    """A certificate authority of a test's own; ``ca.pem`` in its directory."""

    directory: Path
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.directory.name)])
        made = self._sign(self.name, self.key, ca=True)
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, subject: str, *, dns: Sequence[str] = ()) -> tuple[Path, Path]:
        """Certificate and key files for a server (with names) or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        made = self._sign(name, key, ca=False, dns=dns)
        cert, secret = self.directory / f"{subject}.pem", self.directory / f"{subject}.key"
        cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, secret

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
        dns: Sequence[str] = (),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if dns:
            names = x509.SubjectAlternativeName([x509.DNSName(n) for n in dns])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


# -- servers


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class OwnServer:
    """One server process. ``home`` belongs to the user that it runs as."""

    kind: str
    home: Path
    user: Mapping[str, Any]
    port: int = field(default_factory=free_port)
    tls: tuple[Path, Path, Path] | None = None  # certificate, key, CA of clients
    process: subprocess.Popen[bytes] | None = None
    standbys: list[OwnServer] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.home / "data"

    def url(self, words: str = "", *, host: str = "127.0.0.1", user: str = NAME) -> str:
        return f"{self.kind}://{user}@{host}:{self.port}/{NAME}" + (f"?{words}" if words else "")

    def run(self, *words: str, **more: Any) -> None:
        """A program of the server's, as its user."""
        done = subprocess.run(
            words, cwd=self.home, capture_output=True, text=True, timeout=_PATIENCE * 2,
            **self.user, **more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]

    def start(self) -> None:
        assert self.process is None
        if self.kind == "postgresql":
            words = [program("postgres"), "-D", str(self.data), "-k", str(self.home)]
            words += ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
            for name, value in zip(
                ("ssl_cert_file", "ssl_key_file", "ssl_ca_file"), self.tls or (), strict=False
            ):
                words += ["-c", f"{name}={value}"]
            words += ["-c", f"ssl={'on' if self.tls else 'off'}"]
        else:
            words = [program("mariadbd"), "--no-defaults", f"--datadir={self.data}"]
            words += [f"--port={self.port}", f"--socket={self.home}/s", "--bind-address=127.0.0.1"]
            words += [f"--pid-file={self.home}/pid", "--innodb-buffer-pool-size=16M"]
            for name, value in zip(("ssl-cert", "ssl-key", "ssl-ca"), self.tls or (), strict=False):
                words.append(f"--{name}={value}")
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                words, cwd=self.home, stdout=log, stderr=log, **self.user
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self.admin("SELECT 1")
                return
            except Exception:
                assert self.process is not None
                ended = self.process.poll()
                if ended is not None or time.monotonic() > until:
                    log = (self.home / "log").read_text(errors="replace")[-3000:]
                    raise AssertionError(f"{self.kind} does not start ({ended}): {log}") from None
                time.sleep(0.1)

    def stop(self, *, kill: bool = False) -> None:
        """End it orderly, or as a power failure would."""
        if self.process is None:
            return
        if kill:
            self.process.send_signal(signal.SIGCONT)
            if self.kind == "postgresql":
                self.process.send_signal(signal.SIGQUIT)  # its children end with it, unflushed
            else:
                self.process.kill()
        else:
            self.process.send_signal(signal.SIGINT if self.kind == "postgresql" else signal.SIGTERM)
        self.process.wait(_PATIENCE)
        self.process = None

    def admin(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Statements of the server's own administrator, through its socket."""
        rows: list[tuple[Any, ...]] = []
        if self.kind == "postgresql":
            import psycopg

            connection: Any = psycopg.connect(
                host=str(self.home), port=self.port, user="admin", dbname=database or "postgres",
                autocommit=True, connect_timeout=5,
            )  # fmt: skip
        else:
            import pymysql

            connection = pymysql.connect(
                unix_socket=f"{self.home}/s", user="root", database=database, autocommit=True,
                connect_timeout=5,
            )  # fmt: skip
        with contextlib.closing(connection):
            for statement in statements:
                cursor = connection.cursor()
                cursor.execute(statement)
                rows = list(cursor.fetchall()) if cursor.description else []
        return rows

    def standby(self) -> OwnServer:
        """A replica of a PostgreSQL server that follows it, not waited for; not started yet."""
        other = OwnServer(self.kind, self.home.with_name("standby"), self.user)
        self.standbys.append(other)
        _make_home(other)
        self.run(
            program("pg_basebackup"), "-h", str(self.home), "-p", str(self.port), "-U", "admin",
            "-D", str(other.data), "-R", "-X", "stream", "--no-sync", "-c", "fast",
        )  # fmt: skip
        return other


def _make_home(server: OwnServer) -> None:
    server.home.mkdir(mode=0o700)
    if server.user:
        os.chown(server.home, server.user["user"], server.user["group"])


@contextmanager
def own_server(kind: str, tls: Authority | None = None) -> Iterator[OwnServer]:
    """A running server with a database and a user :data:`NAME` without a password.

    Args:
        kind: "postgresql" or "mariadb".
        tls: who signs its certificate, for the name "localhost" alone. Connections without TLS are
            refused then, and user "pinned" must show a certificate of this authority.
    """
    install = program("initdb" if kind == "postgresql" else "mariadb-install-db")
    program("postgres" if kind == "postgresql" else "mariadbd")
    user = _unprivileged("postgres" if kind == "postgresql" else "mysql")
    # Not below pytest's directory, which is private to this user.
    top = Path(tempfile.mkdtemp(prefix="keycairn-db-"))
    servers: list[OwnServer] = []
    try:
        top.chmod(0o755)
        server = OwnServer(kind, top / "primary", user)
        _make_home(server)
        if tls is not None:
            files = []
            for source in (*tls.issue("server", dns=["localhost"]), tls.ca):
                target = server.home / source.name
                shutil.copyfile(source, target)
                target.chmod(0o600)
                if user:
                    os.chown(target, user["user"], user["group"])
                files.append(target)
            server.tls = (files[0], files[1], files[2])
        if kind == "postgresql":
            server.run(install, "-D", str(server.data), "-U", "admin", "-A", "trust",
                       "--no-sync", "--locale=C", "-E", "UTF8")  # fmt: skip
            lines = ["local all all trust", "local replication all trust"]
            if tls is None:
                lines += ["host all all 127.0.0.1/32 trust"]
            else:
                lines += [
                    "hostssl all pinned all trust clientcert=verify-ca",
                    "hostssl all all all trust",
                ]
            (server.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
            start = ["CREATE ROLE store LOGIN", "CREATE ROLE pinned LOGIN IN ROLE store"]
            start += ["CREATE DATABASE store OWNER store"]
        else:
            server.run(install, "--no-defaults", f"--datadir={server.data}", "--skip-test-db",
                       "--auth-root-authentication-method=normal")  # fmt: skip
            start = ["CREATE DATABASE store"]
            for name, rule in (("store", "SSL"), ("pinned", "X509")):
                needs = f"REQUIRE {rule}" if tls is not None else ""
                start += [f"CREATE USER {name}@'%' {needs}", f"GRANT ALL ON store.* TO {name}@'%'"]
            start += [
                "DROP USER IF EXISTS ''@'localhost'",
                f"DROP USER IF EXISTS ''@'{socket.gethostname()}'",
            ]
        servers.append(server)
        server.start()
        server.admin(*start)
        yield server
    finally:
        for one in servers:
            for standby in one.standbys:
                standby.stop(kill=True)
            one.stop(kill=True)
        shutil.rmtree(top, ignore_errors=True)
