"""A node's encryptor is rotated: one moment of change, whatever is interrupted (T-080), and a brake
on wrong secrets (T-079). No service is needed here: passwords and key files."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keycairn.cli.layout import check_plan, create_vault
from keycairn.encryptors import open_keyring
from keycairn.errors import Code, KeycairnError
from keycairn.node import brake
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.encryptor import (
    NodeEncryptor,
    pending_file,
    require_settled,
    section_of,
    settle,
    with_section,
)
from keycairn.node.storage import check_stopped, open_node
from keycairn.ports.crash import crash_at
from keycairn.ports.seeded import SeededRng
from keycairn.ports.system import SystemClock
from keycairn.store.sqlite import read_keyring

CLOCK = SystemClock()
POINTS = ("wrapped", "pending", "replaced", "configured")


class LateClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[..., int]) -> Path:
    directory = tmp_path_factory.mktemp("template") / "vault"
    plan = check_plan(directory, 2, 1, free_ports(6), "ers or node_backup")
    create_vault(plan, CLOCK, SeededRng(1))
    return directory


@dataclass(frozen=True)
class Home:
    """A node that does not run, and the encryptor that it is going to move to."""

    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / "node1" / "node.toml"

    @property
    def config(self) -> NodeConfig:
        return load_config(self.file, {})

    @property
    def next(self) -> Path:
        return self.directory / "next.toml"

    def opens(self, config: NodeConfig) -> bool:
        """Whether this configuration's encryptor opens the keyring that is there."""
        keyring = read_keyring(Path(str(config.database)))
        assert keyring is not None, "the keyring is gone"
        names = {"vault": config.vault_id, "node": config.index}
        try:
            open_keyring(config.encryptor, keyring, **names, rng=SeededRng(3))  # type: ignore[arg-type]
        except KeycairnError as exc:
            if exc.code not in (Code.STORE_INTEGRITY, Code.CONFLICT):
                raise
            return False
        return True

    def moved(self) -> NodeConfig:
        """The configuration after the move."""
        return replace(self.config, encryptor=section_of(self.next, production=True))


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Home:
    return copied(template, tmp_path / "home")


def copied(template: Path, to: Path) -> Home:
    shutil.copytree(template, to)
    home = Home(to)
    private(to / "next.key", "ee" * 32)
    private(home.next, '[encryptor]\nkind = "keyfile"\nsecret_file = "next.key"\n')
    return home


async def rotated(home: Home, to: Path | None, **options: Any) -> dict[str, Any]:
    async with open_node(home.config, CLOCK, SeededRng(5)) as (config, store):
        return await NodeEncryptor(config, store, CLOCK, SeededRng(6), **options).rotate(to)


async def starts(home: Home) -> NodeConfig:
    """Open the node as its start does; returns what it found."""
    async with open_node(home.config, CLOCK, SeededRng(7)) as (config, _):
        return config


async def test_a_new_master_key_under_the_same_encryptor(home: Home) -> None:
    before, text = read_keyring(home.config.database), home.file.read_bytes()
    result = await rotated(home, None)
    assert result["moved"] is False
    assert read_keyring(home.config.database) != before
    assert home.file.read_bytes() == text
    assert await starts(home)


async def test_t080_a_move_leaves_nothing_that_the_old_secret_opens(home: Home) -> None:
    old, before = home.config, read_keyring(home.config.database)
    assert before is not None
    result = await rotated(home, home.next)
    assert (result["moved"], result["config_written"]) == (True, True)
    assert not home.opens(old)
    assert home.opens(home.config)
    assert home.config.encryptor == home.moved().encryptor
    assert not pending_file(home.config).exists()
    # Nor in the journal, which keeps what was replaced.
    wrapped = before[-60:]
    for file in home.config.data_directory.iterdir():
        assert wrapped not in file.read_bytes(), file
    assert await starts(home)


