"""A signing request in the words of its protocol: parameters, sessions, results.

A job is what one node was asked to sign, with its own share, its own derivation of the paths and,
for ECDSA, its pair setups. It runs as a *full* session, which makes what it needs on the way, or as
a *use* of presignatures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from keycairn.curves.derivation import derive, parse_path
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ports import Rng
from keycairn.protocols import dkls23, frost
from keycairn.protocols.form import Party, Protocol
from keycairn.protocols.presignature import Presignature
from keycairn.protocols.record import FROST_BIP340, KeyRecord, KeyShare
from keycairn.protocols.session import NONCE_LEN, SMALL_ROUNDS, Hello, Opening, SessionSpec
from keycairn.protocols.setup import PairSetup
from keycairn.protocols.wire import Message, decode
from keycairn.vault.api import Sign, Signature, SignItem

ROOT = "m"
MAX_ITEMS = 100
ID_LEN = 32

Stock = Presignature[Any]


def check_shape(record: KeyRecord, request: Sign) -> None:
    """Refuse items that this kind of key can't sign, before anything else is looked at.

    Raises:
        KeycairnError: E_MALFORMED, E_TOO_LARGE.
    """
    if not 1 <= len(request.items) <= MAX_ITEMS:
        raise malformed(f"a request has 1 to {MAX_ITEMS} items, got {len(request.items)}")
    if request.presignature is not None and len(request.items) != 1:
        raise malformed("a presignature can be named for a single item only")
    if request.taproot and record.protocol != FROST_BIP340:
        raise malformed("only a BIP-340 key (schnorr on secp256k1) has a taproot address")
    for item in request.items:
        if item.path is not None:
            parse_path(item.path)
        if record.scheme == "ecdsa":
            if item.digest is None or item.message is not None:
                raise malformed("an ECDSA key signs a digest, not a message")
            if len(item.digest) != 32:
                raise malformed(f"a digest has 32 bytes, got {len(item.digest)}")
        else:
            if item.message is None or item.digest is not None:
                raise malformed("a Schnorr key signs a message, not a digest")
            if len(item.message) > frost.MAX_MESSAGE:
                raise KeycairnError(
                    Code.TOO_LARGE, f"a message has at most {frost.MAX_MESSAGE} bytes"
                )


def child(key: KeyShare, path: str | None) -> tuple[int, bytes]:
    """Tweak and public key of a key's child; the key itself for None and ``m``.

    Raises:
        KeycairnError: E_MALFORMED for a bad path or a key without a chain code; E_BAD_SCALAR if
            there is no key at the path.
    """
    record = key.record
    if path is None or path == ROOT:
        return 0, record.public_key
    if key.chain_code is None:
        raise malformed("this key has no chain code, so it has no paths")
    made = derive(record.curve, record.scheme, record.public_key, key.chain_code.reveal(), path)
    return made.tweak, made.public_key


class Job(ABC):
    """One request at one node.

    Args:
        key: this node's share.
        vault: vault id.
    """

    #: Names and message types of the protocol.
    module: ModuleType

    def __init__(self, request: Sign, key: KeyShare, vault: str) -> None:
        self.names = request.names
        self.key = key
        self.items = request.items
        self._vault = vault
        self._asked = (request.names.request_id, key.record.key_id, key.record.hash)

    @property
    def paths(self) -> list[str]:
        """Paths that the ledger must know."""
        return [i.path for i in self.items if i.path is not None and i.path != ROOT]

    def full_spec(self) -> SessionSpec:
        """The session that makes what it needs."""
        params = self.module.SignParams(*self._asked, self._wire_items())
        return self._spec(self.module.NAME, params, None)

    def use_spec(self, ids: Sequence[bytes], opening: Opening) -> SessionSpec:
        """The session that uses these presignatures."""
        params = self.module.UseParams(*self._asked, self._wire_items(), tuple(ids))
        return self._spec(self.module.USE_NAME, params, opening)

    def proposed(self, hello: Hello) -> tuple[bytes, ...] | None:
        """Ids that a proposer's HELLO claims; None if it proposes something else.

        Whatever else it says is compared when this node's own HELLO is there.
        """
        if (hello.protocol, hello.protocol_version) != (self.module.USE_NAME, self.module.VERSION):
            return None
        try:
            ids: tuple[bytes, ...] = decode(self.module.UseParams, hello.params).presignatures
        except KeycairnError:
            return None
        good = len(ids) == len(self.items) and all(len(i) == ID_LEN for i in ids)
        return ids if good else None

    def _spec(self, name: str, params: Message, opening: Opening | None) -> SessionSpec:
        return SessionSpec(
            self.names.session_id,
            name,
            self.module.VERSION,
            self._vault,
            self.names.players,
            params,
            self._bindings(),
            largest=self._largest(),
            opening=opening,
        )

    def _bindings(self) -> Mapping[int, bytes]:
        return {}

    def _largest(self) -> int:
        return SMALL_ROUNDS

    @abstractmethod
    def _wire_items(self) -> tuple[Any, ...]: ...

    @abstractmethod
    def full(self, party: Party) -> Protocol[list[Any]]:
        """The protocol of :meth:`full_spec`."""

    @abstractmethod
    def claim(self, taken: Sequence[Stock], rng: Rng) -> Any:
        """Use up presignatures for this request; CPU-bound. Errors: those of the protocol's
        ``claim``, with everything unused while it refuses."""

    @abstractmethod
    def use(self, party: Party, claim: Any) -> Protocol[list[Any]]:
        """The protocol of :meth:`use_spec`."""

    @abstractmethod
    def signature(self, made: Any) -> Signature: ...


class EcdsaJob(Job):
    """DKLs23."""

    module = dkls23

    def __init__(
        self, request: Sign, key: KeyShare, vault: str, index: int, setups: Mapping[int, PairSetup]
    ) -> None:
        super().__init__(request, key, vault)
        self._index = index
        self._setups = setups
        self._requests = [
            dkls23.Request(item.digest or b"", child(key, item.path)[0]) for item in self.items
        ]

    def _bindings(self) -> Mapping[int, bytes]:
        return {p: s.setup_id for p, s in self._setups.items()}

    def _largest(self) -> int:
        return dkls23.largest_round(len(self.items))

    def _wire_items(self) -> tuple[Any, ...]:
        return tuple(dkls23.Item(i.digest or b"", i.path or ROOT) for i in self.items)

    def full(self, party: Party) -> Protocol[list[Any]]:
        return dkls23.sign_full(party, self.key, self._setups, self._requests)

    def claim(self, taken: Sequence[Stock], rng: Rng) -> dkls23.Claim:
        mine: list[Any] = list(taken)
        return dkls23.claim(
            self.key, self._index, self.names.players, self._setups, mine, self._requests
        )

    def use(self, party: Party, claim: dkls23.Claim) -> Protocol[list[Any]]:
        return dkls23.use(party, claim)

    def signature(self, made: dkls23.EcdsaSignature) -> Signature:
        return Signature(
            signature=made.compact(),
            der=made.der(),
            recovery_id=made.recovery_id,
            public_key=made.public_key,
            nodes=self.names.players,
            base_r=made.base_r,
            presignature_id=made.presignature_id,
        )


class FrostJob(Job):
    """FROST, for Ed25519 and BIP-340."""

    module = frost

    def __init__(self, request: Sign, key: KeyShare, vault: str, index: int) -> None:
        super().__init__(request, key, vault)
        self._index = index
        self._taproot = request.taproot
        root = b"" if request.taproot else None  # BIP-86: an output without a script tree
        self._requests = [
            frost.Request(item.message or b"", child(key, item.path)[0], root)
            for item in self.items
        ]

    def _wire_items(self) -> tuple[Any, ...]:
        return tuple(self._wire_item(i) for i in self.items)

    def _wire_item(self, item: SignItem) -> frost.Item:
        return frost.Item(frost.message_hash(item.message or b""), item.path or ROOT, self._taproot)

    def full(self, party: Party) -> Protocol[list[Any]]:
        return frost.sign_full(party, self.key, self._requests)

    def claim(self, taken: Sequence[Stock], rng: Rng) -> frost.Claim:
        mine: list[Any] = list(taken)
        players = self.names.players
        nonce = rng.bytes(NONCE_LEN)
        return frost.claim(self.key, self._index, players, mine, self._requests, nonce)

    def use(self, party: Party, claim: frost.Claim) -> Protocol[list[Any]]:
        return frost.use(party, claim)

    def signature(self, made: frost.FrostSignature) -> Signature:
        return Signature(
            signature=made.signature,
            der=None,
            recovery_id=None,
            public_key=made.public_key,
            nodes=self.names.players,
            base_r=made.base_r,
            presignature_id=made.presignature_id,
        )
