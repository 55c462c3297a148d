"""Keys, parts and documents for the ERS tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from keycairn.curves import group
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers.context import Context, pick_k_group
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document, Part
from keycairn.ers.prove import Prover, make_part
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.statement import KeyStatement, chain_code_hash
from keycairn.ers.verify import ExpectedKey
from keycairn.ports.seeded import SeededRng

SUITES = {
    "secp256k1": ("ecdsa", "dkls23"),
    "p256": ("ecdsa", "dkls23"),
    "ed25519": ("schnorr", "frost-rfc9591"),
}


@dataclass(frozen=True)
class TestKey:
    """A shared key with everything that its nodes know."""

    __test__ = False
    statement: KeyStatement
    secret: int
    shares: dict[int, SecretScalar]
    chain_code: SecretBytes | None

    @property
    def expected(self) -> ExpectedKey:
        s = self.statement
        return ExpectedKey(s.key_id, s.public_key, s.curve, s.generation, s.record_hash)


def make_key(
    key_id: str,
    curve: str = "secp256k1",
    n: int = 3,
    t: int = 1,
    *,
    chain_code: bool = True,
    generation: int = 1,
) -> TestKey:
    """A key shared among players 1..n; the same arguments give the same key."""
    rng = SeededRng(f"{key_id} {curve} {n} {t}")
    g = group(curve)
    f = Polynomial.random(g, t, rng)
    shares = {i: f.evaluate(i) for i in range(1, n + 1)}
    code = rng.bytes(32)
    scheme, protocol = SUITES[curve]
    secret = f.coefficients[0].reveal()
    statement = KeyStatement(
        key_id=key_id,
        curve=curve,
        scheme=scheme,
        protocol=protocol,
        threshold=t,
        holders=tuple(shares),
        public_key=g.base_mul(secret).encode(),
        share_commitments=tuple(g.base_mul(x.reveal()).encode() for x in shares.values()),
        generation=generation,
        chain_code_hash=chain_code_hash(code) if chain_code else None,
        record_hash=rng.bytes(32),
    )
    return TestKey(statement, secret, shares, SecretBytes(code) if chain_code else None)


def part_of(
    keys: Sequence[TestKey],
    node: int,
    rsa: RsaPublicKey,
    *,
    params: str = "fast",
    label: str = "test label",
    vault: str = "vault-1",
    seed: object = 0,
    paths: Mapping[str, Sequence[str]] | None = None,
) -> Part:
    """An honest node's part."""
    return make_part(
        rsa=rsa,
        vault=vault,
        node=node,
        label=label,
        params=params,
        keys=[k.statement for k in keys],
        shares=[k.shares[node] for k in keys],
        chain_codes=[k.chain_code for k in keys],
        rng=SeededRng(f"{seed} {node}"),
        paths=paths,
    )


def document_of(
    keys: Sequence[TestKey], rsa: RsaPublicKey, nodes: Sequence[int] = (1, 2, 3), **options: object
) -> Document:
    """A document with the honest parts of ``nodes``."""
    return Document(tuple(part_of(keys, i, rsa, **options) for i in nodes))  # type: ignore[arg-type]


def prover_for(
    keys: Sequence[TestKey],
    node: int,
    rsa: RsaPublicKey,
    *,
    cls: type[Prover] = Prover,
    seed: object = 0,
    shift: int = 0,
    statements: Sequence[KeyStatement] | None = None,
    ledger: bytes | None = None,
    params: str = "fast",
) -> Prover:
    """A prover without make_part's own checks; ``shift`` falsifies the first share and K."""
    rng = SeededRng(f"prover {seed}")
    claimed = tuple(statements or [k.statement for k in keys])
    k_group = pick_k_group(claimed)
    secret = k_group.random_scalar(rng)
    context = Context(
        params,
        rsa.spki,
        "test label",
        "vault-1",
        node,
        rng.bytes(32),
        k_group.base_mul(secret).encode(),
        claimed,
    )
    secrets = []
    for bundle in context.bundles:
        xs = [keys[i].shares[node].reveal() for i in bundle.keys]
        secrets.append(xs + ([secret] if bundle.has_k else []))
    if shift:
        secrets[0][0] = (secrets[0][0] + shift) % context.bundles[0].group.q
        secrets[0][-1] = (secrets[0][-1] - shift) % context.bundles[0].group.q
    codes = [k.chain_code.reveal() for k in keys if k.chain_code is not None]
    return cls(context, rsa, secrets, codes, rng.bytes(32), ledger)


def with_context(part: Part, **changes: object) -> Part:
    """The same proof under an edited context."""
    return replace(part, context=replace(part.context, **changes))  # type: ignore[arg-type]


def refused(call, code: Code = Code.ERS_INVALID) -> KeycairnError:  # type: ignore[no-untyped-def]
    """Run ``call``; it must raise KeycairnError with ``code``."""
    with pytest.raises(KeycairnError) as caught:
        call()
    assert caught.value.code is code, caught.value
    return caught.value


class CountingKey:
    """A decryptor that counts; fails like a token after ``limit`` decryptions."""

    def __init__(self, key: SoftwareKey, limit: int | None = None) -> None:
        self.key, self.count, self.limit = key, 0, limit

    @property
    def public(self) -> RsaPublicKey:
        return self.key.public

    def decrypt(self, ciphertext: bytes) -> bytes:
        if self.limit is not None and self.count >= self.limit:
            raise KeycairnError(Code.UNAVAILABLE, "the token was removed")
        self.count += 1
        return self.key.decrypt(ciphertext)
