"""Uniqueness (INV-1, INV-2): concurrent clients, nodes that are killed, and no nonce used twice.

Three node processes, sixteen clients, kill -9 at random moments. What every node's database says
afterwards is compared with every signature that a client was given:

* no presignature and no base R (up to its sign) is spent twice, at any node, in any incarnation;
* a presignature that a node held when it was killed signs nothing afterwards;
* each spend belongs to the incarnation that ran at its time;
* every signature that was returned verifies under a library that is not ours.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.client import Item, Vault
from keycairn.errors import KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault

CLIENTS = 16
#: At least; a fast machine is done with the signatures before the second one.
KILLS = 3
SETS = ((1, 2), (1, 3), (2, 3), (1, 2, 3))
_CLOCK = SystemClock()


@dataclass
class Spend:
    """A row of a node's database."""

    node: int
    presignature: str
    base_r: str
    key_id: str
    digest: str
    incarnation: str
    at_us: int


@dataclass
class Run:
    """What the clients got, and what the killer did."""

    chance: random.Random
    signatures: list[tuple[dict[str, Any], str, bytes]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    #: Ids that a node held when it was killed, with the time.
    dead: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    payloads: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def payload(self) -> bytes:
        return next(self.payloads).to_bytes(32, "big")


async def client(vault: Vault, keys: list[dict[str, Any]], run: Run, wanted: int) -> None:
    """Ask for signatures, one request after the other; an error is a count, not the end."""
    while len(run.signatures) < wanted or run.kills < KILLS:
        key = run.chance.choice(keys)
        payloads = [run.payload() for _ in range(run.chance.choice([1, 1, 2, 5, 10]))]
        ecdsa = key["scheme"] == "ecdsa"
        items = [Item(digest=p) if ecdsa else Item(message=p) for p in payloads]
        signers = run.chance.choice(SETS)
        try:
            made = await vault.sign_many(key["key_id"], items, nodes=signers)
        except KeycairnError as exc:
            run.errors[exc.code] = run.errors.get(exc.code, 0) + 1
            await asyncio.sleep(0.05)
            continue
        run.signatures += [(m, key["key_id"], p) for m, p in zip(made, payloads, strict=True)]


async def killer(local: LocalVault, vault: Vault, run: Run) -> None:
    """kill -9 a node, start it again, and so on."""
    while True:
        await asyncio.sleep(run.chance.uniform(0.5, 3.0))
        victim = run.chance.choice(local.players)
        ids: list[str] = []
        with suppress(KeycairnError):
            held, _ = await vault.presignatures(nodes=[victim])
            ids = [i for row in held[victim] for i in row["ids"]]
        local.kill(victim)
        killed_us = _CLOCK.now_us()
        for i in ids:
            run.dead.setdefault(i, killed_us)
        run.kills += 1
        await asyncio.sleep(run.chance.uniform(0.0, 1.0))
        local.start(victim, wait=False)
        await asyncio.to_thread(local.running[victim].wait_ready)
        with suppress(TimeoutError):
            await local.linked(seconds=20)


def spends(local: LocalVault) -> list[Spend]:
    """Every spend row of every node."""
    found = []
    for node in local.players:
        with closing(sqlite3.connect(database(local, node))) as db:
            rows = db.execute(
                "SELECT presignature_id, base_r, key_id, digest, incarnation, at_us FROM spends"
            )
            found += [
                Spend(node, p.hex(), (r or b"").hex(), k, d.hex(), i.hex(), at)
                for p, r, k, d, i, at in rows
            ]
    return found


def lives(local: LocalVault, node: int) -> dict[str, tuple[int, int]]:
    """Incarnation -> begin and end."""
    with closing(sqlite3.connect(database(local, node))) as db:
        rows = list(db.execute("SELECT incarnation, at_us FROM incarnations ORDER BY seq"))
    ends = [at for _, at in rows[1:]] + [2**63]
    return {i.hex(): (at, end) for (i, at), end in zip(rows, ends, strict=True)}


def database(local: LocalVault, node: int) -> Path:
    return local.node_directory(node) / "data" / "node.db"


def up_to_sign(base_r: str) -> str:
    """R and -R are the same nonce: x on a Weierstrass curve, y on Ed25519."""
    raw = bytes.fromhex(base_r)
    if len(raw) == 33:
        return raw[1:].hex()
    return (raw[:-1] + bytes([raw[-1] & 0x7F])).hex()


def verifies(made: dict[str, Any], payload: bytes) -> None:
    public = bytes.fromhex(made["public_key"])
    if made["der"] is None:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(made["signature"]), payload)
    else:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public).verify(
            bytes.fromhex(made["der"]), payload, ec.ECDSA(utils.Prehashed(SHA256()))
        )


