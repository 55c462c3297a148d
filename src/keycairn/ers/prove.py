"""The prover: what one node does for a batch of keys (docs/ers-format.md).

A first message never gets a second challenge. Everything random below the context is a function
of one hedged root that is never stored: fresh bytes, the whole context, all secrets and the path
ledger. Replayed fresh bytes with another context or ledger give another tree, with the same ones
the same proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import SecretBytes, SecretScalar, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.ers import merkle, tree
from keycairn.ers.box import seal
from keycairn.ers.challenge import challenge, closed_leaves, coefficients, hash_ciphertexts
from keycairn.ers.context import Context, pick_k_group
from keycairn.ers.document import Part
from keycairn.ers.leaf import Leaves
from keycairn.ers.ledger import encode_ledger
from keycairn.ers.linear import Masker
from keycairn.ers.params import DEFAULT
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.statement import KeyStatement, chain_code_hash
from keycairn.ports import Rng

_ROOT = tag("ers/root")
_ROOT_SALT = tag("ers/root-salt")
_ROOT_TREE = tag("ers/root-tree")


def derive_root(fresh: bytes, ctx: bytes, secrets: Sequence[bytes]) -> tuple[bytes, bytes]:
    """``(K_salt, tree root)`` from 32 fresh bytes, the context and all that the box and the
    leaves depend on."""
    material = encode(_ROOT, ctx, list(secrets))
    root = HKDF(hashes.SHA256(), 32, salt=fresh, info=_ROOT.prefix).derive(material)
    k_salt, seed = (
        HKDF(hashes.SHA256(), 32, salt=ctx, info=t.prefix).derive(root)
        for t in (_ROOT_SALT, _ROOT_TREE)
    )
    return k_salt, seed


class Prover:
    """One run of the prover. Use :func:`make_part`; tests derive cheating provers from this.

    Args:
        context: the complete statement.
        rsa: its RSA key.
        secrets: x_m of every bundle, in order; K last of its group.
        chain_codes: 32 bytes for every key that has one, in the context's order.
        fresh: 32 bytes from the operating system.
        ledger: the encoded path ledger; None for one without paths.
    """

    def __init__(
        self,
        context: Context,
        rsa: RsaPublicKey,
        secrets: Sequence[Sequence[int]],
        chain_codes: Sequence[bytes],
        fresh: bytes,
        ledger: bytes | None = None,
    ) -> None:
        self.context = context
        self.leaves = Leaves(context, rsa)
        self.secrets = secrets
        encoded = [
            bundle.group.encode_scalar(x)
            for bundle, xs in zip(context.bundles, secrets, strict=True)
            for x in xs
        ]
        k = next(xs[-1] for b, xs in zip(context.bundles, secrets, strict=True) if b.has_k)
        if ledger is None:
            ledger = encode_ledger([key.key_id for key in context.keys], {})
        self.box = seal(context, k, chain_codes, ledger)
        # The ledger too: the box enters the challenge, and two challenges of one tree would open
        # in one proof what stays closed in the other.
        hedge = [*encoded, *chain_codes, ledger]
        self.k_salt, self.root = derive_root(fresh, context.ctx, hedge)

    def ciphertext(self, k: int, a: bytes, coins: bytes) -> bytes:
        """c_k (a cheating prover in the tests replaces this)."""
        return self.leaves.ciphertext(k, a, coins)

    def masked(self, streams: Sequence[Sequence[bytes]]) -> list[bytes]:
        """All z of every leaf, from the leaves' pad streams (one per curve)."""
        by_curve = [
            Masker(b.group, xs).mask([pads[i] for pads in streams])
            for i, (b, xs) in enumerate(zip(self.context.bundles, self.secrets, strict=True))
        ]
        return [b"".join(parts) for parts in zip(*by_curve, strict=True)]

    def run(self) -> Part:
        """The whole proof."""
        context, leaves = self.context, self.leaves
        ctx, p, bundles = context.ctx, context.params, context.bundles
        seeds = tree.grow(ctx, p.leaves, self.root)
        numbers = range(1, p.leaves + 1)
        cs: list[bytes] = []
        streams: list[list[bytes]] = []
        for k in numbers:
            a, coins = leaves.open_seed(k, seeds[p.leaves + k - 1])
            cs.append(self.ciphertext(k, a, coins))
            streams.append([leaves.pads(k, a, b) for b in bundles])
        zs = self.masked(streams)
        salts = [leaves.salt(k, self.k_salt) for k in numbers]
        hs = [leaves.commitment(k, zs[k - 1], salts[k - 1]) for k in numbers]
        values = merkle.build(ctx, hs)
        c_hash = hash_ciphertexts(ctx, cs)
        combiners = leaves.combiners([coefficients(ctx, c_hash, values[1], b) for b in bundles])
        announcements = [
            b.group.base_mul(combiner.pads(stream)).encode()
            for pads in streams
            for b, combiner, stream in zip(bundles, combiners, pads, strict=True)
        ]
        e = challenge(ctx, self.box, c_hash, values[1], announcements)
        closed = closed_leaves(e, p)
        cover = tree.cover(p.leaves, closed)
        return Part(
            context=context,
            e=e,
            box=self.box,
            copath=b"".join([seeds[i] for i in cover]),
            siblings=b"".join([values[i] for i in cover]),
            leaves=b"".join([cs[k - 1] + zs[k - 1] + salts[k - 1] for k in closed]),
        )


