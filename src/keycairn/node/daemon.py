"""A node as a process: everything opened in order, one ready line, everything closed in order."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn import __version__
from keycairn.links.tls import PeerAddress, TlsLink
from keycairn.node.anchor import AnchorFile
from keycairn.node.api import build_api
from keycairn.node.backups import NodeBackups
from keycairn.node.config import NodeConfig
from keycairn.node.encryptor import NodeEncryptor
from keycairn.node.ers_watch import ErsWatch
from keycairn.node.files import require_private, write_private
from keycairn.node.hardening import harden_process
from keycairn.node.http import Edge
from keycairn.node.identity import load_identity
from keycairn.node.listeners import Listener, bind
from keycairn.node.logs import configure_logs, exception_fields, logger
from keycairn.node.management import build_management
from keycairn.node.metrics import Metrics
from keycairn.node.storage import open_node
from keycairn.ports import Clock, Rng
from keycairn.ports.crash import VARIABLE, crash_at, no_crash
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.store.documents import DocumentDirectory
from keycairn.vault.api import Identity, VaultParameters
from keycairn.vault.fence import State
from keycairn.vault.fence.keeper import UNATTENDED, Fence, Standing
from keycairn.vault.policy import parse, warnings_for
from keycairn.vault.ports import Store
from keycairn.vault.service import NodeService

#: How long a thread may keep the interpreter while others wait. The default, 5 ms, adds up to
#: more than 100 ms of /health latency behind the threads that make keys (tests/node).
_SWITCH_SECONDS = 0.0005


def run_node(config: NodeConfig) -> None:
    """Run the node until SIGTERM or SIGINT; returns after a graceful shutdown.

    Prints one line on standard output when it can take requests:
    ``{"event":"ready","node":1,"api":"http://127.0.0.1:8080"}``. A node that listens and may not
    act says ``waiting`` or ``quarantined`` instead, with ``cause``, ``why``, ``next`` and
    ``rejoins`` (whether it rejoins by itself once all peers answer), and ``ready`` when it has
    become active.

    Raises:
        KeycairnError: when it can't start; the text says what to do.
    """
    harden_process()
    sys.setswitchinterval(_SWITCH_SECONDS)
    configure_logs(config.log_level, node=config.index, vault=config.vault_id)
    asyncio.run(_run(config))


async def _run(config: NodeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_on_signal, stop, number))
    loop.set_exception_handler(_on_stray)
    async with serve_node(config, SystemClock(), SystemRng(), stop.set) as service:
        # A hundred thousand objects of imported modules live as long as the process. A full
        # collection over them stops every thread for 60 ms and more, in the middle of requests.
        gc.collect()
        gc.freeze()
        say = partial(_say_standing, config, service.fence)
        service.fence.on_standing(say)
        say(service.fence.standing)
        await stop.wait()
        logger().info("stopping")
    logger().info("stopped")


def _say_standing(config: NodeConfig, fence: Fence, standing: Standing) -> None:
    """One line on standard output for whoever started this process, one in the log."""
    line: dict[str, object] = {"event": "ready", "node": config.index}
    if standing.state is State.ACTIVE:
        line["api"] = config.api.url
        logger().info("ready", listen=config.api.url, version=__version__)
    else:
        line |= {
            "event": standing.state.value.lower(),
            "cause": standing.cause,
            "why": standing.why,
            "next": fence.next_step(),
            "rejoins": standing.state is State.QUARANTINED and standing.cause in UNATTENDED,
        }
        logger().warning(
            "standing", state=standing.state.value, why=standing.why, next=fence.next_step()
        )
    print(json.dumps(line, separators=(",", ":")), flush=True)


@asynccontextmanager
async def serve_node(
    config: NodeConfig, clock: Clock, rng: Rng, shutdown: Callable[[], None]
) -> AsyncIterator[NodeService]:
    """The whole node, serving; left, it stops: listeners first, then sessions, links, store."""
    async with AsyncExitStack() as stack:
        identity = load_identity(config.identity_key_file)
        # The lock first: a second node on this directory is told so, not that a port is taken.
        config, store = await stack.enter_async_context(open_node(config, clock, rng))
        sockets = []
        for address, section in ((config.api.listen, "api"), (config.management, "management")):
            sock = bind(address, section, config.index)
            stack.callback(sock.close)
            sockets.append(sock)
        metrics = Metrics()
        service = await _start_service(config, identity, store, clock, rng, metrics)
        stack.push_async_callback(service.stop)
        await _say_findings(config, service)
        backups = NodeBackups(
            config,
            store,
            identity,
            clock,
            rng,
            service.unreadable,
            service.creation,
            service.fence.require_active,
        )
        await backups.evidence.first()
        watch = asyncio.create_task(backups.watch(service.check_documents))
        stack.callback(watch.cancel)
        ers = ErsWatch(
            service.documents,
            service.ers_keys,
            clock,
            home=config.home,
            store=config.ers.store,
            data=config.data_directory,
            sinks=config.ers.sinks,
            token_file=config.ers.sink_token_file,
            verify_seconds=config.ers.verify_hours * 3600,
        )
        watched = asyncio.create_task(ers.run())
        stack.callback(watched.cancel)
        scheduled = asyncio.create_task(backups.schedule.run())
        stack.callback(scheduled.cancel)
        stack.push_async_callback(backups.points.stop)
        backups.points.join(service.points, config.backup.peer_points, config.index)
        token = stack.enter_context(_token(config, rng))
        api = build_api(
            service,
            config.applications,
            node=config.index,
            body_bytes=config.limits.body_bytes,
            receipts=backups.receipts,
        )
        management = build_management(
            service,
            node=config.index,
            token=token,
            backups=backups,
            ers=ers,
            encryption=NodeEncryptor(
                config,
                store,
                clock,
                rng,
                guard=backups.guard,
                moved=backups.use,
                crash=_crash_hook(config),
            ),
            metrics=metrics,
            shutdown=shutdown,
            places=(config.data_directory, config.ers_store),
        )
        edges = (
            Edge(api, clock=clock, observers=[partial(metrics.request, "api")]),
            Edge(management, clock=clock, observers=[partial(metrics.request, "management")]),
        )
        listeners = (
            Listener(edges[0], sockets[0], config.api),
            Listener(edges[1], sockets[1]),
        )
        for listener in listeners:
            await listener.start()

        async def stop_listeners() -> None:
            await asyncio.gather(*(each.stop() for each in listeners))

        stack.push_async_callback(stop_listeners)
        yield service


async def _start_service(
    config: NodeConfig,
    identity: Identity,
    store: Store,
    clock: Clock,
    rng: Rng,
    metrics: Metrics,
) -> NodeService:
    pins = {peer.index: peer.public_key for peer in config.peers} | {config.index: identity.public}
    link = TlsLink(
        config.index,
        Ed25519PrivateKey.from_private_bytes(identity.private.reveal()),
        {peer.index: PeerAddress(peer.public_key, peer.address) for peer in config.peers},
        str(config.links),
        vault=config.vault_id,
        clock=clock,
        rng=rng,
        count=metrics.sent,
    )
    service = NodeService(
        parameters(config, pins),
        identity,
        store,
        DocumentDirectory(config.ers_store),
        link,
        clock,
        rng,
        anchor=AnchorFile(config.anchor),
        crash=_crash_hook(config),
    )
    try:
        await service.start()
    except BaseException:
        await service.stop(0)
        raise
    return service


def parameters(config: NodeConfig, pins: dict[int, bytes]) -> VaultParameters:
    """The vault's constants out of the configuration."""
    return VaultParameters(
        vault_id=config.vault_id,
        index=config.index,
        players=config.players,
        pins=pins,
        quorum=config.threshold + 1,
        session_seconds=float(config.limits.session_seconds),
        max_sessions=config.limits.max_sessions,
        operations=config.operations,
        policy=config.backup.require,
        gate=config.backup.gate,
        ers_allowed=config.ers.allowed,
        ers_automatic=config.ers.automatic,
        ers_attest_days=config.ers.attest_days,
        presignature_storage=config.presignatures.storage,
        presignature_target=config.presignatures.target,
        presignature_low_water=config.presignatures.low_water,
        test_profile=config.profile == "test",
        config_file=str(config.file),
    )


def _crash_hook(config: NodeConfig) -> Callable[[str], None]:
    # load_config has refused the variable in the production profile.
    spec = os.environ.get(VARIABLE)
    return crash_at(spec) if spec and config.profile == "test" else no_crash


async def _say_findings(config: NodeConfig, service: NodeService) -> None:
    for warning in warnings_for(parse(config.backup.require), config.backup.gate):
        logger().warning("policy", message=warning)
    for finding in (await service.status())["findings"]:
        if finding.get("finding") != "policy":
            logger().warning("finding", finding=finding.get("finding"), next=finding.get("next"))


@contextmanager
def _token(config: NodeConfig, rng: Rng) -> Iterator[str]:
    """A fresh management token in its file, for as long as the node runs."""
    token = rng.bytes(32).hex()
    write_private(config.token_file, token.encode("ascii") + b"\n")
    require_private(config.token_file, "management token")
    try:
        yield token
    finally:
        config.token_file.unlink(missing_ok=True)


def _on_signal(stop: asyncio.Event, number: int) -> None:
    logger().info("signal", signal=signal.Signals(number).name)
    stop.set()


def _on_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    exc = context.get("exception")
    fields = exception_fields(exc) if isinstance(exc, BaseException) else {}
    logger().error("stray", **fields)
