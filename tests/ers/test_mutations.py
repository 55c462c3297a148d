"""T-097 and T-109: mutated documents, and two verifiers that agree."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from ers import second_verifier
from ers.helpers import document_of, make_key, part_of, prover_for
from keycairn.errors import Code, KeycairnError
from keycairn.ers import merkle, tree
from keycairn.ers.challenge import closed_leaves, coefficients, hash_ciphertexts
from keycairn.ers.document import Document
from keycairn.ers.leaf import Leaves
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import closed_leaves_of, verify_document

A, B, P = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")
C, Q = make_key("key-c"), make_key("key-q", "p256")
PATHS = {"key-a": ["m/0/1", "m/5"], "key-p": ["m/7"]}


def mutate(data: bytes, random: Random) -> bytes:
    """One bit flip, byte change, truncation, deletion, insertion, repeat or swap."""
    size = len(data)
    while True:
        i, j = sorted(random.sample(range(size), 2))
        length = random.choice((1, 1, 2, 32, 64))
        kind = random.randrange(8)
        if kind <= 2:
            out = data[:i] + bytes([data[i] ^ 1 << random.randrange(8)]) + data[i + 1 :]
        elif kind == 3:
            out = data[:i]
        elif kind == 4:
            out = data[:i] + data[i + length :]
        elif kind == 5:
            out = data[:i] + random.randbytes(length) + data[i:]
        elif kind == 6:
            out = data[:i] + data[j : j + length] + data[i + length :]
        else:
            a, b = data[i : i + length], data[j : j + length]
            out = data[:i] + b + data[i + length : j] + a + data[j + length :]
        if out != data:
            return out


def outcome(data: bytes, spki: bytes) -> bool:
    """Whether the second verifier accepts."""
    try:
        second_verifier.verify(data, spki=spki)
    except second_verifier.Invalid:
        return False
    return True


def check(data: bytes, rsa) -> None:
    start = time.perf_counter()
    with pytest.raises(KeycairnError) as caught:
        verify_document(Document.load(data), rsa=rsa)
    assert time.perf_counter() - start < 2
    assert caught.value.code is Code.ERS_INVALID
    assert set(caught.value.detail) == {"check", "node", "key"}


@pytest.mark.parametrize(
    ("count", "seed"), [(600, 1), pytest.param(1400, 2, marks=pytest.mark.slow)]
)
def test_t097_mutated_documents_are_refused(count: int, seed: int, rsa_key) -> None:
    rsa = rsa_key().public
    small, mixed = document_of([P], rsa, (1,)), document_of([A, B, P], rsa, (1, 2), paths=PATHS)
    for document in (small, mixed):
        verify_document(document, rsa=rsa)
    forms = [small.to_cbor(), small.to_json(), small.to_cbor(), mixed.to_cbor(), mixed.to_json()]
    random = Random(seed)
    for i in range(count):
        check(mutate(forms[i % len(forms)], random), rsa)


@pytest.mark.parametrize(
    ("count", "seed"), [(300, 4), pytest.param(1400, 5, marks=pytest.mark.full)]
)
def test_t097_mutated_documents_of_version_1_are_refused(count: int, seed: int) -> None:
    kit = Path(__file__).with_name("kit")
    rsa = load_rsa_public_key((kit / "rsa-public-key.pem").read_bytes())
    forms = [(kit / name).read_bytes() for name in ("one.cbor", "one.json")]
    random = Random(seed)
    for i in range(count):
        check(mutate(forms[i % 2], random), rsa)


def test_t097_every_byte_of_the_small_fields_counts(rsa_key) -> None:
    # All bytes outside the long byte strings: structure, names, lengths, context.
    rsa = rsa_key().public
    data = document_of([A], rsa, (1,)).to_cbor()
    start = data.index(b"keycairn-ers-part")
    for i in [*range(0, 40), *range(start - 120, start + 300, 3)]:
        check(data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :], rsa)


def test_t109_second_verifier_agrees_on_mutated_documents(rsa_key) -> None:
    rsa = rsa_key().public
    random = Random(3)
    document = document_of([A, P], rsa, (1,))
    forms = [document.to_cbor(), document.to_json()]
    for i in range(24):
        changed = mutate(forms[i % 2], random)
        check(changed, rsa)
        assert not outcome(changed, rsa.spki)


def test_t109_second_verifier_refuses_a_cheating_prover(rsa_key) -> None:
    rsa = rsa_key().public
    for key in (A, P, B):
        for shift in (0, 1):
            data = Document((prover_for([key], 1, rsa, shift=shift).run(),)).to_cbor()
            assert outcome(data, rsa.spki) is (shift == 0)


@pytest.mark.parametrize("params", ["fast", "balanced"])
@pytest.mark.parametrize(
    "keys",
    [
        [A],
        [B],
        [P],
        [B, A],
        [P, B],
        [A, B, make_key("key-c")],
        [P, A, make_key("key-q", "p256"), B],
    ],
    ids=["a", "b", "p", "ba", "pb", "abc", "paqb"],
)
def test_t109_second_verifier_recomputes_the_same_bytes(params: str, keys, rsa_key) -> None:
    rsa = rsa_key().public
    document = document_of(keys, rsa, (1, 3), params=params, label="hé \U0001f600", paths=PATHS)
    traces = second_verifier.verify(
        document.to_json(),
        spki=rsa.spki,
        expected={k.statement.key_id: (k.statement.curve, k.statement.public_key) for k in keys},
        label="hé \U0001f600",
    )
    assert traces == second_verifier.verify(document.to_cbor(), spki=rsa.spki)
    for part, trace in zip(document.parts, traces, strict=True):
        context, p = part.context, part.context.params
        assert trace["ctx"] == context.ctx
        assert trace["e"] == part.e
        assert trace["closed"] == closed_leaves(part.e, p)
        cover = tree.cover(p.leaves, trace["closed"])
        assert trace["cover"] == cover
        split = [part.copath[i : i + 32] for i in range(0, len(part.copath), 32)]
        seeds = tree.regrow(context.ctx, p.leaves, dict(zip(cover, split, strict=True)))
        leaves = Leaves(context, rsa)
        hidden = {leaf.k: leaf for leaf in closed_leaves_of(part)}
        ciphertexts = [
            hidden[k].ciphertext if k in hidden
            else leaves.ciphertext(k, *leaves.open_seed(k, seeds[p.leaves + k - 1]))
            for k in range(1, p.leaves + 1)
        ]  # fmt: skip
        assert trace["ciphertexts"] == ciphertexts
        assert trace["C"] == hash_ciphertexts(context.ctx, ciphertexts)
        siblings = [part.siblings[i : i + 32] for i in range(0, len(part.siblings), 32)]
        h = {k: leaves.commitment(k, leaf.z, leaf.salt) for k, leaf in hidden.items()}
        root = merkle.root(context.ctx, p.leaves, h, dict(zip(cover, siblings, strict=True)))
        assert trace["h_root"] == root
        assert trace["rho"] == [
            coefficients(context.ctx, trace["C"], root, bundle) for bundle in context.bundles
        ]


@pytest.mark.parametrize("bits", [3072, 4096])
def test_t109_second_verifier_with_larger_keys(bits: int, rsa_key) -> None:
    rsa = rsa_key(bits).public
    assert outcome(Document((part_of([A, P, B], 2, rsa),)).to_cbor(), rsa.spki)
    assert not outcome(Document((part_of([A], 2, rsa),)).to_cbor(), rsa_key(2048).public.spki)


def test_second_verifier_imports_nothing_of_ours() -> None:
    text = second_verifier.__file__
    with open(text) as stream:  # noqa: PTH123
        lines = [line.split()[1] for line in stream if line.startswith(("import ", "from "))]
    standard = {"__future__", "base64", "hashlib", "itertools", "json", "math", "pathlib", "sys"}
    assert set(lines) == standard