def judge(local: LocalVault, run: Run) -> dict[str, int]:
    """Compare the databases with each other and with what the clients have."""
    rows = spends(local)
    by_node: dict[tuple[int, str], Spend] = {}
    nonces: dict[str, str] = {}
    requests: dict[str, str] = {}
    for row in rows:
        place = (row.node, row.presignature)
        assert place not in by_node, f"node {row.node} spent {row.presignature} twice"
        by_node[place] = row
        # INV-2: a nonce has one presignature, whoever spends it.
        nonce = up_to_sign(row.base_r)
        assert nonces.setdefault(nonce, row.presignature) == row.presignature, row
        # INV-1: a presignature is used for one digest, by all.
        assert requests.setdefault(row.presignature, row.digest) == row.digest, row
    for node in local.players:
        life = lives(local, node)
        for row in rows:
            if row.node == node:
                begin, end = life[row.incarnation]
                assert begin <= row.at_us <= end, f"spent outside its incarnation: {row}"
    returned: set[str] = set()
    late = 0
    for made, key_id, payload in run.signatures:
        verifies(made, payload)
        name = made["presignature_id"]
        assert name not in returned, "two signatures from one presignature"
        returned.add(name)
        for node in made["nodes"]:
            row = by_node[(node, name)]
            assert (row.key_id, row.base_r) == (key_id, made["base_r"])
            died = run.dead.get(name, row.at_us)
            assert row.at_us <= died, f"signed after its node had died: {row}"
    for row in rows:
        late += row.at_us > run.dead.get(row.presignature, row.at_us)
    return {
        "signatures": len(run.signatures),
        "presignatures spent": len(requests),
        "base R": len(nonces),
        "spend rows": len(rows),
        "rows of dead presignatures": late,
        "kills": run.kills,
        "errors": sum(run.errors.values()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["memory", "database"])
async def test_inv1_inv2_no_nonce_is_used_twice_whoever_is_killed(
    make_vault: Any, request: pytest.FixtureRequest, storage: str
) -> None:
    full = bool(request.config.getoption("--full"))
    wanted = {"memory": 1000, "database": 200}[storage] * (10 if full else 1)
    seed = random.SystemRandom().randrange(2**32)
    run = Run(random.Random(seed))
    local: LocalVault = make_vault(policy="none", session_seconds=6)
    for i in local.players:
        with local.editing(i) as config:
            config["presignatures"] = {"storage": storage, "target": 48, "low_water": 12}
    local.start()
    await local.linked()
    async with local.client() as vault:
        keys = [
            *await vault.create_keys("ecdsa", "secp256k1"),
            *await vault.create_keys("schnorr", "ed25519"),
        ]
        began = _CLOCK.monotonic()
        disaster = asyncio.create_task(killer(local, vault, run))
        try:
            await asyncio.gather(*[client(vault, keys, run, wanted) for _ in range(CLIENTS)])
        finally:
            disaster.cancel()
            await asyncio.gather(disaster, return_exceptions=True)
        seconds = _CLOCK.monotonic() - began
    local.stop()
    figures = judge(local, run)
    print(f"{storage}, seed {seed}: {figures}, {seconds:.0f} s, errors {run.errors}")
    assert figures["kills"] >= KILLS, f"seed {seed}"
    assert figures["presignatures spent"] >= wanted
