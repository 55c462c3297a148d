"""The key record: everything public about a key, equal on every holder (R-14)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from keycairn.curves import Group, Point, group
from keycairn.encoding import SecretBytes, SecretScalar, digest, tag
from keycairn.errors import Code, KeycairnError

_RECORD = tag("key/record")

FROST_RFC9591, FROST_BIP340 = "frost-rfc9591", "frost-bip340"

#: scheme/curve pairs that this version creates, with the protocol that signs for them. A key
#: names its protocol and never changes it silently.
SUITES: dict[tuple[str, str], str] = {
    ("ecdsa", "secp256k1"): "dkls23",
    ("ecdsa", "p256"): "dkls23",
    ("schnorr", "ed25519"): FROST_RFC9591,
    ("schnorr", "secp256k1"): FROST_BIP340,
}

#: The variant that whoever creates such a key must name: "Schnorr on secp256k1" alone would say
#: neither which challenge nor which encoding, and other kinds may come.
VARIANTS: dict[tuple[str, str], str] = {("schnorr", "secp256k1"): "bip340"}


def protocol_for(scheme: str, curve: str) -> str:
    """The signing protocol of a scheme on a curve; E_MALFORMED for an unknown pair."""
    try:
        return SUITES[(scheme, curve)]
    except KeyError:
        raise KeycairnError(
            Code.MALFORMED,
            "this scheme is not available on this curve",
            next="use --scheme ecdsa --curve secp256k1 or p256, --scheme schnorr --curve ed25519, "
            "or --scheme schnorr --curve secp256k1 --variant bip340",
            detail={"scheme": str(scheme)[:32], "curve": str(curve)[:32]},
        ) from None


def check_kind(scheme: str, curve: str, variant: str | None) -> None:
    """Refuse a kind of key that this version does not create.

    Raises:
        KeycairnError: E_MALFORMED for an unknown pair of scheme and curve, a variant that the
            pair does not have, or none where it must be named.
    """
    protocol_for(scheme, curve)
    expected = VARIANTS.get((scheme, curve))
    if variant == expected:
        return
    detail = {"scheme": scheme, "curve": curve, "variant": str(variant)[:32]}
    if expected is None:
        raise KeycairnError(
            Code.MALFORMED,
            f"a {scheme} key on {curve} has no variants",
            next="leave the variant out; --variant bip340 goes with --scheme schnorr "
            "--curve secp256k1",
            detail=detail,
        )
    raise KeycairnError(
        Code.MALFORMED,
        f"a {scheme} key on {curve} must be made with variant {expected}",
        next=f"add --variant {expected}",
        detail=detail,
    )


@dataclass(frozen=True)
class KeyRecord:
    """Public facts of a key at one generation.

    Attributes:
        key_id: name of the key, chosen by the creating session.
        vault: vault id.
        purpose: what the key may do; "sign".
        threshold: t; t+1 holders sign.
        holders: sorted player indices.
        public_key: encoded point X.
        share_commitments: encoded X_i = x_i*G of every holder, in ``holders``' order.
        chain_code_hash: tagged SHA-256 of the chain code, or None for a key without one.
        generation: share epoch, 1 at creation.
    """

    key_id: str
    vault: str
    scheme: str
    curve: str
    protocol: str
    purpose: str
    threshold: int
    holders: tuple[int, ...]
    public_key: bytes
    share_commitments: tuple[bytes, ...]
    chain_code_hash: bytes | None
    generation: int

    @cached_property
    def hash(self) -> bytes:
        """The record hash, 32 bytes: equal on all holders."""
        return digest(
            _RECORD,
            self.key_id,
            self.vault,
            self.scheme,
            self.curve,
            self.protocol,
            self.purpose,
            self.threshold,
            list(self.holders),
            self.public_key,
            list(self.share_commitments),
            self.chain_code_hash,
            self.generation,
        )

    @property
    def group(self) -> Group:
        return group(self.curve)

    def public_point(self) -> Point:
        return self._public

    @cached_property
    def _public(self) -> Point:
        return self.group.decode_point(self.public_key)

    def commitment_of(self, player: int) -> Point:
        """X_i of a holder; E_BAD_INDEX for anybody else."""
        if player not in self.holders:
            raise KeycairnError(Code.BAD_INDEX, f"player {player} is not a holder of this key")
        return self.group.decode_point(self.share_commitments[self.holders.index(player)])

    def check_signers(self, players: tuple[int, ...]) -> None:
        """Raise E_BAD_INDEX unless ``players`` are at least t+1 distinct, sorted holders."""
        if len(set(players)) != len(players) or list(players) != sorted(players):
            raise KeycairnError(Code.BAD_INDEX, "signers must be distinct and sorted")
        if any(p not in self.holders for p in players):
            raise KeycairnError(Code.BAD_INDEX, "a signer does not hold this key")
        if len(players) < self.threshold + 1:
            raise KeycairnError(
                Code.BAD_INDEX,
                f"this key needs {self.threshold + 1} signers, got {len(players)}",
            )


@dataclass(frozen=True)
class KeyShare:
    """One holder's secret part of a key, with the record it belongs to."""

    record: KeyRecord
    index: int
    share: SecretScalar
    chain_code: SecretBytes | None
