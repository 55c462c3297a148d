"""A whole vault: node processes, links, databases, and one client process that keeps asking.

The code of ``keycairn init`` makes the vault and that of ``keycairn vault up`` starts it, in a
directory that is removed afterwards. Its nodes have the policy ``none``, so that keys sign without
backups, and everything else as ``init`` writes it. The client is this process; its own processor
time is not counted, but on a small machine it competes with the nodes for the same cores.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keycairn.cli.bench.processes import cpu_seconds
from keycairn.cli.bench.sample import Sample, rounded
from keycairn.cli.bench.targets import KEYS_PER_SECOND, SIGNATURES_PER_SECOND, SYSTEM_P50_MS
from keycairn.cli.layout import SQLITE, check_plan, create_vault
from keycairn.cli.local import LocalVault, local_vault
from keycairn.cli.processes import wait_for_links
from keycairn.client import Item, OperatorClient, Vault
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols.record import VARIANTS

_CLOCK, _RNG = SystemClock(), SystemRng()
_LINK_SECONDS = 20.0
_WARM_UP = 8
_STOCK_SECONDS = 60.0
_SENT = "keycairn_link_sent_bytes_total"
_FROM_POOL = 'keycairn_signatures_total{how="pool"}'


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        what: "sign", or "create" for keys in batches.
        seconds: how long the client asks.
        concurrency: requests that it keeps open.
        batch: keys of one creation.
        items: signatures of one request.
        pool: presignatures that the nodes keep of a key in stock; 0: as ``init`` writes it.
        database, password_env: as for ``init``: empty databases, ``{node}`` for the number.
    """

    what: str
    scheme: str
    curve: str
    seconds: float
    concurrency: int
    nodes: int
    threshold: int
    batch: int = 100
    items: int = 1
    pool: int = 0
    database: str = SQLITE
    password_env: str | None = None


@dataclass
class Work:
    """What the client got."""

    ms: list[float] = field(default_factory=list)
    units: int = 0
    errors: dict[str, int] = field(default_factory=dict)


async def system(plan: Plan) -> dict[str, Any]:
    """One row of ``bench system``.

    Raises:
        KeycairnError: whatever keeps the vault from starting; E_UNAVAILABLE if no request was
            answered at all.
    """
    async with _vault(plan) as (local, vault):
        variant = VARIANTS.get((plan.scheme, plan.curve))
        keys = await vault.create_keys(plan.scheme, plan.curve, variant=variant)
        key_id = str(keys[0]["key_id"])
        call = _signer(vault, key_id, plan) if plan.what == "sign" else _creator(vault, plan)
        await _ask(call, _WARM_UP if plan.what == "sign" else 1, plan.concurrency)
        pool_start = await _pool(vault, key_id, fill=plan.what == "sign")
        before, counted, began = _cpu(local), await _counters(local), _CLOCK.monotonic()
        work = await _load(call, plan)
        seconds = _CLOCK.monotonic() - began
        cpu, counters = _cpu(local), await _counters(local)
        pool_end = await _pool(vault, key_id)
    if not work.units:
        raise KeycairnError(
            Code.UNAVAILABLE,
            "no request was answered in that time",
            next="bench system --seconds 20",
            detail={"errors": work.errors},
        )
    used = [1000 * (cpu[i] - before[i]) / work.units for i in before]
    grown = {name: counters[name] - counted[name] for name in counters}
    return _row(plan, work, seconds) | {
        "cpu_ms_per_node": rounded(sum(used) / len(used)),
        "cpu_ms_by_node": {str(i): rounded(ms) for i, ms in zip(before, used, strict=True)},
        "bytes_sent": round(grown[_SENT] / work.units),
        # Every signer counts its own.
        "from_pool": round(grown[_FROM_POOL] / (plan.threshold + 1)),
        "pool_start": pool_start,
        "pool_end": pool_end,
        "errors": work.errors,
    }


def _row(plan: Plan, work: Work, seconds: float) -> dict[str, Any]:
    sample = Sample(work.ms)
    rate = work.units / seconds
    row: dict[str, Any] = {
        "what": f"system {plan.what}",
        "scheme": plan.scheme,
        "curve": plan.curve,
        "nodes": plan.nodes,
        "threshold": plan.threshold,
        "database": plan.database.partition(":")[0],
        "link": "direct",
        "seconds": rounded(seconds),
        "concurrency": plan.concurrency,
        "requests": len(work.ms),
        "p50_ms": rounded(sample.percentile(50)),
        "p99_ms": rounded(sample.percentile(99)),
    }
    if plan.what == "create":
        return row | {
            "batch": plan.batch,
            "keys": work.units,
            "keys_per_second": rounded(rate),
            "target_per_second": KEYS_PER_SECOND,
            "target_met": rate >= KEYS_PER_SECOND,
        }
    target = SIGNATURES_PER_SECOND[plan.scheme]
    met = rate >= target
    alone = plan.concurrency == plan.items == 1
    if alone:  # That target is about the time of one request.
        target, met = SYSTEM_P50_MS, sample.percentile(50) <= SYSTEM_P50_MS
    name = "target_p50_ms" if alone else "target_per_second"
    return row | {
        "items": plan.items,
        "signatures": work.units,
        "signatures_per_second": rounded(rate),
        name: target,
        "target_met": met,
    }


