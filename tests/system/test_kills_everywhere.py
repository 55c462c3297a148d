"""kill -9 at random points of everything that writes: creation, spend, backup, restore, rotation.

Three node processes; each round begins one of five works and kills, at a random moment of it, the
node that does it (or, for a restore, the restoring process, which is then repeated). After every
round the node is back and acts; what was acknowledged is there and signs. At the end the databases
are compared with each other and with all that was seen on the way:

* INV-1, INV-2: no base nonce belongs to two presignatures, no presignature to two digests, over
  every life of every node, those that a restore made it forget included;
* INV-4: all nodes have the same record under one key id;
* INV-6: each key that was acknowledged is active at every node and signs with every pair;
* INV-14: every head of its history that a node ever showed lies on the history it has now, or is of
  an era before its last rejoin; no kill alone makes a node distrust itself.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from keycairn.client import OperatorClient, Vault
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock
from system.local import START_SECONDS, LocalVault, keycairn
from system.test_uniqueness import Spend, database, spends, up_to_sign

WORKS = ("create", "spend", "backup", "restore", "rotation")
_CLOCK = SystemClock()
#: Seconds that each work takes, at first; corrected as soon as one is done before it is killed.
_TAKES = {"create": 0.15, "spend": 0.08, "backup": 0.3, "restore": 2.2, "rotation": 0.1}


@dataclass
class Campaign:
    """A vault under fire, and all that was seen of it."""

    vault: LocalVault
    client: Vault
    chance: random.Random
    keys: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[tuple[int, str, str], Spend] = field(default_factory=dict)
    heads: dict[int, set[tuple[int, int, str]]] = field(default_factory=dict)
    inside: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    takes: dict[str, float] = field(default_factory=lambda: dict(_TAKES))
    number: int = 0
    #: Seconds from the links' being up to the first signature, at most.
    slowest: float = 0.0

    # -- the works ---------------------------------------------------------------------------

    async def create(self, victim: int) -> None:
        scheme, curve = self.chance.choice([("schnorr", "ed25519"), ("ecdsa", "secp256k1")])
        count = self.chance.choice([1, 1, 20])
        work = self.client.create_keys(scheme, curve, count=count)
        self.keys += await self._killed("create", victim, work) or []

    async def spend(self, victim: int) -> None:
        other = self.chance.choice([p for p in self.vault.players if p != victim])
        await self._killed("spend", victim, self.sign(sorted([victim, other])))

    async def backup(self, victim: int) -> None:
        async with self.operator(victim) as node:
            await self._killed("backup", victim, node.backup_create())

    async def rotation(self, victim: int) -> None:
        async with self.operator(victim) as node:
            await self._killed("rotation", victim, node.encryptor_rotate())

    async def restore(self, victim: int) -> None:
        vault, home = self.vault, self.vault.node_directory(victim)
        async with self.operator(victim) as node:
            made = await node.backup_create()
        await self.look(victim)
        vault.kill(victim)
        self.note_spends()
        shutil.rmtree(home)
        words = ["node", "restore", made["bundle"], "--into", str(home)]
        words += ["--identity", str(vault.operator(victim) / "backup-identity.age")]
        words += ["--vault", str(vault.profile)]
        process = subprocess.Popen(
            [sys.executable, "-m", "keycairn.cli", *words, "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        # The first part of it is the interpreter's start, in which there is nothing to interrupt.
        ended = asyncio.ensure_future(asyncio.to_thread(process.wait))
        await self._strike("restore", ended, process.kill, least=0.3)
        await ended
        if not home.exists() or (home / ".keycairn-restore").exists():
            done = await asyncio.to_thread(keycairn, *words)
            assert (done["done"], done["proofs_ok"], done["presignatures"]) == (True, True, 0)

    async def _killed(self, kind: str, victim: int, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        await self._strike(kind, task, lambda: self.vault.kill(victim))
        with suppress(KeycairnError):
            return await task
        return None

    async def _strike(
        self, kind: str, task: asyncio.Future[Any], kill: Callable[[], None], least: float = 0.05
    ) -> None:
        """Kill at a random moment of the time that this kind of work takes."""
        began = _CLOCK.monotonic()
        moment = self.takes[kind] * self.chance.uniform(least, 1.0)
        done, _ = await asyncio.wait([task], timeout=moment)
        if done:
            self.takes[kind] = _CLOCK.monotonic() - began
        else:
            self.inside[kind] += 1
            self.takes[kind] *= 1.15
        kill()

    async def sign(self, signers: list[int]) -> None:
        key = self.chance.choice(self.keys)
        payload = {"message": b"m"} if key["scheme"] == "schnorr" else {"digest": self.digest()}
        await self.client.sign(key["key_id"], nodes=signers, **payload)

    def digest(self) -> bytes:
        return self.chance.randbytes(32)

    # -- what is seen ------------------------------------------------------------------------

    def operator(self, node: int) -> OperatorClient:
        return OperatorClient.of(load_config(self.vault.config(node), {}))

    async def look(self, node: int) -> None:
        """Remember the head that the node shows; it must be one that acts."""
        async with self.operator(node) as operator:
            state = await operator.status()
        assert state["state"] == "ACTIVE", f"round {self.number}: {state['why']}"
        head = state["head"]
        self.heads.setdefault(node, set()).add((head["era"], head["length"], head["hash"]))

    def note_spends(self) -> None:
        """What the databases say now; a restore is going to forget a part of it."""
        for row in spends(self.vault):
            self.spent[(row.node, row.presignature, row.digest)] = row

    async def round(self) -> None:
        kind = WORKS[self.number % len(WORKS)]
        victim = self.chance.choice(self.vault.players)
        self.rounds[kind] += 1
        await getattr(self, kind)(victim)
        # The others go on without it, and it comes back by itself.
        await self.sign([p for p in self.vault.players if p != victim])
        await self.begin(victim, restored=kind == "restore")
        await self.look(victim)
        await self.comes_back(victim)
        self.number += 1

    async def comes_back(self, victim: int) -> None:
        """It signs again: at once, but where a pair setup was begun with what died."""
        signers = sorted([victim, self.chance.choice([p for p in (1, 2, 3) if p != victim])])
        began = _CLOCK.monotonic()
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.sign(signers)
                    break
                except KeycairnError as exc:
                    if exc.code not in (Code.UNAVAILABLE, Code.PEER_TIMEOUT):
                        raise
                    await asyncio.sleep(0.1)
        self.slowest = max(self.slowest, _CLOCK.monotonic() - began)

    async def begin(self, victim: int, *, restored: bool) -> None:
        """Start the victim. A restore, and nothing else, ends in a rejoin."""
        if not restored:
            self.vault.start(victim)
            await self.vault.linked()
            return
        self.vault.start(victim, wait=False)
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(KeycairnError):
                    async with self.operator(victim) as node:
                        state = await node.status()
                        if state["state"] == "ACTIVE":  # It was faster.
                            break
                        if len(state["answers"]) == 2:
                            await node.rejoin()
                await asyncio.sleep(0.1)
        await self.vault.linked()

    # -- the judgement -----------------------------------------------------------------------

    async def settled(self) -> None:
        """INV-6: wait until no key is active at some nodes only, then sign with all."""
        wanted = {key["key_id"] for key in self.keys}
        async with asyncio.timeout(20):
            while True:
                active = [
                    {k["key_id"] for k in await node.list_keys() if k["state"] == "active"}
                    for node in self.client.nodes.values()
                ]
                if all(wanted <= one for one in active):
                    break
                await asyncio.sleep(0.1)
        for key in self.chance.sample(self.keys, min(8, len(self.keys))):
            for pair in itertools.combinations(self.vault.players, 2):
                ecdsa = key["scheme"] == "ecdsa"
                payload = {"digest": self.digest()} if ecdsa else {"message": b"end"}
                await self.client.sign(key["key_id"], nodes=list(pair), **payload)

    def judge(self) -> None:
        """INV-1, INV-2, INV-4 and INV-14, from the files of nodes that have stopped."""
        self.note_spends()
        nonces: dict[str, str] = {}
        digests: dict[str, str] = {}
        for row in self.spent.values():
            nonce = up_to_sign(row.base_r)
            assert nonces.setdefault(nonce, row.presignature) == row.presignature, row
            assert digests.setdefault(row.presignature, row.digest) == row.digest, row
        records: dict[str, bytes] = {}
        for node in self.vault.players:
            with closing(sqlite3.connect(database(self.vault, node))) as db:
                for key_id, record_hash in db.execute("SELECT key_id, record_hash FROM keys"):
                    assert records.setdefault(key_id, record_hash) == record_hash, key_id
                chain = {
                    (era, length, value.hex())
                    for era, length, value in db.execute("SELECT era, length, hash FROM history")
                }
            now = max(era for era, _, _ in chain)
            lost = {head for head in self.heads[node] if head[0] == now} - chain
            assert not lost, f"node {node} forgot {lost}"


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_inv1_inv4_inv6_inv14_hold_whatever_is_killed(
    make_vault: Any, request: pytest.FixtureRequest
) -> None:
    kills = 300 if request.config.getoption("--full") else 30
    seed = random.SystemRandom().randrange(2**32)
    vault: LocalVault = make_vault(policy="none", session_seconds=8)
    vault.start()
    await vault.linked()
    async with vault.client() as client:
        campaign = Campaign(vault, client, random.Random(seed))
        campaign.keys += await client.create_keys("schnorr", "ed25519")
        campaign.keys += await client.create_keys("ecdsa", "secp256k1")
        began = _CLOCK.monotonic()
        try:
            for _ in range(kills):
                await campaign.round()
            await campaign.settled()
        except BaseException:
            print(f"seed {seed}, round {campaign.number}, {WORKS[campaign.number % len(WORKS)]}")
            raise
    vault.stop()
    campaign.judge()
    seconds = _CLOCK.monotonic() - began
    print(
        f"seed {seed}: rounds {dict(campaign.rounds)}, killed inside {dict(campaign.inside)}, "
        f"{len(campaign.keys)} keys, {len(campaign.spent)} spends, {seconds:.0f} s, "
        f"slowest to come back {campaign.slowest:.1f} s"
    )
    assert sum(campaign.inside.values()) >= kills // 2, f"seed {seed}"