def _check_secrets(
    node: int,
    keys: Sequence[KeyStatement],
    shares: Sequence[SecretScalar],
    chain_codes: Sequence[SecretBytes | None],
) -> None:
    if not len(keys) == len(shares) == len(chain_codes):
        raise KeycairnError(Code.BAD_LENGTH, "one share and one chain code entry per key")
    for key, share, code in zip(keys, shares, chain_codes, strict=True):
        group = key.group
        x = share.reveal()
        if not 0 < x < group.q:
            raise KeycairnError(
                Code.BAD_SCALAR, "a share is out of range", detail={"key": key.key_id}
            )
        if group.base_mul(x).encode() != key.commitment(node):
            raise KeycairnError(
                Code.BAD_SHARE,
                "the share does not belong to this key record",
                node=node,
                next="run `keycairn doctor` on this node",
                detail={"key": key.key_id},
            )
        if code is not None and len(code.reveal()) != 32:
            raise KeycairnError(Code.BAD_LENGTH, "a chain code has 32 bytes")
        expected = None if code is None else chain_code_hash(code.reveal())
        if expected != key.chain_code_hash:
            raise KeycairnError(
                Code.BAD_COMMIT,
                "the chain code does not belong to this key record",
                node=node,
                detail={"key": key.key_id},
            )


def make_part(
    *,
    rsa: RsaPublicKey,
    vault: str,
    node: int,
    label: str,
    params: str = DEFAULT,
    keys: Sequence[KeyStatement],
    shares: Sequence[SecretScalar],
    chain_codes: Sequence[SecretBytes | None],
    rng: Rng,
    paths: Mapping[str, Iterable[str]] | None = None,
) -> Part:
    """Encrypt this node's shares of a batch to the RSA key, with a proof.

    The caller has looked the RSA key up on the node's own allow-list (R-31). All nodes of one
    document pass equal ``vault``, ``label``, ``params``, ``rsa`` and ``keys`` in equal order.

    Args:
        rsa: the recovery key.
        vault: vault id, printable ASCII.
        node: this node's player index, a holder of every key.
        label: the operator's words, at most 256 bytes of UTF-8; shown before decryption.
        params: "fast", "balanced" or "compact".
        keys: public facts of the keys, distinct ids.
        shares: this node's share of each key, in the keys' order.
        chain_codes: the chain code of each key, or None for a key without one.
        rng: the source of K, the context's salt and the 32 fresh bytes of the root.
        paths: by key id, the derivation paths that this node knows to be in use. A hint for
            recovery, boxed with the chain codes; nodes may know different ones.

    Raises:
        KeycairnError: E_BAD_SHARE or E_BAD_COMMIT if a secret does not fit its statement,
            E_BAD_SCALAR, E_BAD_LENGTH; E_MALFORMED for a text in ``paths`` that is no path;
            E_ERS_INVALID for a statement no verifier would take;
            E_WEAK_RSA; E_RNG.
    """
    load_rsa_public_key(rsa.spki, allow_2048=True)
    batch = tuple(keys)
    for key in batch:
        key.check_shape()
    _check_secrets(node, batch, shares, chain_codes)
    k_group = pick_k_group(batch) if batch else None
    k = k_group.random_scalar(rng) if k_group else 0
    context = Context(
        params_name=params,
        rsa_spki=rsa.spki,
        label=label,
        vault=vault,
        node=node,
        salt=rng.bytes(32),
        k_point=k_group.base_mul(k).encode() if k_group else b"",
        keys=batch,
    )
    context.check_shape()
    secrets = [
        [shares[i].reveal() for i in bundle.keys] + ([k] if bundle.has_k else [])
        for bundle in context.bundles
    ]
    codes = [code.reveal() for code in chain_codes if code is not None]
    ledger = encode_ledger([key.key_id for key in batch], paths or {})
    return Prover(context, rsa, secrets, codes, rng.bytes(32), ledger).run()
