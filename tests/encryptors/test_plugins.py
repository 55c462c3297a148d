"""Plug-ins: found by importlib.metadata, loaded only when named, and not trusted with words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import in_process
from encryptors.components import private
from keycairn.encryptors import Binding, EncryptorConfig, Wrapped, encryptor_of, section_config
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "encryptor-two-files"
HERE = Binding("v", 1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by its backend and installed into a directory of its own."""
    target = tmp_path_factory.mktemp("site")
    copy = tmp_path_factory.mktemp("source") / "example"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(copy)], check=True)
    subprocess.run(
        f"{sys.executable} -m pip install --quiet --no-deps --no-index --no-build-isolation "
        f"--target {target} {copy}".split(),
        check=True,
        timeout=120,
    )
    return target


def test_the_example_serves_a_node(
    installed: Path, tmp_path: Path, free_ports: Callable[..., int]
) -> None:
    directory = tmp_path / "vault"
    made = in_process("init", directory, "--nodes", 2, "--base-port", free_ports(6), "--json")
    assert made.code == 0, made.out
    one, two = private(tmp_path / "one", "1a" * 32), private(tmp_path / "two", "2b" * 32)
    target = private(
        tmp_path / "to.toml",
        f'[encryptor]\nkind = "two-files"\nsecret_file = "{one}"\nsecond_file = "{two}"\n',
    )
    config = directory / "node1" / "node.toml"
    source = Path(__file__).resolve().parents[2] / "src"

    def command(*words: object) -> tuple[int, dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-m", "keycairn.cli", "--json", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{source}"},
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    code, moved = command("encryptor", "rotate", "--config", config, "--to-config", target)
    assert code == 0, moved
    code, found = command("encryptor", "check", "--config", config)
    assert (code, found["opens"], found["notes"]) == (0, True, [])
    two.write_text("3c" * 32)
    code, _ = command("encryptor", "check", "--config", config)
    assert code == 5
    # Without the package nothing is guessed: it says what is missing.
    ran = in_process("--json", "encryptor", "check", "--config", config)
    assert (ran.code, ran.error) == (2, "E_MALFORMED")
    assert "install the plug-in" in ran.json["error"]["next"]


def distribution(site: Path, name: str, points: str, module: str = "") -> None:
    """A package as an installer leaves it: metadata that importlib.metadata reads."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[keycairn.encryptors]\n{points}\n")
    if module:
        (site / f"{name}.py").write_text(module)


RUDE = """
from keycairn.encryptors import Kind, Option

class Rude:
    def __init__(self, config, rng, environ): pass
    def wrap(self, master, binding): raise ValueError(master.reveal().hex())
    def unwrap(self, wrapped, binding): raise RuntimeError("hunter2")
    def describe(self): return {}
    def notes(self): return []

KIND = Kind("anything", Rude, (Option("colour", choices=("red", "blue")),), source="none")
TOY = Kind("toy", Rude, source="none", production=False)
NOT_ONE = object()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def fails(code: Code, work: Callable[[], object]) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        work()
    assert caught.value.code is code, caught.value.message
    return caught.value


def test_what_a_plugin_raises_is_told_by_its_type_alone(site: Path) -> None:
    from keycairn.encoding import SecretBytes

    distribution(site, "rude", "rude = rude:KIND", RUDE)
    config = section_config({"kind": "rude", "colour": "red"}, Path("/"))
    assert config.kind == "rude"
    encryptor = encryptor_of(config, SeededRng(1))
    master = SecretBytes(bytes(32))
    for work in (
        lambda: encryptor.wrap(master, HERE),
        lambda: encryptor.unwrap(Wrapped({}, b""), HERE),
    ):
        error = fails(Code.UNAVAILABLE, work)
        assert "00" * 32 not in error.message
        assert "hunter2" not in error.message
        assert "Error" in error.message
    for values in ({"colour": "green"}, {"secret_env": "X"}, {"size": 3}):
        fails(
            Code.MALFORMED, lambda values=values: section_config({"kind": "rude", **values}, site)
        )


def test_a_kind_that_protects_nothing_is_for_the_test_profile(site: Path) -> None:
    distribution(site, "toys", "toy = toys:TOY", RUDE)
    assert section_config({"kind": "toy"}, site).kind == "toy"
    error = fails(Code.POLICY, lambda: section_config({"kind": "toy"}, site, production=True))
    assert "protects nothing" in error.message


@pytest.mark.parametrize(
    ("points", "code", "words"),
    [
        ("odd = odd:NOT_ONE", Code.POLICY, "is no"),
        ("odd = odd:MISSING", Code.UNAVAILABLE, "can't be imported"),
        ("odd = no_such_module:KIND", Code.UNAVAILABLE, "can't be imported"),
    ],
)
def test_an_entry_point_that_leads_nowhere(site: Path, points: str, code: Code, words: str) -> None:
    distribution(site, "odd", points, RUDE)
    error = fails(code, lambda: encryptor_of(EncryptorConfig("odd"), SeededRng(1)))
    assert words in error.message


def test_two_packages_with_one_name_are_not_chosen_between(site: Path) -> None:
    distribution(site, "first", "same = first:KIND", RUDE)
    distribution(site, "second", "same = second:KIND", RUDE)
    error = fails(Code.POLICY, lambda: encryptor_of(EncryptorConfig("same"), SeededRng(1)))
    assert "first, second" in error.message


def test_a_built_in_name_can_not_be_taken_and_nothing_is_loaded_unasked(site: Path) -> None:
    distribution(site, "taker", "keyfile = taker:KIND", "raise SystemExit('loaded')")
    config = EncryptorConfig("keyfile", secret_file=private(site / "k", "ab" * 32))
    wrapped = encryptor_of(config, SeededRng(1)).describe()
    assert wrapped["kind"] == "keyfile"
    assert "taker" not in sys.modules


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from encryptors.components import configured
    from keycairn.encoding import SecretBytes

    secret = private(tmp_path / "s", "1234")
    for module, extra, section in (
        ("pkcs11", "hsm", {"kind": "pkcs11", "module": "/m.so", "token": "t", "key": "k"}),
        (
            "boto3",
            "cloud",
            {"kind": "aws-kms", "key": "k", "region": "r", "access_key_id": "a"},
        ),
    ):
        config = configured({**section, "secret_file": str(secret)})
        monkeypatch.setitem(sys.modules, module, None)
        error = fails(
            Code.UNAVAILABLE,
            lambda config=config: encryptor_of(config, SeededRng(1)).wrap(
                SecretBytes(bytes(32)), HERE
            ),
        )
        assert f"keycairn[{extra}]" in error.next
