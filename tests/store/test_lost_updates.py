"""Eight processes spend from one database: every presignature is spent exactly once, none is lost.

Each process plays a node that starts, spends, is superseded by the next start, and starts again;
all of them want all presignatures. A node itself lets no second process near its SQLite file
(:mod:`keycairn.store.lock`, tested in test_files), and a sealed file can be open only once (tested
in test_conformance); the SQLite store is tested all the same: a lost update would be silent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from databases import SERVERS
from keycairn.store.database import Server
from store.worlds import Home, home

PROCESSES = 8
TESTS = Path(__file__).parents[1]

_WORKER = """
import asyncio, json, random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.store.database import parse_database
from keycairn.store import schema
from sqlalchemy import select
from store.worlds import Home, spend

kind, url, password, me, count = sys.argv[2:7]
me, count = int(me), int(count)
draw = random.Random(me)

async def spent(reader):
    rows = await reader.conn.execute(select(schema.spends.c.presignature_id))
    return {int.from_bytes(i, "big") for i in rows.scalars()}

async def main():
    place = parse_database(url, Path("/"), password=SecretBytes(password.encode()))
    store = await Home(kind, place).open()
    print("open", flush=True)
    sys.stdin.readline()
    left = list(range(1, count + 1))
    draw.shuffle(left)
    mine, turns = [], 0
    while left:
        turns += 1
        incarnation = b"process-%d-turn-%d" % (me, turns)
        await store.begin_incarnation(incarnation, turns)
        gone = await store._read(spent)
        left = [n for n in left if n not in gone]
        superseded = False
        while left and not superseded:
            some = left[:40]
            results = await asyncio.gather(
                *[store.spend_all([spend(n, incarnation=incarnation)]) for n in some],
                return_exceptions=True,
            )
            for n, result in zip(some, results):
                if result is None:
                    mine.append(n)
                elif not isinstance(result, KeycairnError):
                    raise result
                elif result.code in (Code.QUARANTINED, Code.STORE_ROLLBACK):
                    superseded = True
                    continue
                elif result.code is not Code.PRESIG_SPENT:
                    raise result
                left.remove(n)
            await asyncio.sleep(draw.uniform(0, 0.01))
        # Long enough that whoever is next gets something done before it is superseded itself.
        await asyncio.sleep(draw.uniform(0, 0.5))
    await store.close()
    print(json.dumps({"mine": mine, "turns": turns}))

asyncio.run(main())
"""


def address(place: Home) -> tuple[str, str]:
    if isinstance(place.place, Server):
        server = place.place
        [(host, port)] = server.hosts
        assert server.password is not None
        password = server.password.reveal().decode()
        return f"{server.kind}://{server.user}@{host}:{port}/{server.name}", password
    return f"sqlite:///{place.place}", ""


@pytest.mark.parametrize(
    "count", [1000, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_r02_every_presignature_is_spent_exactly_once(
    kind: str, count: int, tmp_path: Path
) -> None:
    with home(kind, tmp_path) as place:
        await (await place.open(create=True)).close()
        words = [str(TESTS), kind, *address(place)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, *words, str(n), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(PROCESSES)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "open\n"
            outputs = await asyncio.gather(
                *[asyncio.to_thread(p.communicate, "go\n") for p in processes]
            )
        finally:
            for process in processes:
                process.kill()
                process.wait()
        answers = [json.loads(out) for out, _ in outputs]
        claimed = [n for answer in answers for n in answer["mine"]]
        assert sorted(claimed) == list(range(1, count + 1))
        assert sum(answer["turns"] for answer in answers) > PROCESSES, "nobody was superseded"
        store = await place.open()
        assert await store.damaged() == []
        await store.check_audit()
        spends = await store.spends()
        await store.close()
    assert sorted(int.from_bytes(s.presignature_id, "big") for s in spends) == sorted(claimed)
    took_part = {s.incarnation.split(b"-turn")[0] for s in spends}
    assert len(took_part) > 1, "one process did it all"
