"""Children of a recovered key: private key, public key and addresses for each path in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keycairn.curves import group
from keycairn.curves.addresses import addresses
from keycairn.curves.derivation import derive
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers.faults import invalid


@dataclass(frozen=True)
class Child:
    """A child key; its private key was checked against its public key.

    Attributes:
        public_key: encoded, the plain point also for BIP-340 keys.
        addresses: by name, without those that the key does not have.
    """

    path: str
    public_key: bytes
    private_key: SecretScalar
    addresses: dict[str, str]


def addresses_of(scheme: str, curve: str, public_key: bytes) -> dict[str, str]:
    """The addresses that a key has, by name."""
    found = addresses(scheme, curve, public_key)
    return {name: text for name, text in found.items() if text is not None}


def child_at(
    curve: str, scheme: str, private_key: SecretScalar, chain_code: SecretBytes, path: str
) -> Child:
    """The child at ``path``, by the rule of public derivation (R-44: checked, not believed).

    Raises:
        KeycairnError: E_MALFORMED and E_BAD_SCALAR as of
            :func:`~keycairn.curves.derivation.derive`; E_ERS_INVALID if the private key does not
            have the public key that the nodes would have signed with.
    """
    g = group(curve)
    x = private_key.reveal()
    derived = derive(curve, scheme, g.base_mul(x).encode(), chain_code.reveal(), path)
    child = (x + derived.tweak) % g.q
    if child == 0 or g.base_mul(child).encode() != derived.public_key:
        raise invalid("child", f"the child at {path} has another public key")
    return Child(
        path,
        derived.public_key,
        SecretScalar(child),
        addresses_of(scheme, curve, derived.public_key),
    )


def children(
    curve: str,
    scheme: str,
    private_key: SecretScalar,
    chain_code: SecretBytes,
    paths: Iterable[str],
    warn: Callable[[str], Any] = lambda _: None,
) -> list[Child]:
    """The children at all ``paths``; one that has no key is warned of and left out."""
    found = []
    for path in paths:
        try:
            found.append(child_at(curve, scheme, private_key, chain_code, path))
        except KeycairnError as exc:
            if exc.code is not Code.BAD_SCALAR:
                raise
            # No node ever signed there: a ledger is its node's word, and this one is wrong.
            warn(f"the ledger names {path}, where there is no key")
    return found
