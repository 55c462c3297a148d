"""Signatures: correct by two verifiers that share no code with ours, and used once."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading

import coincurve
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keycairn.curves import SECP256K1
from keycairn.curves.polynomial import interpolate
from keycairn.encoding import to_scalar
from keycairn.encoding.transcript import registered_tags
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols.dkls23 import EcdsaSignature, Presignature, presign, verify_ecdsa
from keycairn.protocols.dkls23.ecdsa import finish
from protocols.dkls23.vault import Vault, sha, sign, signature_of
from protocols.lockstep import deal, deal_setups, parties, run

Q = SECP256K1.q


def check(signature: EcdsaSignature, public_key: bytes, digest: bytes) -> None:
    """libsecp256k1, OpenSSL, low s, encodings, recovery id."""
    assert 0 < signature.r < Q
    assert 0 < signature.s <= Q // 2
    compact = signature.compact()
    assert compact == signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big")
    assert signature.der() == utils.encode_dss_signature(signature.r, signature.s)
    key = coincurve.PublicKey(public_key)
    assert key.verify(signature.der(), digest, hasher=None)
    openssl = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public_key)
    openssl.verify(signature.der(), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    recoverable = compact + bytes([signature.recovery_id])
    recovered = coincurve.PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert recovered.format() == public_key


def many(n: int, t: int, signers: tuple[int, ...], count: int) -> None:
    vault = Vault(n, t, signers)
    batch = vault.presignatures(count)
    assert len({p.id for p in batch[signers[0]]}) == count
    used: set[bytes] = set()
    for s in range(count):
        digest, tweak = sha(f"{signers}{s}"), 0 if s % 2 else int.from_bytes(sha(s)) % Q
        mine = {i: batch[i][s] for i in signers}
        signature = signature_of(vault.sign(mine, digest, tweak))
        check(signature, vault.public_key(tweak), digest)
        assert signature.base_r == mine[signers[0]].base_r
        assert signature.presignature_id == mine[signers[0]].id
        used.add(signature.base_r)
    assert len(used) == count


PAIRS_OF_3 = list(itertools.combinations((1, 2, 3), 2))


@pytest.mark.parametrize("part", range(4))
def test_t041_two_of_two(part: int) -> None:
    many(2, 1, (1, 2), 125)


@pytest.mark.parametrize("signers", PAIRS_OF_3)
def test_t041_two_of_three(signers: tuple[int, int]) -> None:
    many(3, 1, signers, 168 if signers == (1, 2) else 166)


@pytest.mark.parametrize("signers", [(1, 2, 3), (1, 3, 4), (2, 4, 5)])
def test_t041_three_of_five(signers: tuple[int, ...]) -> None:
    many(5, 2, signers, 8)


def test_more_signers_than_needed_and_all_of_all() -> None:
    many(3, 1, (1, 2, 3), 3)
    many(4, 3, (1, 2, 3, 4), 3)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33])
def test_chunks_of_every_size_work(count: int) -> None:
    many(2, 1, (1, 2), count)


def test_presign_and_sign_in_one_session() -> None:
    vault = Vault(3, 1, (1, 3))
    for tweak in (0, 1, Q - 1, 12345):
        digest = sha(tweak)
        outcomes = vault.sign_full(digest, tweak)
        check(signature_of(outcomes), vault.public_key(tweak), digest)
        for i in (1, 3):
            assert len(outcomes[i].sent) == 5
            assert [d.what for d in outcomes[i].journal] == ["spend"]


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32, Q.to_bytes(32, "big")])
def test_digests_at_the_edges(digest: bytes) -> None:
    """Zero, and digests at and above the order, are reduced like everywhere else."""
    vault = Vault(2, 1, (1, 2))
    outcomes = vault.sign_full(digest)
    check(signature_of(outcomes), vault.public_key(), digest)


# -- finishing arithmetic -------------------------------------------------------------------


@pytest.mark.parametrize("y_parity", [0, 1])
@pytest.mark.parametrize("overflow", [0, 1])
@pytest.mark.parametrize("high", [False, True])
def test_t041_recovery_id_with_forced_overflow(y_parity: int, overflow: int, high: bool) -> None:
    """x(R') >= q happens once in 2^127 signatures; here the point is given."""
    x = 5 + overflow * Q
    s = Q - 9 if high else 9
    r, low, recovery_id = finish(SECP256K1, x, y_parity, s * 3 % Q, 3)
    assert (r, low) == (5, 9)
    assert recovery_id == (y_parity ^ high) + 2 * overflow


def test_overflowing_signature_recovers_the_key() -> None:
    """A real point with x >= q: libsecp256k1 recovers the key with recovery id 2 or 3 only."""
    p = SECP256K1.p
    x = next(x for x in range(Q + 1, Q + 100) if pow(x**3 + 7, (p - 1) // 2, p) == 1)
    point = SECP256K1.decode_point(b"\x02" + x.to_bytes(32, "big"))
    digest = sha("overflow")
    # With R of unknown logarithm any s is valid for the key (s·R - h·G)/r: choose the key.
    s, h, r = 77, int.from_bytes(digest), x - Q
    inverse = pow(r, -1, Q)
    key = SECP256K1.combine([(s * inverse, point), (-h * inverse, SECP256K1.base_mul(1))])
    verify_ecdsa(SECP256K1, key.encode(), digest, r, s)
    assert finish(SECP256K1, x, 0, s, 1) == (r, s, 2)
    compact = EcdsaSignature(r, s, 2, b"", b"", b"").compact()
    for recovery_id in (2, 0):
        try:
            recovered = coincurve.PublicKey.from_signature_and_message(
                compact + bytes([recovery_id]), digest, hasher=None
            ).format()
        except Exception:
            recovered = b""
        assert (recovered == key.encode()) == (recovery_id == 2)


@pytest.mark.parametrize(("x", "w", "u"), [(Q, 1, 1), (5, 0, 1), (5, Q, 1), (5, 1, 0), (5, 1, Q)])
def test_zero_r_s_or_denominator_is_refused(x: int, w: int, u: int) -> None:
    with pytest.raises(KeycairnError) as caught:
        finish(SECP256K1, x, 0, w, u)
    assert caught.value.code is Code.BAD_SCALAR


@pytest.mark.parametrize(("r", "s"), [(1, 1), (2**255 - 1, 2**248), (127, 128), (255, 2**255)])
def test_der_equals_openssl(r: int, s: int) -> None:
    assert EcdsaSignature(r, s, 0, b"", b"", b"").der() == utils.encode_dss_signature(r, s)


def test_verifier_accepts_both_forms_of_s_and_nothing_else() -> None:
    private = coincurve.PrivateKey(sha("k"))
    public, digest = private.public_key.format(), sha("m")
    r, s = utils.decode_dss_signature(private.sign(digest, hasher=None))
    verify_ecdsa(SECP256K1, public, digest, r, s)
    verify_ecdsa(SECP256K1, public, digest, r, Q - s)
    for bad in [(r, s + 1), (r + 1, s), (0, s), (r, 0), (r, Q), (Q + r, s), (r, -s), (s, r)]:
        with pytest.raises(KeycairnError) as caught:
            verify_ecdsa(SECP256K1, public, digest, *bad)
        assert caught.value.code is Code.SIG_INVALID
    with pytest.raises(KeycairnError) as caught:
        verify_ecdsa(SECP256K1, public, sha("other"), r, s)
    assert caught.value.code is Code.SIG_INVALID
    for key, message, code in [
        (bytes(33), digest, Code.BAD_POINT),
        (public, digest[:31], Code.MALFORMED),
    ]:
        with pytest.raises(KeycairnError) as caught:
            verify_ecdsa(SECP256K1, key, message, r, s)
        assert caught.value.code is code


# -- the caller's own input -----------------------------------------------------------------


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "00" * 32, bytearray(32), None])
def test_t040_digest_of_another_shape(digest: bytes) -> None:
    vault = Vault(2, 1, (1, 2))
    mine = {i: p[0] for i, p in vault.presignatures().items()}
    for outcome in vault.sign(mine, {1: digest, 2: digest}).values():
        assert outcome.code is Code.MALFORMED
        assert outcome.journal == []
    for outcome in vault.sign_full(digest).values():
        assert outcome.code is Code.MALFORMED
        assert outcome.sent == []
    assert not any(p.spent for p in mine.values())


@pytest.mark.parametrize("tweak", [-1, Q, 2**256, True, 1.0, None])
def test_tweak_out_of_range(tweak: int) -> None:
    vault = Vault(2, 1, (1, 2))
    assert {o.code for o in vault.sign_full(sha(1), tweak).values()} == {Code.BAD_SCALAR}


def test_tweak_that_cancels_the_key_is_refused_unspent() -> None:
    vault = Vault(2, 1, (1, 2))
    mine = {i: p[0] for i, p in vault.presignatures().items()}
    secret = interpolate(SECP256K1, {i: vault.keys[i].share for i in (1, 2)}).reveal()
    outcomes = vault.sign(mine, sha(1), Q - secret)
    assert {o.code for o in outcomes.values()} == {Code.BAD_POINT}
    assert not any(p.spent for p in mine.values())


@pytest.mark.parametrize("signers", [(1,), (1, 1), (2, 1), (1, 4), (0, 1), (1, 2**256 + 1)])
def test_t040_sets_of_signers(signers: tuple[int, ...]) -> None:
    keys, setups = deal(n=3, t=1), deal_setups((1, 2, 3))
    party = parties((1, 2))[1]
    object.__setattr__(party, "players", signers)
    with pytest.raises(KeycairnError) as caught:
        next(presign(party, keys[1], setups[1], 1))
    assert caught.value.code is Code.BAD_INDEX


@pytest.mark.parametrize("count", [0, -1, 257, True, 1.0])
def test_count_out_of_range(count: int) -> None:
    vault = Vault(2, 1, (1, 2))
    assert {o.code for o in vault.presign(count).values()} == {Code.MALFORMED}


def test_keys_of_another_protocol_and_of_another_player() -> None:
    setups, members = deal_setups((1, 2)), parties((1, 2))
    schnorr = deal("ed25519", n=2, t=1, scheme="schnorr")
    for key, code in [(schnorr[1], Code.MALFORMED), (deal(n=2, t=1)[2], Code.BAD_INDEX)]:
        with pytest.raises(KeycairnError) as caught:
            next(presign(members[1], key, setups[1], 1))
        assert caught.value.code is code


def test_a_damaged_share_is_found_at_home() -> None:
    """Else the other signers would see a wrong sum of key shares and blame this node."""
    keys, setups, members = deal(n=2, t=1), deal_setups((1, 2)), parties((1, 2))
    object.__setattr__(keys[1], "share", deal(n=2, t=1, key_id="other")[1].share)
    with pytest.raises(KeycairnError) as caught:
        next(presign(members[1], keys[1], setups[1], 1))
    assert caught.value.code is Code.STORE_INTEGRITY


def test_missing_and_swapped_setups() -> None:
    keys, setups, members = deal(n=3, t=1), deal_setups((1, 2, 3)), parties((1, 2))
    for mine in ({}, {2: setups[1][3]}, {2: setups[2][1]}):
        with pytest.raises(KeycairnError) as caught:
            next(presign(members[1], keys[1], mine, 1))
        assert caught.value.code is Code.UNAVAILABLE


# -- single use -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["same", "other"])
def test_t045_second_use_is_refused(second: str) -> None:
    vault = Vault(2, 1, (1, 2))
    mine = {i: p[0] for i, p in vault.presignatures().items()}
    signature_of(vault.sign(mine, sha("same")))
    for outcome in vault.sign(mine, sha(second)).values():
        assert outcome.code is Code.PRESIG_SPENT
        assert outcome.journal == []
        assert outcome.sent == []


def test_t046_parallel_takes_give_it_to_exactly_one() -> None:
    presignature = Vault(2, 1, (1, 2)).presignatures()[1][0]
    start, got = threading.Barrier(16), []

    def take() -> None:
        start.wait()
        try:
            got.append(presignature.take())
        except KeycairnError as error:
            got.append(error.code)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count(Code.PRESIG_SPENT) == 15


def test_t048_spent_before_the_journal_answers() -> None:
    """The journal fails, or the process dies there: nothing left, and it stays spent."""
    vault = Vault(2, 1, (1, 2))
    mine = vault.presignatures()[1][0]
    generator = sign(vault.parties()[1], vault.keys[1], vault.setups[1], mine, sha(1))
    step = next(generator)
    assert step.what == "spend"
    assert [s.presignature_id for s in step.record] == [mine.id]
    assert [s.base_r for s in step.record] == [mine.base_r]
    assert [s.digest for s in step.record] == [sha(1)]
    with pytest.raises(KeycairnError):
        generator.throw(KeycairnError(Code.UNAVAILABLE, "disk full"))
    assert mine.spent
    with pytest.raises(KeycairnError) as caught:
        mine.take()
    assert caught.value.code is Code.PRESIG_SPENT


def presign_for(players: tuple[int, ...], key_id: str, seed: int) -> tuple[dict, dict, dict]:
    keys, setups, members = (
        deal(n=3, t=1, key_id=key_id),
        deal_setups(players, seed),
        parties(players),
    )
    made = run({i: presign(members[i], keys[i], setups[i], 1) for i in players})
    return keys, setups, {i: o.result[0] for i, o in made.items()}


def test_t047_presignature_of_another_key_signer_set_or_setup() -> None:
    keys, setups, mine = presign_for((1, 2), "K1", 1)
    others: list[tuple[Presignature, str]] = [
        (presign_for((1, 2), "K2", 1)[2][1], "key"),
        (presign_for((1, 3), "K1", 1)[2][1], "signers"),
        (presign_for((1, 2), "K1", 2)[2][1], "setup"),
    ]
    for other, what in others:
        with pytest.raises(KeycairnError) as caught:
            next(sign(parties((1, 2))[1], keys[1], setups[1], other, sha(1)))
        assert caught.value.code is Code.PRESIG_UNKNOWN, what
        assert not other.spent
    setups[1][2].kill()
    with pytest.raises(Abort) as aborted:
        next(sign(parties((1, 2))[1], keys[1], setups[1], mine[1], sha(1)))
    assert aborted.value.code is Code.UNAVAILABLE


def test_t047_two_signers_with_different_presignatures() -> None:
    vault = Vault(2, 1, (1, 2))
    batch = vault.presignatures(2)
    mine = {1: batch[1][0], 2: batch[2][1]}
    for outcome in vault.sign(mine, sha(1)).values():
        assert outcome.code is Code.BAD_COMMIT
        assert not outcome.abort.ban
    assert all(p.spent for p in mine.values())


def test_t115_a_presignature_prints_no_secret_and_does_not_copy() -> None:
    presignature = Vault(2, 1, (1, 2)).presignatures()[1][0]
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            spread(presignature)
    text = repr(presignature)
    secrets = presignature.take()
    for value in (secrets.phi, secrets.u, secrets.v):
        assert str(value) not in text + repr(secrets)
        assert f"{value:064x}"[:16] not in text + repr(secrets)
    assert secrets.nu.hex()[:16] not in text + repr(secrets)


# -- re-randomisation -----------------------------------------------------------------------


def final_r(vault: Vault, digest: bytes, tweak: int) -> tuple[int, bytes]:
    mine = {i: p[0] for i, p in vault.presignatures().items()}
    signature = signature_of(vault.sign(mine, digest, tweak))
    return signature.r, signature.base_r


def test_t056_every_request_moves_the_nonce_point() -> None:
    """The same presignature (same randomness) for other digests, tweaks, signer sets."""
    requests = [(sha(1), 0), (sha(2), 0), (sha(1), 1), (sha(1), 2)]
    seen, bases = set(), set()
    for digest, tweak in requests:
        r, base = final_r(Vault(3, 1, (1, 2), seed=7), digest, tweak)
        assert r != int.from_bytes(base[1:]) % Q
        seen.add(r)
        bases.add(base)
    assert len(bases) == 1, "the experiment re-uses one presignature on purpose"
    assert len(seen) == len(requests)


def test_reuse_gives_the_key_away_re_randomised_or_not() -> None:
    """Control experiment, why a presignature is spent first: two uses are two linear equations.

    s·(k + δ) = h + r·x with known δ: two of them have two unknowns, the nonce k and the key x.
    """
    equations = []
    secret = None
    for digest in (sha(1), sha(2)):
        vault = Vault(2, 1, (1, 2), seed=9)  # the same randomness: the same presignature
        mine = {i: p[0] for i, p in vault.presignatures().items()}
        presignature = mine[1]
        outcomes = vault.sign(mine, digest)
        signature = signature_of(outcomes)
        delta = delta_of(vault, presignature, digest, outcomes)
        s = signature.s
        point = SECP256K1.add(
            [SECP256K1.decode_point(presignature.base_r), SECP256K1.base_mul(delta)]
        )
        if (point.encode()[0] & 1) != signature.recovery_id & 1:
            s = Q - s  # undo low s
        equations.append((s, delta, int.from_bytes(digest), signature.r))
        secret = interpolate(SECP256K1, {i: vault.keys[i].share for i in (1, 2)}).reveal()
    (s1, d1, h1, r1), (s2, d2, h2, r2) = equations
    # k = (h + r·x)/s - δ, twice.
    i1, i2 = pow(s1, -1, Q), pow(s2, -1, Q)
    x = ((h2 * i2 - d2) - (h1 * i1 - d1)) * pow(r1 * i1 - r2 * i2, -1, Q) % Q
    assert x == secret


def delta_of(vault: Vault, presignature: Presignature, digest: bytes, outcomes: dict) -> int:
    """δ from public data and the opened values, as an eavesdropper among the signers has it."""
    return to_scalar(
        Q,
        registered_tags()["sign/delta"],
        vault.record.public_key,
        bytes(32),
        digest,
        presignature.base_r,
        presignature.id,
        list(presignature.players),
        [outcomes[j].sent[0].broadcast.nu for j in presignature.players],
    )


def test_openssl_verifier_is_not_vacuous() -> None:
    vault = Vault(2, 1, (1, 2))
    signature = signature_of(vault.sign_full(sha(1)))
    openssl = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), vault.public_key())
    with pytest.raises(InvalidSignature):
        openssl.verify(signature.der(), sha(2), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
