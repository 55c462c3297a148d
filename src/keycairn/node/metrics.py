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
        self._ers_keys = Gauge(
            "keycairn_ers_keys",
            "Active keys by the status of their recovery documents at this node",
            ("status",),
            registry=self._registry,
        )
        self._ers_age = Gauge(
            "keycairn_ers_verified_age_seconds",
            "Time since the recovery document that was verified longest ago was; 0 without any",
            registry=self._registry,
        )
        self._ers_unsound = Gauge(
            "keycairn_ers_unsound_documents",
            "Stored recovery documents whose proof did not hold at the last check",
            registry=self._registry,
        )
        self._ers_beside = Gauge(
            "keycairn_ers_private_keys_beside_documents",
            "RSA private keys found where recovery documents lie",
            registry=self._registry,
        )
        self._ers_attested = Gauge(
            "keycairn_ers_key_attested_timestamp_seconds",
            "When the owner of an allowed RSA key last showed that it can decrypt; 0 for never",
            ("rsa_spki_sha256",),
            registry=self._registry,
        )
        self._ers_overdue = Gauge(
            "keycairn_ers_key_attestation_overdue",
            "1 if that is longer ago than [ers] attest_days, or never was",
            ("rsa_spki_sha256",),
            registry=self._registry,
        )
        sink = ("sink", "kind")
        self._sink_waiting = Gauge(
            "keycairn_ers_sink_waiting",
            "Recovery documents that a sink has not taken, by its number in [ers] sinks",
            sink,
            registry=self._registry,
        )
        self._sink_failing = Gauge(
            "keycairn_ers_sink_failing",
            "1 if the last delivery or check at the sink failed",
            sink,
            registry=self._registry,
        )
        self._sink_age = Gauge(
            "keycairn_ers_sink_checked_age_seconds",
            "Time since the document that was read back longest ago was; 0 without any",
            sink,
            registry=self._registry,
        )
        self._sink_failures = Counter(
            "keycairn_ers_sink_failures",
            "Deliveries and checks that failed since the start",
            sink,
            registry=self._registry,
        )
        self._sink_lost = Counter(
            "keycairn_ers_sink_lost",
            "Delivered documents that were gone or damaged at a check since the start",
            sink,
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

    def ers(self, state: Mapping[str, Any]) -> None:
        """Take over what :class:`keycairn.node.ers_watch.ErsWatch` says."""
        for status, count in state["keys"].items():
            self._ers_keys.labels(status.lower()).set(count)
        self._ers_age.set(state["verified_age_seconds"] or 0)
        self._ers_unsound.set(state["unsound"])
        self._ers_beside.set(state["private_keys_beside"])
        self._ers_attested.clear()
        self._ers_overdue.clear()
        for key in state["rsa_keys"]:
            name = key["rsa_spki_sha256"]
            self._ers_attested.labels(name).set((key["attested_us"] or 0) // 1_000_000)
            self._ers_overdue.labels(name).set(key["attestation"] != "good")
        for sink in state["sinks"]:
            labels = (str(sink["number"]), sink["kind"])
            self._sink_waiting.labels(*labels).set(sink["waiting"])
            self._sink_failing.labels(*labels).set(sink["failing"])
            self._sink_age.labels(*labels).set(sink["checked_age_seconds"] or 0)
            for what, counter in (("failures", self._sink_failures), ("lost", self._sink_lost)):
                name = f"ers sink {sink['number']} {what}"
                counter.labels(*labels).inc(self._since(name, sink[what]))

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
