"""Poll /health of several nodes until standard input closes; print the milliseconds as JSON.

A process of its own: what the client that makes the work computes must not count as the nodes'.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import httpx


async def poll(http: httpx.AsyncClient, stop: asyncio.Event, taken: list[float]) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        answer = await http.get("/health")
        taken.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
        await asyncio.sleep(0.005)


async def main(urls: list[str]) -> None:
    stop = asyncio.Event()
    taken: list[float] = []
    clients = [httpx.AsyncClient(base_url=url, timeout=30) for url in urls]
    for http in clients:
        await http.get("/health")
    print("ready", flush=True)
    polls = [asyncio.create_task(poll(http, stop, taken)) for http in clients]
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*polls)
    print(json.dumps(taken), flush=True)


asyncio.run(main(sys.argv[1:]))
