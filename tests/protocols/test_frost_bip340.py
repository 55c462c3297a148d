"""FROST for BIP-340: all combinations of signs, nonces used once, cheats named (T-058 to T-064)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from embit import ec

from curves import bip340_reference as reference
from keycairn.curves import SECP256K1, bip340
from keycairn.curves.derivation import derive
from keycairn.encoding import SecretScalar
from keycairn.errors import Certainty, Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost
from keycairn.protocols.record import KeyShare, check_kind, protocol_for
from keycairn.protocols.session import SessionSpec
from protocols.lockstep import (
    Envelope,
    Hook,
    Outcome,
    altered,
    deal,
    frost_sign,
    parties,
    replace,
    run,
)
from protocols.network import VAULT, World

G = SECP256K1
NONCE_ROUND, RESPONSE_ROUND = 1, 2
ROOTS = {"plain": None, "bip86": b"", "script tree": b"\7" * 32}
TWEAKS = pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)


def bip340_key(n: int = 3, t: int = 1, key_id: str = "key") -> dict[int, KeyShare]:
    return deal("secp256k1", n, t, scheme="schnorr", key_id=key_id)


def sign(
    keys: dict[int, KeyShare],
    players: Sequence[int],
    message: bytes = b"message",
    root: bytes | None = None,
    hook: Hook | None = None,
    seed: object = 0,
) -> dict[int, Outcome]:
    members = parties(players, "frost", seed)
    return run(
        {i: frost_sign(members[i], keys[i], message, merkle_root=root) for i in players}, hook
    )


def nonces(players: Sequence[int] = (1, 2), seed: object = 0) -> dict[int, frost.NoncePair]:
    keys = bip340_key()
    return {
        i: frost.commit(i, keys[i].share, SeededRng(f"{seed}/{i}"), frost.BIP340) for i in players
    }


def package_of(
    pairs: dict[int, frost.NoncePair], message: bytes = b"m", root: bytes | None = None
) -> frost.SigningPackage:
    key = frost.signing_key(bip340_key()[1].record, merkle_root=root)
    return frost.SigningPackage.build([pairs[i].commitment for i in sorted(pairs)], message, key)


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args, **options)
    return caught.value.code


# -- signatures ---


def test_t064_a_thousand_keys_with_every_combination_of_signs() -> None:
    """Odd key, negated key, odd R: shares, their verification and the sum fit in all of them."""
    seen: dict[tuple[bool, ...], int] = {}
    for n in range(1000):
        root = list(ROOTS.values())[n % 3]
        keys = bip340_key(key_id=f"signs/{n}")
        key = frost.signing_key(keys[1].record, merkle_root=root)
        players = [(1, 2), (1, 3), (2, 3), (1, 2, 3)][n % 4]
        pairs = {
            i: frost.commit(i, keys[i].share, SeededRng(f"{n}/{i}"), frost.BIP340) for i in players
        }
        listed = [pairs[i].commitment for i in players]
        message = n.to_bytes(32, "big")
        package = frost.SigningPackage.build(listed, message, key)
        assert frost.SigningPackage.build(listed, message, key, pairs[players[0]]) == package
        z = {i: frost.sign_share(package, pairs[i], keys[i].share, i) for i in players}
        for i in players:
            x_i = keys[i].record.commitment_of(i)
            assert frost.verify_signature_share(package, i, z[i], x_i)
            assert not frost.verify_signature_share(package, i, -z[i] % G.q, x_i)
            assert not frost.verify_signature_share(package, i, z[i], G.neg(x_i))
        signature = frost.aggregate(package, z)
        x_only = bip340.x_only(key.public_key)
        assert ec.PublicKey.from_xonly(x_only).schnorr_verify(ec.SchnorrSig(signature), message)
        signs = (
            keys[1].record.public_key[0] == 3, key.negated, package.negated, root is not None
        )  # fmt: skip
        if signs not in seen:
            assert reference.verify(x_only, message, signature)
        seen[signs] = seen.get(signs, 0) + 1
    # Without a tweak an odd key is a negated key; with one all eight combinations occur.
    assert len(seen) == 4 + 8
    assert min(seen.values()) > 20


@TWEAKS
@pytest.mark.parametrize("size", [0, 1, 17, 32, 100, 1000])
def test_t064_messages_of_any_length(root: bytes | None, size: int) -> None:
    keys, message = bip340_key(), bytes(range(256))[:size] * (1 + size // 256)
    for players in itertools.combinations((1, 2, 3), 2):
        (made,) = {o.result for o in sign(keys, players, message, root).values()}
        x = keys[1].record.public_key
        x_only = x[1:] if root is None else reference.output_key(x[1:], root)
        assert made.public_key == (x if root is None else b"\2" + x_only)
        assert len(made.signature) == 64
        assert made.base_r == b"\2" + made.signature[:32]
        assert reference.verify(x_only, message, made.signature)


def test_a_signature_for_the_output_key_is_none_for_the_key_itself() -> None:
    keys = bip340_key()
    public = keys[1].record.public_key
    for root in (b"", b"\7" * 32):
        (made,) = {o.result for o in sign(keys, (1, 2), root=root).values()}
        assert refused(bip340.verify, public, b"message", made.signature) is Code.SIG_INVALID
    (made,) = {o.result for o in sign(keys, (1, 2)).values()}
    output = bip340.taproot_key(G.decode_point(public)).point.encode()
    assert refused(bip340.verify, output, b"message", made.signature) is Code.SIG_INVALID


def test_signers_with_other_tweaks_make_no_signature_and_nobody_is_convicted() -> None:
    members, keys = parties((1, 2), "frost"), bip340_key()
    outcomes = run(
        {i: frost_sign(members[i], keys[i], b"m", merkle_root=b"" if i == 1 else None)
         for i in (1, 2)}
    )  # fmt: skip
    for o in outcomes.values():
        assert o.code is Code.SIG_INVALID
        assert o.abort.certainty is not Certainty.CERTAIN
        assert len(o.events("spend")) == 1


async def test_t020_a_taproot_option_that_differs_is_found_in_the_handshake() -> None:
    world, keys = await World.of(2), bip340_key(2)
    record = keys[1].record
    outcomes = await world.run(
        {
            i: SessionSpec(
                "s", frost.NAME, frost.VERSION, VAULT, (1, 2),
                frost.SignParams(
                    "r",
                    record.key_id,
                    record.hash,
                    (frost.Item(frost.message_hash(b"m"), "m", i == 1),),
                ),
            )
            for i in (1, 2)
        },
        lambda i: lambda party: frost_sign(
            party, keys[i], b"m", merkle_root=b"" if i == 1 else None
        ),
    )  # fmt: skip
    for i, o in outcomes.items():
        assert o.code is Code.SESSION_MISMATCH
        assert not world[i].journal
    assert "taproot" in {o.abort.detail.get("field") for o in outcomes.values()}


@pytest.mark.parametrize("scheme", ["bip340", "ed25519"])
def test_derived_keys_sign_with_the_same_shares(scheme: str) -> None:
    """The tweak of a path comes before signs and taproot, as in BIP-86."""
    curve = "secp256k1" if scheme == "bip340" else "ed25519"
    seen = set()
    for n in range(40):
        keys = deal(curve, 3, 1, scheme="schnorr", key_id=f"derived/{n}")
        record, g = keys[1].record, keys[1].record.group
        child = derive(curve, "schnorr", record.public_key, bytes(32), f"m/{n}/1")
        roots = ROOTS.values() if scheme == "bip340" else (None,)
        for root in roots:
            key = frost.signing_key(record, derivation=child.tweak, merkle_root=root)
            suite = key.suite
            pairs = {i: frost.commit(i, keys[i].share, SeededRng(i), suite) for i in (1, 3)}
            package = frost.SigningPackage.build([p.commitment for p in pairs.values()], b"m", key)
            z = {i: frost.sign_share(package, pairs[i], keys[i].share, i) for i in (1, 3)}
            for i in (1, 3):
                assert frost.verify_signature_share(package, i, z[i], record.commitment_of(i))
            expected = child.public_key
            if root is not None:
                point = g.decode_point(child.public_key)
                expected = bip340.taproot_key(point, root).point.encode()
            suite.verify(expected, b"m", frost.aggregate(package, z))
            seen.add((record.public_key[0], child.public_key[0], key.negated, package.negated))
    assert scheme == "ed25519" or len(seen) == 16


def test_taproot_and_frost_are_for_their_keys_only() -> None:
    ed = deal("ed25519", scheme="schnorr")[1].record
    ecdsa = deal("secp256k1")[1].record
    assert refused(frost.signing_key, ed, merkle_root=b"") is Code.MALFORMED
    assert refused(frost.signing_key, ecdsa) is Code.MALFORMED
    record = bip340_key()[1].record
    assert refused(frost.signing_key, record, merkle_root=bytes(31)) is Code.MALFORMED


def test_the_variant_must_be_named_where_there_is_one_and_only_there() -> None:
    assert protocol_for("schnorr", "secp256k1") == "frost-bip340"
    check_kind("schnorr", "secp256k1", "bip340")
    check_kind("schnorr", "ed25519", None)
    check_kind("ecdsa", "secp256k1", None)
    for bad in (
        ("schnorr", "secp256k1", None), ("schnorr", "secp256k1", ""),
        ("schnorr", "secp256k1", "BIP340"), ("schnorr", "ed25519", "bip340"),
        ("ecdsa", "secp256k1", "bip340"), ("schnorr", "p256", "bip340"),
    ):  # fmt: skip
        assert refused(check_kind, *bad) is Code.MALFORMED


# -- T-058: nonces are used once ---


@TWEAKS
def test_t058_a_nonce_pair_signs_once(root: bytes | None) -> None:
    pairs, share = nonces(), bip340_key()[1].share
    package = package_of(pairs, root=root)
    assert 0 < frost.sign_share(package, pairs[1], share, 1) < G.q
    for again in (package, package_of(nonces(), b"another message")):
        assert refused(frost.sign_share, again, pairs[1], share, 1) is Code.PRESIG_SPENT
    assert refused(pairs[1].take) is Code.PRESIG_SPENT
    assert refused(pairs[1].bound, 5) is Code.PRESIG_SPENT


def test_t058_64_threads_at_one_nonce_pair_get_one_share() -> None:
    pairs, share = nonces(), bip340_key()[1].share
    package, start = package_of(pairs), threading.Barrier(64)
    got: list[Any] = []

    def one() -> None:
        start.wait()
        try:
            got.append(frost.sign_share(package, pairs[1], share, 1))
        except KeycairnError as error:
            got.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(isinstance(x, int) for x in got) == 1
    assert got.count(Code.PRESIG_SPENT) == 63


def test_a_signers_own_part_of_r_is_the_public_sum() -> None:
    pair = nonces()[1]
    for factor in (1, 2, G.q - 1, 2**255):
        own = pair.commitment
        assert pair.bound(factor) == G.combine([(1, own.hiding), (factor, own.binding)])


# -- T-060: the commitment list ---


@pytest.mark.parametrize("name", ["unsorted", "missing self", "duplicate", "own pair swapped"])
def test_t060_a_bad_list_is_refused_and_costs_the_nonce(name: str) -> None:
    pairs, share = nonces(), bip340_key()[1].share
    one, two = pairs[1].commitment, pairs[2].commitment
    bad = {
        "unsorted": [two, one],
        "missing self": [two],
        "duplicate": [one, one, two],
        "own pair swapped": [frost.NonceCommitment(1, one.binding, one.hiding), two],
    }[name]
    key = frost.signing_key(bip340_key()[1].record)
    package = frost.SigningPackage.build(bad, b"m", key)
    assert refused(frost.sign_share, package, pairs[1], share, 1) is Code.MALFORMED
    assert refused(frost.sign_share, package_of(nonces()), pairs[1], share, 1) is Code.PRESIG_SPENT


def test_an_empty_list_is_no_package() -> None:
    key = frost.signing_key(bip340_key()[1].record)
    assert refused(frost.SigningPackage.build, [], b"m", key) is Code.MALFORMED


X = G.base_mul(5).encode()


@pytest.mark.parametrize("field", ["hiding", "binding"])
@pytest.mark.parametrize(
    "bad",
    [b"\0" + bytes(32), bytes(33), b"\2" + b"\xff" * 32, b"\2" + (5).to_bytes(32, "big"),
     b"\4" + X[1:], X[1:], b"", X + b"\0", b"\0"],
    ids=["identity", "zeros", "x above p", "off the curve", "wrong prefix", "x-only", "empty",
         "long", "SEC1 infinity"],
)  # fmt: skip
def test_t002_t060_what_is_no_point_names_its_sender(field: str, bad: bytes) -> None:
    hook = altered(NONCE_ROUND, 2, lambda m: replace(m, **{field: bad}), broadcast=True)
    outcomes = sign(bip340_key(), (1, 2), hook=hook)
    assert (outcomes[1].abort.code, outcomes[1].abort.culprits) == (Code.BAD_POINT, (2,))
    assert not outcomes[1].journal


def test_messages_have_33_byte_points() -> None:
    sizes: dict[str, set[int]] = {}

    def watch(e: Envelope) -> Any:
        for name in e.message.__struct_fields__:
            sizes.setdefault(name, set()).add(len(getattr(e.message, name)))
        return e.message

    sign(bip340_key(), (1, 2), hook=watch)
    assert sizes == {"hiding": {33}, "binding": {33}, "value": {32}, "package": {32}}


# -- T-062: bad shares ---


def bad_response(change: Callable[[int], int], to: int | None = None) -> Hook:
    return altered(
        RESPONSE_ROUND,
        3,
        lambda m: replace(m, value=lambda v: G.encode_scalar(change(G.decode_scalar(v)))),
        broadcast=True,
        only_to=to,
    )


@TWEAKS
@pytest.mark.parametrize(
    "change", [lambda z: z + 1, lambda z: 0, lambda z: -z, lambda z: 2 * z], ids=range(4)
)
@pytest.mark.parametrize("seed", range(4))
def test_t062_a_bad_share_is_named_whatever_the_signs(
    root: bytes | None, change: Callable[[int], int], seed: int
) -> None:
    keys = bip340_key(key_id=f"bad/{seed}")
    outcomes = sign(keys, (1, 2, 3), root=root, hook=bad_response(change), seed=seed)
    for i in (1, 2):
        abort = outcomes[i].abort
        assert (abort.code, abort.culprits) == (Code.SIG_INVALID, (3,))
        assert abort.certainty is Certainty.CERTAIN
        assert not abort.ban
        assert len(outcomes[i].events("spend")) == 1


def test_t062_a_signer_that_forgets_a_sign_is_named() -> None:
    """-x where x is wanted, as a broken implementation would: by BIP-340 not the same key."""
    keys = bip340_key()
    wrong = KeyShare(keys[3].record, 3, SecretScalar(-keys[3].share.reveal() % G.q), None)
    outcomes = sign({**keys, 3: wrong}, (1, 2, 3))
    assert outcomes[1].abort.culprits == outcomes[2].abort.culprits == (3,)


def test_t062_a_bad_share_to_one_signer_only() -> None:
    keys = bip340_key()
    outcomes = sign(keys, (1, 2, 3), hook=bad_response(lambda z: z + 1, to=1))
    assert outcomes[1].abort.culprits == (3,)
    bip340.verify(keys[1].record.public_key, b"message", outcomes[2].result.signature)


@pytest.mark.parametrize(
    "value", [G.q.to_bytes(32, "big"), b"\xff" * 32, bytes(31), bytes(33), b""]
)
def test_t005_a_response_that_is_no_scalar_names_its_sender(value: bytes) -> None:
    hook = altered(RESPONSE_ROUND, 3, lambda m: replace(m, value=value), broadcast=True)
    outcomes = sign(bip340_key(), (1, 3), hook=hook)
    assert (outcomes[1].abort.code, outcomes[1].abort.culprits) == (Code.BAD_SCALAR, (3,))


def test_culprits_are_looked_for_only_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    from keycairn.protocols.frost import session

    original = session.verify_signature_share
    monkeypatch.setattr(
        session,
        "verify_signature_share",
        lambda package, index, *rest: calls.append(index) or original(package, index, *rest),
    )
    sign(bip340_key(), (1, 2, 3))
    assert not calls
    sign(bip340_key(), (1, 2, 3), hook=bad_response(lambda z: z + 1, to=1))
    assert calls == [2, 3]