# -- the vault


@asynccontextmanager
async def _vault(plan: Plan) -> AsyncIterator[tuple[LocalVault, Vault]]:
    with tempfile.TemporaryDirectory(prefix="keycairn-bench-") as temporary:
        directory = Path(temporary) / "vault"
        made = check_plan(
            directory,
            plan.nodes,
            plan.threshold,
            None,
            "none",
            plan.database,
            plan.password_env,
        )
        await asyncio.to_thread(create_vault, made, _CLOCK, _RNG)
        if plan.pool:
            await asyncio.to_thread(_stock_more, directory, plan.pool)
        local = local_vault(directory)
        nodes = list(local.ready.values())
        try:
            started = await asyncio.gather(*(n.start() for n in nodes), return_exceptions=True)
            for result in started:
                if isinstance(result, BaseException):
                    raise result
            if await wait_for_links(nodes, _LINK_SECONDS):
                raise KeycairnError(Code.PEER_TIMEOUT, "the nodes do not reach each other")
            async with Vault(local.profile) as vault:
                yield local, vault
        finally:
            await asyncio.gather(*(n.stop() for n in nodes))


def _stock_more(directory: Path, target: int) -> None:
    """Have the nodes of a new vault keep ``target`` presignatures, refilled as ``init`` has it:
    below a quarter at once, else when nothing else is asked."""
    for path in directory.glob("node*/node.toml"):
        text = path.read_text("utf-8")
        text = re.sub(r"(?m)^target = \d+$", f"target = {target}", text, count=1)
        text = re.sub(r"(?m)^low_water = \d+$", f"low_water = {target // 4}", text, count=1)
        path.write_text(text, "utf-8")


def _cpu(local: LocalVault) -> dict[int, float]:
    """Processor seconds that each node has used so far."""
    used = {}
    for i, node in local.ready.items():
        pid = node.pid()
        if pid is None:
            raise KeycairnError(Code.UNAVAILABLE, f"node {i} ended", next="bench system --keep DIR")
        used[i] = cpu_seconds(pid)
    return used


async def _counters(local: LocalVault) -> dict[str, float]:
    """Counters of all nodes, added up: bytes sent to peers, and signatures from presignatures."""
    total = dict.fromkeys((_SENT, _FROM_POOL), 0.0)
    for node in local.ready.values():
        async with OperatorClient.of(node.config) as operator:
            for line in (await operator.metrics()).splitlines():
                for name in total:
                    if line.startswith(name):
                        total[name] += float(line.rpartition(" ")[2])
    return total


# -- the client


Call = Callable[[], Awaitable[int]]


def _signer(vault: Vault, key_id: str, plan: Plan) -> Call:
    def item() -> Item:
        payload = _RNG.bytes(32)
        return Item(digest=payload) if plan.scheme == "ecdsa" else Item(message=payload)

    async def sign() -> int:
        if plan.items > 1:
            return len(await vault.sign_many(key_id, [item() for _ in range(plan.items)]))
        one = item()
        await vault.sign(key_id, digest=one.digest, message=one.message)
        return 1

    return sign


def _creator(vault: Vault, plan: Plan) -> Call:
    variant = VARIANTS.get((plan.scheme, plan.curve))

    async def create() -> int:
        made = await vault.create_keys(plan.scheme, plan.curve, count=plan.batch, variant=variant)
        return sum(k["state"] == "active" for k in made)

    return create


async def _ask(call: Call, times: int, concurrency: int) -> None:
    """Some requests that don't count: connections, pair setups, tables that are made once."""
    for start in range(0, times, concurrency):
        await asyncio.gather(*(call() for _ in range(min(concurrency, times - start))))


async def _load(call: Call, plan: Plan) -> Work:
    """Ask for ``plan.seconds``; what is open then is waited for and counted."""
    work, end = Work(), _CLOCK.monotonic() + plan.seconds

    async def client() -> None:
        while (began := _CLOCK.monotonic()) < end:
            try:
                units = await call()
            except KeycairnError as exc:
                work.errors[exc.code.value] = work.errors.get(exc.code.value, 0) + 1
                continue
            work.ms.append(1000 * (_CLOCK.monotonic() - began))
            work.units += units

    await asyncio.gather(*(client() for _ in range(plan.concurrency)))
    return work


async def _pool(vault: Vault, key_id: str, *, fill: bool = False) -> int:
    """Presignatures in stock for the key, at all of their signers. ``fill`` waits until the stock
    does not grow any more."""
    end, last = _CLOCK.monotonic() + _STOCK_SECONDS, -1
    while True:
        rows, errors = await vault.presignatures(key_id)
        if errors:
            raise next(iter(errors.values()))
        count = stock(rows)
        if not fill or count <= last or _CLOCK.monotonic() > end:
            return count
        last = count
        await asyncio.sleep(1.0)


def stock(rows: Mapping[int, Sequence[Mapping[str, Any]]]) -> int:
    """Over all signer sets, what every signer of the set has.

    Args:
        rows: of ``Vault.presignatures``, by node: ``players`` and ``count``.
    """
    held = {
        (tuple(row["players"]), node): int(row["count"])
        for node, found in rows.items()
        for row in found
    }
    sets = {players for players, _ in held}
    return sum(min(held.get((players, i), 0) for i in players) for players in sets)
