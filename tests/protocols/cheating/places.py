"""Every message of every round, what its fields hold, and which check finds what in them.

The findings are written down from the protocol pages (docs/protocols/*.md, "Who is blamed for
what") before anything is run; test_cheating_table.py runs all rows against them. A message class
or a field that is missing here fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keycairn.curves import ED25519, P256, SECP256K1, Group
from keycairn.errors import Code
from keycairn.protocols import ers_session, keygen, setup
from keycairn.protocols.dkls23 import messages as dkls
from keycairn.protocols.frost import messages as frost
from keycairn.protocols.wire import Message
from protocols.cheating.shapes import Change, Kind, Shape

CHEATER: Final = "4"
OTHERS: Final = "others"  # at least one of the other signers
NOBODY: Final = "nobody"


@dataclass(frozen=True)
class Finding:
    """What an honest player that finds a cheat ends with.

    Attributes:
        code: None: there is nothing to find, and the run succeeds.
        blamed: CHEATER (with certainty), OTHERS ("one of" all other signers) or NOBODY.
        by: the check.
        joint: it shows in what all players computed together, so every honest player finds it,
            also who was sent the right message.
    """

    code: Code | None
    blamed: str
    by: str
    ban: bool = False
    joint: bool = False


def _certain(code: Code, by: str) -> Finding:
    return Finding(code, CHEATER, by)


NOTHING: Final = Finding(None, NOBODY, "nothing to find")
SAME: Final = Finding(None, NOBODY, "the same at all")
LATER: Final = Finding(None, NOBODY, "nothing here; at use the shares")
MALFORMED: Final = _certain(Code.MALFORMED, "codec")
ECHO: Final = Finding(Code.EQUIVOCATION, CHEATER, "echo", joint=True)
LENGTH: Final = _certain(Code.BAD_LENGTH, "length")
POINT: Final = _certain(Code.BAD_POINT, "decoder")
SCALAR: Final = _certain(Code.BAD_SCALAR, "decoder")
COMMIT: Final = _certain(Code.BAD_COMMIT, "commitment")
COMPARED: Final = _certain(Code.BAD_COMMIT, "comparison")
PROOF: Final = _certain(Code.BAD_PROOF, "proof of knowledge")
READY: Final = _certain(Code.BAD_PROOF, "signature")
SHARE: Final = _certain(Code.BAD_SHARE, "share check")
OT: Final = Finding(Code.OT_CHECK, CHEATER, "OT check", ban=True)
VOLE: Final = Finding(Code.OT_CHECK, CHEATER, "VOLE check", ban=True)
GAMMA: Final = Finding(Code.OT_CHECK, CHEATER, "Γ check", ban=True)
KEY_SUM: Final = Finding(Code.KEY_SUM, OTHERS, "Σpk = X", joint=True)
FINAL: Final = Finding(Code.SIG_INVALID, OTHERS, "final verification", joint=True)
PARTIAL: Final = Finding(Code.SIG_INVALID, OTHERS, "final verification")
SHARES: Final = _certain(Code.SIG_INVALID, "final verification, then shares")
MISMATCH: Final = Finding(Code.SESSION_MISMATCH, NOBODY, "comparison of setup ids")
DOCUMENT: Final = _certain(Code.ERS_INVALID, "verification of the part")


@dataclass(frozen=True)
class Field:
    """A field's shape, and the finding for every kind of alteration that the shape allows.

    ``common``: all players send the same, so that another's value is no cheat.
    """

    shape: Shape
    value: Finding
    length: Finding = LENGTH
    count: Finding = LENGTH
    point: Finding = POINT
    scalar: Finding = SCALAR
    common: bool = False

    def finding(self, change: Change) -> Finding:
        if change.kind is Kind.TYPE:
            return MALFORMED
        if self.common and change.name == "another's":
            return SAME
        return getattr(self, change.kind.value)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Place:
    """One message of a protocol.

    Attributes:
        kind: "broadcast" or "direct".
        echo: whether the round's broadcast is echoed.
        last: nothing is sent after it, so who got the right message has a result.
        spent: the presignature is spent "before" this message is judged, or once the round has
            "passed", or "later".
    """

    message: type[Message]
    kind: str
    fields: Mapping[str, Field] = field(compare=False)
    echo: bool = False
    last: bool = False
    spent: str = "later"


def _hash(value: Finding, length: Finding = LENGTH, *, common: bool = False) -> Field:
    return Field(Shape("hash"), value, length, common=common)


def _keygen(group: Group) -> list[Place]:
    """docs/protocols/keygen.md, "Checks, in this order, and who is blamed"."""
    return [
        Place(keygen.Commitment, "broadcast", {"value": _hash(COMMIT)}, echo=True),
        Place(
            keygen.Opening,
            "broadcast",
            {
                "points": Field(Shape("point", 2, group), COMMIT, length=POINT),
                # A proof of another length is not what was committed to; another number of
                # proofs is seen before.
                "proofs": Field(Shape("opaque", 1), COMMIT, length=COMMIT, count=PROOF),
                "chain": Field(Shape("opaque", 1), COMMIT),
                "salt": _hash(COMMIT),
            },
            echo=True,
        ),
        Place(
            keygen.Shares,
            "direct",
            {"values": Field(Shape("scalar", 1, group), SHARE, SHARE, SHARE, scalar=SHARE)},
        ),
        Place(
            keygen.RecordHash,
            "broadcast",
            {"value": _hash(COMPARED, COMPARED, common=True)},
            echo=True,
        ),
        Place(
            keygen.Ready,
            "broadcast",
            {"signature": Field(Shape("signature"), READY, length=READY)},
            last=True,
        ),
    ]


def _setup() -> list[Place]:
    """docs/protocols/setup.md, "Who is blamed for what"."""
    point = Field(Shape("point"), MISMATCH)
    column = Field(Shape("point", column=True), MISMATCH)
    return [
        Place(
            setup.SetupOffer,
            "direct",
            # The seed parts are compared by nobody: a wrong one is another zero-share seed.
            {"point": point, "r0": column, "r1": column, "seed": _hash(KEY_SUM)},
        ),
        Place(setup.SetupConfirm, "direct", {"setup_id": _hash(MISMATCH, common=True)}, last=True),
    ]


def _presign(group: Group = SECP256K1) -> list[Place]:
    """docs/protocols/dkls23.md, "Who is blamed for what"; design: the table of trials."""

    def chunks(content: str, value: Finding, column: bool = True) -> Field:
        return Field(Shape(content, 1, group, column), value)

    return [
        Place(dkls.Commit, "broadcast", {"commitment": _hash(COMMIT)}, echo=True),
        Place(
            dkls.OtRequest,
            "direct",
            {
                "u": chunks("opaque", OT, column=False),
                "x_hat": chunks("opaque", OT, column=False),
                "t_hat": chunks("opaque", OT, column=False),
            },
        ),
        Place(
            dkls.Opening,
            "broadcast",
            {
                "nonce_points": Field(Shape("point", 0, group, column=True), COMMIT),
                "key_points": Field(Shape("point", 0, group, column=True), COMMIT),
                "commitments": Field(Shape("opaque"), COMMIT),
                "salt": _hash(COMMIT),
            },
            echo=True,
        ),
        Place(
            dkls.VoleReply,
            "direct",
            {
                "a_tilde": chunks("opaque", VOLE, column=False),
                "eta": chunks("scalar", VOLE),
                "mu": chunks("opaque", VOLE, column=False),
                "gamma_u": chunks("point", VOLE),
                "gamma_v": chunks("point", VOLE),
                "psi": chunks("scalar", FINAL),
            },
        ),
        Place(dkls.Ack, "broadcast", {"ack": _hash(COMPARED, common=True)}, echo=True),
    ]


def _ecdsa(group: Group = SECP256K1) -> list[Place]:
    number = Field(Shape("scalar", 0, group, column=True), PARTIAL, length=SCALAR)
    return [
        Place(dkls.Reveal, "broadcast", {"nu": Field(Shape("opaque"), COMMIT)}, spent="before"),
        Place(dkls.Partial, "broadcast", {"w": number, "u": number}, last=True, spent="before"),
    ]


def _nonces(group: Group, value: Finding, *, echo: bool = False) -> Place:
    """docs/protocols/frost.md, "Who is blamed for what"."""
    nonce = Field(Shape("point", 0, group, column=True), value, length=POINT)
    fields = {"hiding": nonce, "binding": nonce}
    return Place(frost.NonceMessage, "broadcast", fields, echo=echo, spent="passed")


def _responses(group: Group) -> Place:
    fields = {
        "value": Field(Shape("scalar", 0, group, column=True), SHARES, length=SCALAR),
        # The signature is good, so nobody looks at who signed which package.
        "package": Field(Shape("opaque"), NOTHING, common=True),
    }
    return Place(frost.ResponseMessage, "broadcast", fields, last=True, spent="before")


def _ers() -> list[Place]:
    """docs/protocols/ers-session.md, "Who is blamed for what"."""
    part = Field(Shape("opaque"), DOCUMENT, length=DOCUMENT)
    return [Place(ers_session.PartMessage, "broadcast", {"part": part}, echo=True)]


#: Scene → its messages in order.
PLACES: Final[dict[str, list[Place]]] = {
    "keygen ed25519": _keygen(ED25519),
    "keygen secp256k1": _keygen(SECP256K1),
    "pair-setup": _setup(),
    "dkls23/sign": [*_presign(), *_ecdsa()],
    "dkls23/sign p256": [*_presign(P256), *_ecdsa(P256)],
    "dkls23/presign": _presign(),
    "dkls23/use": _ecdsa()[1:],
    "frost/sign ed25519": [_nonces(ED25519, FINAL), _responses(ED25519)],
    "frost/sign bip340": [_nonces(SECP256K1, FINAL), _responses(SECP256K1)],
    # Who shows nonces that it can't answer for makes wrong shares when they are used.
    "frost/nonces ed25519": [_nonces(ED25519, LATER, echo=True)],
    "frost/nonces bip340": [_nonces(SECP256K1, LATER, echo=True)],
    "frost/use ed25519": [_responses(ED25519)],
    "frost/use bip340": [_responses(SECP256K1)],
    "ers/document": _ers(),
}
