"""T-097 and T-109: mutated documents, and two verifiers that agree."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ers import second_verifier
from ers.helpers import document_of, make_key, part_of, prover_for
from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.errors import Code, KeycairnError
from keycairn.ers import merkle, tree
from keycairn.ers.challenge import closed_leaves, coefficients, hash_ciphertexts
from keycairn.ers.document import Document, Part
from keycairn.ers.leaf import Leaves
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import closed_leaves_of, verify_document

A, B, P = make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")
C, Q = make_key("key-c"), make_key("key-q", "p256")
PATHS = {"key-a": ["m/0/1", "m/5"], "key-p": ["m/7"]}


#: Byte-level classes of mutation: a name, and what is done at places i < j with some length.
BYTES: dict[str, Callable[[bytes, int, int, int, Random], bytes]] = {
    "one bit flipped": lambda d, i, j, n, r: (
        d[:i] + bytes([d[i] ^ 1 << r.randrange(8)]) + d[i + 1 :]
    ),
    "one byte replaced": lambda d, i, j, n, r: d[:i] + r.randbytes(1) + d[i + 1 :],
    "cut off": lambda d, i, j, n, r: d[:i],
    "bytes appended": lambda d, i, j, n, r: d + r.randbytes(n),
    "bytes removed": lambda d, i, j, n, r: d[:i] + d[i + n :],
    "bytes inserted": lambda d, i, j, n, r: d[:i] + r.randbytes(n) + d[i:],
    "bytes zeroed": lambda d, i, j, n, r: d[:i] + bytes(len(d[i : i + n])) + d[i + n :],
    "block repeated elsewhere": lambda d, i, j, n, r: d[:i] + d[j : j + n] + d[i + n :],
    "blocks swapped": lambda d, i, j, n, r: (
        d[:i] + d[j : j + n] + d[i + n : j] + d[i : i + n] + d[j + n :]
    ),
}
FIELDS = ("e", "box", "copath", "siblings", "leaves")


def mutate(data: bytes, random: Random, name: str | None = None) -> bytes:
    """One mutation of the bytes, of the class ``name`` or of any."""
    while True:
        i, j = sorted(random.sample(range(len(data)), 2))
        n = random.choice((1, 1, 2, 32, 64))
        out = BYTES[name or random.choice(list(BYTES))](data, i, j, n, random)
        if out != data:
            return out


def _chunks(raw: bytes, step: int) -> list[bytes]:
    return [raw[i : i + step] for i in range(0, len(raw), step)]


def _shuffled(raw: bytes, step: int, random: Random) -> bytes:
    chunks = _chunks(raw, step)
    i, j = random.sample(range(len(chunks)), 2)
    chunks[i], chunks[j] = chunks[j], chunks[i]
    return b"".join(chunks)


def _step(part: Part) -> int:
    return len(part.leaves) // part.context.params.closed


def _field_edited(part: Part, other: Part, random: Random) -> Part:
    name = random.choice(FIELDS)
    raw = bytearray(getattr(part, name))
    raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
    return replace(part, **{name: bytes(raw)})


def _scalar_shifted(part: Part, other: Part, random: Random) -> Part:
    """A masked secret is another canonical scalar; in some of them K takes the error back."""
    step, size = _step(part), part.context.rsa().size
    bundle = part.context.bundles[0]
    raw, errors = bytearray(part.leaves), [random.randrange(1, bundle.group.q)]
    places = [0]
    if random.random() < 0.5:
        places, errors = [0, bundle.size - 1], [errors[0], -errors[0]]
    for leaf in range(part.context.params.closed) if random.random() < 0.5 else (0,):
        for place, error in zip(places, errors, strict=True):
            at = leaf * step + size + 32 * (bundle.start + place)
            group = bundle.group
            x = group.decode_scalar(bytes(raw[at : at + 32]))
            raw[at : at + 32] = group.encode_scalar((x + error) % group.q)
    return replace(part, leaves=bytes(raw))


def _context_edited(part: Part, other: Part, random: Random) -> Part:
    context = part.context
    key = context.keys[0]
    keys = (
        replace(key, generation=key.generation + random.randrange(1, 99)),
        replace(key, record_hash=random.randbytes(32)),
        replace(key, chain_code_hash=random.randbytes(32)),
        replace(key, key_id=f"key-{random.randrange(10**9)}"),
        replace(key, public_key=random.choice(key.share_commitments)),
        replace(key, share_commitments=tuple(random.sample(key.share_commitments, 2)) * 2),
    )
    changes: list[dict[str, object]] = [{"keys": (k, *context.keys[1:])} for k in keys]
    changes += [
        {"label": f"label {random.randrange(10**9)}"},
        {"vault": f"vault-{random.randrange(2, 10**9)}"},
        {"node": random.choice([2, 3])},
        {"salt": random.randbytes(32)},
        {"k_point": random.choice(key.share_commitments)},
        {"params_name": "balanced"},
    ]
    return replace(part, context=replace(context, **random.choice(changes)))


#: Classes of edits that keep the encoding canonical: part, another valid part, random -> part.
PARTS: dict[str, Callable[[Part, Part, Random], Part]] = {
    "field of the proof edited": _field_edited,
    "context edited": _context_edited,
    "masked secrets shifted": _scalar_shifted,
    "closed leaves swapped": lambda p, o, r: replace(p, leaves=_shuffled(p.leaves, _step(p), r)),
    "seeds swapped": lambda p, o, r: replace(p, copath=_shuffled(p.copath, 32, r)),
    "siblings swapped": lambda p, o, r: replace(p, siblings=_shuffled(p.siblings, 32, r)),
    "leaf of another part": lambda p, o, r: replace(
        p, leaves=p.leaves[: -_step(p)] + o.leaves[-_step(p) :]
    ),
    "field of another part": lambda p, o, r: replace(
        p, **(lambda name: {name: getattr(o, name)})(r.choice(FIELDS))
    ),
    "scalar not below q": lambda p, o, r: _not_below_q(p, r),
    "ciphertext not below the modulus": lambda p, o, r: replace(
        p, leaves=b"\xff" * 32 + p.leaves[32:]
    ),
}


def _not_below_q(part: Part, random: Random) -> Part:
    bundle = part.context.bundles[0]
    at = random.randrange(part.context.params.closed) * _step(part) + part.context.rsa().size
    q = (bundle.group.q + random.randrange(2**32)).to_bytes(32, bundle.group.byteorder)
    return replace(part, leaves=part.leaves[:at] + q + part.leaves[at + 32 :])


def outcome(data: bytes, spki: bytes) -> bool:
    """Whether the second verifier accepts."""
    try:
        second_verifier.verify(data, spki=spki)
    except second_verifier.Invalid:
        return False
    return True


def check(data: bytes, rsa) -> str:
    """Refused, in time; the check that failed."""
    start = time.perf_counter()
    with pytest.raises(KeycairnError) as caught:
        verify_document(Document.load(data), rsa=rsa)
    assert time.perf_counter() - start < 2
    assert caught.value.code is Code.ERS_INVALID
    assert set(caught.value.detail) == {"check", "node", "key"}
    return str(caught.value.detail["check"])


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("count", "seed"), [(2_000, 1), pytest.param(98_000, 2, marks=pytest.mark.full)]
)
def test_t097_mutated_documents_are_refused(
    count: int, seed: int, rsa_key, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fiftieth of 100,000 by default, the others with --full; a table of classes and checks."""
    rsa = rsa_key().public
    small, mixed = document_of([P], rsa, (1,)), document_of([A, B, P], rsa, (1, 2), paths=PATHS)
    for document in (small, mixed):
        verify_document(document, rsa=rsa)
    other = {
        id(small): part_of([P], 1, rsa, seed="other"),
        id(mixed): part_of([A, B, P], 1, rsa, seed="other", paths=PATHS),
    }
    random, names = Random(seed), [*BYTES, *PARTS]
    table = {name: Counter[str]() for name in names}
    for i in range(count):
        name, turn = names[i % len(names)], i // len(names)
        document = mixed if turn % 5 == 0 else small
        if name in BYTES:
            form = document.to_json() if turn % 2 else document.to_cbor()
            data = mutate(form, random, name)
        else:
            first, *rest = document.parts
            edited = PARTS[name](first, other[id(document)], random)
            data = _file(edited, *rest)
            assert data != document.to_cbor()
        table[name][check(data, rsa)] += 1
    with capsys.disabled():
        print(f"\n{count} mutated documents, all refused; by class, and by the check that failed:")
        for name, found in table.items():
            checks = ", ".join(f"{what} {n}" for what, n in found.most_common())
            print(f"  {sum(found.values()):6} {name}: {checks}")
    assert sum(n for found in table.values() for n in found.values()) == count
    assert all(sum(found.values()) >= count // len(names) for found in table.values())


def _file(*parts: Part) -> bytes:
    """The document of these parts as they are, even if they do not fit together."""
    items = [decode_cbor(part.encoded, max_bytes=1 << 26) for part in parts]
    return canonical_cbor({"format": "keycairn-ers", "version": 2, "parts": items})


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
