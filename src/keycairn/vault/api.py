"""What a node does for its users and its operator: requests, results and the ``Service`` port.

The HTTP edge turns bodies into these requests and results into bodies; nothing else crosses.
All byte strings are raw here and lower-case hex at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keycairn.encoding import SecretBytes


@dataclass(frozen=True)
class SessionNames:
    """What every session request carries; the same values go to every player's node.

    Attributes:
        session_id: name of the session, 1..64 characters of [A-Za-z0-9._:-], chosen by the client,
            never used twice.
        request_id: idempotency key, same alphabet; unique per application and kind of request.
        players: distinct player indices that take part, sorted.
    """

    session_id: str
    request_id: str
    players: tuple[int, ...]


@dataclass(frozen=True)
class CreateKeys:
    """Make ``count`` keys (1..1000) of one kind, held by all ``players``.

    ``variant`` is "bip340" for Schnorr keys on secp256k1, which must name it, else None.
    """

    names: SessionNames
    scheme: str
    curve: str
    threshold: int
    count: int = 1
    variant: str | None = None


@dataclass(frozen=True)
class SignItem:
    """One thing to sign: a 32-byte digest (ECDSA) or a message (Schnorr).

    ``path`` names a child of the key (curves/derivation.py); None is the key itself.
    """

    digest: bytes | None = None
    message: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class Sign:
    """Sign 1..100 items with one key; all of them are signed, or none is answered.

    ``presignature`` (hex) names the presignature to use, for a single item. ``taproot``, for
    BIP-340 keys only: sign for the BIP-86 output key, which the key's P2TR address names, instead
    of for the key itself.
    """

    names: SessionNames
    key_id: str
    items: tuple[SignItem, ...]
    presignature: str | None = None
    taproot: bool = False


@dataclass(frozen=True)
class CreateDocument:
    """Make one ERS document for ``key_ids``; ``players`` are all their holders.

    ``partial``: t+1 holders or more may do. Such a document recovers the keys; no policy counts
    it.
    """

    names: SessionNames
    key_ids: tuple[str, ...]
    rsa_spki: bytes
    params: str = "balanced"
    label: str = ""
    partial: bool = False


@dataclass(frozen=True)
class KeyView:
    """Public view of a key, as one node sees it.

    ``addresses`` maps names of interfaces.md to text, or to None while this node's policy gates
    them; ``missing`` names what the policy still asks for. With a ``path``, public key and
    addresses are those of the child there.
    """

    key_id: str
    scheme: str
    curve: str
    public_key: bytes
    generation: int
    threshold: int
    players: tuple[int, ...]
    state: str
    record_hash: bytes
    backed_up: str  # "yes" | "no" | "cant_tell"
    addresses: Mapping[str, str | None] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    path: str | None = None


@dataclass(frozen=True)
class Signature:
    """A verified signature. ``signature`` is r||s (ECDSA) or R||z (Schnorr), 64 bytes.

    ``public_key`` is what it verifies under: the taproot output key if that was asked for.
    """

    signature: bytes
    der: bytes | None
    recovery_id: int | None
    public_key: bytes
    nodes: tuple[int, ...]
    base_r: bytes
    presignature_id: bytes


@dataclass(frozen=True)
class DocumentResult:
    """A complete, verified ERS document."""

    document: bytes  # canonical JSON form
    sha256: str
    keys: tuple[str, ...]
    parts: tuple[int, ...]
    rsa_spki_sha256: str


@dataclass(frozen=True)
class ErsKeyView:
    """An ERS key on this node's allow-list.

    ``attestation`` says how fresh its owner's proof of possession is: "good", "overdue" or
    "never"; ``attested_days`` is its age. ``spki`` (DER) is empty where the configuration names
    only the hash.
    """

    rsa_spki_sha256: str
    bits: int
    state: str
    added_us: int
    attested_us: int | None
    expires_us: int | None
    origin: str  # "config" | "runtime"
    attestation: str = "never"
    attested_days: int | None = None
    spki: bytes = b""


class Service(Protocol):
    """One node. ``application`` scopes a caller: other applications' keys do not exist for it.

    Every method raises :class:`~keycairn.errors.KeycairnError`.
    """

    # -- applications
    async def create_keys(self, application: str, request: CreateKeys) -> Sequence[KeyView]:
        """E_MALFORMED, E_BAD_INDEX, E_POLICY, E_CONFLICT, E_PEER_TIMEOUT, aborts. Idempotent by
        request id; returns only once this node holds the certificate."""
        ...

    async def list_keys(self, application: str, after: str, limit: int) -> Sequence[KeyView]: ...

    async def show_key(self, application: str, key_id: str, path: str | None) -> KeyView:
        """A key, or its child at ``path``, which is noted in the ledger if addresses are shown."""
        ...

    async def key_paths(self, application: str, key_id: str) -> Sequence[str]:
        """The derivation paths that this node knows to be in use."""
        ...

    async def sign(self, application: str, request: Sign) -> Sequence[Signature]:
        """One signature for each item, in order."""
        ...

    async def presignatures(
        self, application: str | None, key_id: str | None
    ) -> Sequence[dict[str, Any]]:
        """The stock, a row for each key and signer set: key_id, players, protocol, count, target,
        low_water, storage, ids (hex, oldest first, at most 1000). Application None: of all."""
        ...

    async def delete_presignatures(
        self, application: str | None, key_id: str | None
    ) -> dict[str, Any]:
        """Drop the stock of a key, or all, and what is being made; tells the other signers.
        ``{"deleted": count}``. Idempotent, audited."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Since the start: presignatures_made; signatures given out, by "pool" and "full"."""
        ...

    async def create_document(
        self, application: str, request: CreateDocument
    ) -> DocumentResult: ...

    async def ers_status(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        """Per key: key_id, status (NONE|PARTIAL|COMPLETE|STALE), parts, have, players, why,
        rsa_keys (under which a complete document of now is here)."""
        ...

    async def coverage(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        """Per key the row of interfaces.md ``coverage``."""
        ...

    async def session(self, application: str, session_id: str) -> dict[str, Any]:
        """State of a session: name, kind, state (running|done|failed), error."""
        ...

    # -- operator
    async def ers_key_add(
        self, spki: bytes, expires_us: int | None, legacy_2048: bool
    ) -> dict[str, Any]:
        """Check an RSA key (R-30) and return the challenges for its owner (public JSON)."""
        ...

    async def ers_key_confirm(self, answers: Mapping[str, Any]) -> ErsKeyView: ...

    async def ers_key_remove(self, spki_sha256: str, force: bool = False) -> None:
        """Retire an ERS key. E_CONFLICT if some key has its only document under it, unless
        ``force``."""
        ...

    async def ers_key_list(self) -> Sequence[ErsKeyView]: ...

    async def ers_key_attest(self, spki_sha256: str) -> dict[str, Any]:
        """New challenges for a key that is already allowed."""
        ...

    async def status(self) -> dict[str, Any]:
        """state, cause, why, next, answers, answers_needed, anchor_us, incarnation, head (era,
        length, hash), vault, node, version, pending (batches), findings."""
        ...

    async def peers(self) -> Sequence[dict[str, Any]]:
        """index, up, incarnation, version, setup (bool), banned, ban (id, reason, at_us; or
        None), lifted_bans."""
        ...

    async def unban(self, peer: int) -> dict[str, Any]:
        """This node's operator lifts every ban of ``peer``; sessions with it begin on a new pair
        setup. Idempotent. E_BAD_INDEX.

        Returns: peer, lifted (ids of the bans that this call lifted), banned, refresh (ids of
        the keys whose shares the peer may know bits of)."""
        ...

    async def rejoin(self, *, without_witnesses: bool) -> dict[str, Any]:
        """Leave quarantine in a new era; see :mod:`keycairn.vault.fence.rejoin`."""
        ...

    async def health(self) -> dict[str, Any]:
        """ok (bool): this node can finish a round with t+1 players; reasons."""
        ...

    async def state_digest(self) -> bytes: ...


@dataclass(frozen=True)
class VaultParameters:
    """Constants of the vault as this node's configuration gives them."""

    vault_id: str
    index: int
    players: tuple[int, ...]
    pins: Mapping[int, bytes]  # raw Ed25519 public key of every player, own included
    quorum: int = 2  # players that the vault's usual key needs, t+1
    session_seconds: float = 30.0
    max_sessions: int = 64
    operations: frozenset[str] = frozenset()  # "ecdsa.create", "ecdsa.sign", "schnorr.create", …
    policy: str = "ers or node_backup"
    gate: tuple[str, ...] = ("address", "sign")
    presignature_storage: str = "memory"  # | "database": rows under a key that only RAM has
    presignature_target: int = 32  # for each key and signer set in use; 0: none are kept
    presignature_low_water: int = 8  # below it they are made even while requests run
    ers_allowed: tuple[str, ...] = ()  # SPKI SHA-256, or base64 SPKI, from the configuration
    ers_automatic: bool = False  # documents are made for new keys, if the policy names ers
    ers_attest_days: int = 180  # a proof of possession that is older is overdue
    test_profile: bool = False
    config_file: str = "node.toml"  # named in commands for the operator


@dataclass(frozen=True)
class Identity:
    """The node's identity key: raw 32-byte Ed25519 private key, and its public key."""

    private: SecretBytes
    public: bytes