async def test_the_rotation_is_in_the_audit_log(home: Home) -> None:
    await rotated(home, home.next)
    with sqlite3.connect(home.config.database) as db:
        events = [e for (e,) in db.execute("SELECT event FROM audit ORDER BY seq")]
    assert events[-1] == "encryptor.rotate"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.MALFORMED),
        ('[encryptor]\nkind = "rot13"\nsecret_file = "x"\n', Code.MALFORMED),
        ('[encryptor]\nkind = "keyfile"\n', Code.MALFORMED),
        ('[encryptor]\nkind = "keyfile"\nsecret_file = "absent"\n', Code.NOT_FOUND),
        ('[encryptor]\nkind = "password"\npassword = "hunter2"\n', Code.MALFORMED),
        ('[encryptor]\nkind = "transit"\naddress = "https://127.0.0.1:9"\nkey = "k"\n'
         'secret_file = "next.key"\n', Code.UNAVAILABLE),
    ],
)  # fmt: skip
async def test_a_move_that_can_not_be_changes_nothing(home: Home, text: str, code: Code) -> None:
    before, config = read_keyring(home.config.database), home.file.read_bytes()
    private(home.next, text)
    with pytest.raises(KeycairnError) as caught:
        await rotated(home, home.next)
    assert caught.value.code is code
    assert "hunter2" not in json.dumps(caught.value.to_json())
    assert read_keyring(home.config.database) == before
    assert home.file.read_bytes() == config
    assert not pending_file(home.config).exists()
    assert await starts(home)


async def test_a_file_that_others_can_write_moves_nothing(home: Home) -> None:
    home.next.chmod(0o666)
    with pytest.raises(KeycairnError) as caught:
        await rotated(home, home.next)
    assert caught.value.code is Code.POLICY


