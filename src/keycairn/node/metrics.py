"""Prometheus metrics of one node. Labels are route templates, signer sets and player numbers:
bounded, and never a key id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Metrics:
    """The metrics, in a registry of their own (two nodes may live in one process)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "keycairn_requests",
            "Requests by listener, route and status",
            ("listener", "method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "keycairn_request_seconds",
            "Time to answer, by listener and route",
            ("listener", "route"),
            registry=self._registry,
        )
        self._healthy = Gauge(
            "keycairn_healthy",
            "1 if this node can finish a round with t+1 players",
            registry=self._registry,
        )
        self._peer_up = Gauge(
            "keycairn_peer_up", "1 if the peer is connected", ("peer",), registry=self._registry
        )
        self._peer_banned = Gauge(
            "keycairn_peer_banned", "1 if the peer is banned", ("peer",), registry=self._registry
        )
        self._sent = Counter(
            "keycairn_link_sent_bytes",
            "Bytes of protocol frames sent to a peer, without TLS and framing",
            ("peer",),
            registry=self._registry,
        )

        self._stock = Gauge(
            "keycairn_presignatures",
            "Presignatures that are ready, by signer set and protocol",
            ("players", "protocol"),
            registry=self._registry,
        )
        self._made = Counter(
            "keycairn_presignatures_made",
            "Presignatures made since the start",
            registry=self._registry,
        )
        self._signatures = Counter(
            "keycairn_signatures",
            'Signatures given out since the start: how="pool" from presignatures, "full" without',
            ("how",),
            registry=self._registry,
        )
        for how in ("pool", "full"):
            self._signatures.labels(how)
        self._bundle_at = Gauge(
            "keycairn_backup_newest_timestamp_seconds",
            "When the newest good bundle was made; 0 without any",
            registry=self._registry,
        )
        self._bundle_age = Gauge(
            "keycairn_backup_age_seconds",
            "Age of the newest good bundle; infinite without any",
            registry=self._registry,
        )
        self._bundle_failures = Counter(
            "keycairn_backup_failures",
            "Bundles that could not be made since the start",
            registry=self._registry,
        )
        self._bundle_failed_at = Gauge(
            "keycairn_backup_last_failure_timestamp_seconds",
            "When a bundle could not be made, if none was made since; else 0",
            registry=self._registry,
        )
        self._counted: dict[str, int] = {}

    def request(self, listener: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request."""
        self._requests.labels(listener, method, route, str(status)).inc()
        self._seconds.labels(listener, route).observe(seconds)

    def sent(self, peer: int, size: int) -> None:
        """Count a frame that goes to a peer."""
        self._sent.labels(str(peer)).inc(size)

    def backups(self, state: Mapping[str, Any]) -> None:
        """Take over what the schedule says (:class:`keycairn.node.schedule.Scheduler`)."""
        self._bundle_at.set((state["created_us"] or 0) // 1_000_000)
        age = state["age_seconds"]
        self._bundle_age.set(float("inf") if age is None else age)
        self._bundle_failures.inc(self._since("failures", state["failures"]))
        failure = state["failure"]
        self._bundle_failed_at.set(0 if failure is None else failure["at_us"] // 1_000_000)

    def render(
        self,
        health: Mapping[str, Any],
        peers: Sequence[Mapping[str, Any]],
        presignatures: Sequence[Mapping[str, Any]],
        statistics: Mapping[str, Any],
    ) -> tuple[bytes, str]:
        """The exposition text and its content type. The arguments are the service's answers."""
        stock: dict[tuple[str, str], int] = {}
        for row in presignatures:
            kind = (",".join(map(str, row["players"])), str(row["protocol"]))
            stock[kind] = stock.get(kind, 0) + int(row["count"])
        self._stock.clear()
        for labels, count in stock.items():
            self._stock.labels(*labels).set(count)
        self._made.inc(self._since("made", statistics.get("presignatures_made", 0)))
        for how, count in statistics.get("signatures", {}).items():
            self._signatures.labels(how).inc(self._since(how, count))
        self._healthy.set(1 if health.get("ok") else 0)
        for peer in peers:
            name = str(peer.get("index"))
            self._peer_up.labels(name).set(1 if peer.get("up") else 0)
            self._peer_banned.labels(name).set(1 if peer.get("banned") else 0)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _since(self, name: str, total: int) -> int:
        """How much a total of the service's has grown since it was last asked for."""
        grown = max(0, total - self._counted.get(name, 0))
        self._counted[name] = total
        return grown