async def test_where_node_toml_can_not_be_written_the_new_section_counts_all_the_same(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = home.config
    monkeypatch.setattr("keycairn.node.encryptor._write_config", lambda *_: False)
    result = await rotated(home, home.next)
    assert result["config_written"] is False
    assert "encryptor.next.toml" in result["next"][0]
    for _ in range(2):
        assert (await starts(home)).encryptor == home.moved().encryptor
    assert pending_file(old).exists()
    with pytest.raises(KeycairnError) as caught:  # a bundle would not fit together
        require_settled(home.config)
    assert caught.value.code is Code.CONFLICT
    # The operator does it by hand: the next start is content and clears up.
    text = with_section(home.file.read_text(), home.moved().encryptor.section())
    assert text is not None
    home.file.write_text(text)
    assert (await starts(home)).encryptor == home.moved().encryptor
    assert not pending_file(old).exists()


def test_a_pending_file_of_another_keyring_is_cleared_away(home: Home) -> None:
    config = home.config
    keyring = read_keyring(config.database)
    assert keyring is not None
    for text in (
        'keyring_sha256 = "00"\n[encryptor]\nkind = "keyfile"\nsecret_file = "/x"\n',
        "not toml",
        "",
    ):
        private(pending_file(config), text)
        assert settle(config, keyring) == config
        assert not pending_file(config).exists()


# -- kill -9 ------------------------------------------------------------------------------------


def killed(home: Home, to: Path | None, *, at: str | None = None, after: float = 0.0) -> int:
    """Rotate in a child that is killed at a crash point, or after a time; its wait status."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        code = 1
        try:
            options = {} if at is None else {"crash": crash_at(at)}
            asyncio.run(rotated(home, to, **options))
            code = 0
        finally:
            os._exit(code)
    if at is None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status


def check_after_kill(home: Home, old: NodeConfig, status: int) -> bool:
    """Old or new opens, never neither, never both; returns whether it is the new one."""
    old_opens, new_opens = home.opens(old), home.opens(home.moved())
    assert old_opens != new_opens, f"old {old_opens}, new {new_opens}"
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        assert new_opens, "it said that it was done"
    found = asyncio.run(starts(home))
    assert home.opens(found), "a start takes the right one by itself"
    assert home.opens(home.config), "and node.toml names it from then on"
    assert not pending_file(home.config).exists()
    return new_opens


@pytest.mark.parametrize("point", POINTS)
def test_t080_kill_at_every_step_of_a_move(home: Home, point: str) -> None:
    old = home.config
    status = killed(home, home.next, at=f"encryptor/{point}")
    assert os.WIFSIGNALED(status)
    assert check_after_kill(home, old, status) == (point in ("replaced", "configured"))


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.full)])
def test_t080_kill_at_random_moments(template: Path, tmp_path: Path, count: int) -> None:
    seed = 20_080
    rng = random.Random(seed)
    began = time.monotonic()
    whole = copied(template, tmp_path / "whole")
    old = whole.config
    status = killed(whole, whole.next, at="no such point")
    seconds = time.monotonic() - began
    assert check_after_kill(whole, old, status)
    ends = []
    for trial in range(count):
        home = copied(template, tmp_path / f"trial{trial}")
        old = home.config
        after = rng.uniform(0, seconds)
        status = killed(home, home.next, after=after)
        ends.append((check_after_kill(home, old, status), os.WIFSIGNALED(status)))
        shutil.rmtree(home.directory)
    # Said in failures only: how the kills fell (seed 20080).
    print(f"{count} kills within {seconds:.2f} s: new {sum(new for new, _ in ends)}, ", end="")
    print(f"of them killed {sum(new and hit for new, hit in ends)}")
    assert any(hit for _, hit in ends)


# -- the text of node.toml ------------------------------------------------------------------------


def test_the_rest_of_node_toml_stays_as_it_was() -> None:
    text = (
        '# top\n[vault]\nid = "v"  # the vault\n\n[encryptor]  # old\nkind = "keyfile"\n'
        'secret_file = "a"\n\n# about the API\n[api]\nlisten = "127.0.0.1:1"\n'
    )
    made = with_section(text, {"kind": "password", "secret_env": "PW"})
    assert made == (
        "# top\n[vault]\nid = \"v\"  # the vault\n\n[encryptor]\nkind = \"password\"\n"
        "secret_env = \"PW\"\n\n# about the API\n[api]\nlisten = \"127.0.0.1:1\"\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        'encryptor = { kind = "keyfile", secret_file = "a" }\n[vault]\nid = "v"\n',
        '[vault]\nid = "v"\nnote = """\n[encryptor]\n"""\n[encryptor]\nkind = "keyfile"\n',
        '[vault]\nid = "v"\nnote = """\n[encryptor]\nkind = "x"\n"""\n',
    ],
)
def test_a_text_that_can_not_be_edited_is_left_alone(text: str) -> None:
    tomllib.loads(text)
    assert with_section(text, {"kind": "password", "secret_env": "PW"}) is None


# -- check, and the brake -------------------------------------------------------------------------


def test_check_of_a_node_that_does_not_run(home: Home) -> None:
    found = check_stopped(home.config, CLOCK, SeededRng(1))
    assert (found["opens"], found["keyring_format"], found["node"]) == (True, 2, 1)
    shutil.rmtree(home.config.data_directory)
    assert check_stopped(home.config, CLOCK, SeededRng(1))["opens"] is None
    assert not home.config.data_directory.exists()


def test_t079_wrong_secrets_are_braked_and_a_corrected_one_is_not(home: Home) -> None:
    clock = LateClock()
    config = replace(home.config, encryptor=home.moved().encryptor)
    for file in (config.file, config.encryptor.secret_file):
        assert file is not None
        os.utime(file, (1_600_000_000, 1_600_000_000))

    def attempt() -> KeycairnError | None:
        try:
            check_stopped(config, clock, SeededRng(1))
        except KeycairnError as exc:
            return exc
        return None

    for _ in range(brake.FREE_TRIES + 1):
        error = attempt()
        assert error is not None
        assert error.code is Code.STORE_INTEGRITY
    for n in range(12):
        error = attempt()
        assert error is not None
        assert (error.code, error.exit_code) == (Code.RATE_LIMIT, 3)
        seconds = error.detail["seconds"]
        assert seconds == min(15 << n, 3600)
        clock.us += (seconds - 1) * 1_000_000
        error = attempt()
        assert error is not None
        assert error.code is Code.RATE_LIMIT
        clock.us += 1_000_000
        error = attempt()
        assert error is not None
        assert error.code is Code.STORE_INTEGRITY
    # The operator puts the right secret there: no wait.
    right = home.config.encryptor.secret_file
    assert right is not None
    assert config.encryptor.secret_file is not None
    config.encryptor.secret_file.write_bytes(right.read_bytes())
    at = clock.us // 1_000_000 + 60
    os.utime(config.encryptor.secret_file, (at, at))
    assert attempt() is None
    assert not (config.data_directory / "encryptor.failed").exists()


def test_what_is_no_wrong_secret_does_not_pull_the_brake(home: Home) -> None:
    private(
        home.next,
        '[encryptor]\nkind = "transit"\naddress = "https://127.0.0.1:9"\nkey = "k"\n'
        'secret_file = "next.key"\n',
    )
    config = home.moved()
    for _ in range(brake.FREE_TRIES + 3):
        with pytest.raises(KeycairnError) as caught:
            check_stopped(config, CLOCK, SeededRng(1))
        assert caught.value.code is Code.CONFLICT  # another kind of encryptor


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"failures": -1, "at_us": "x"}', "\x00"])
def test_a_damaged_brake_file_stops_nobody(home: Home, text: str) -> None:
    private(home.config.data_directory / "encryptor.failed", text)
    assert check_stopped(home.config, CLOCK, SeededRng(1))["opens"] is True
