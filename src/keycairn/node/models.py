"""Bodies of the HTTP API: strict models, and their way into the service's requests.

``decode_json`` has already refused duplicate keys, floats, NaN and deep nesting when a model sees
a body. Here: no unknown keys, no conversions (``true`` is not 1, ``"2"`` is not 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from keycairn.curves.derivation import parse_path
from keycairn.encoding.strict import decode_hex
from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import CreateDocument, CreateKeys, SessionNames, Sign, SignItem

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
Player = Annotated[int, Field(ge=1, le=255)]
#: Most digests or messages of one request.
MAX_ITEMS = 100
_ITEM_KEYS = ("digest", "message", "path")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SessionBody(_Body):
    """What every session names; the same values go to every player's node."""

    session_id: Name = Field(description="name of this attempt, never used twice")
    request_id: Name = Field(description="idempotency key, the same for every retry")
    players: list[Player] = Field(
        min_length=1, max_length=255, description="distinct indices of the nodes that take part"
    )

    def names(self) -> SessionNames:
        """The session part of a request; E_BAD_INDEX for a player named twice."""
        if len(set(self.players)) != len(self.players):
            raise KeycairnError(
                Code.BAD_INDEX,
                "players names a player twice",
                not_lost="No session was started.",
                detail={"field": "players"},
            )
        return SessionNames(self.session_id, self.request_id, tuple(sorted(self.players)))


class CreateKeysBody(SessionBody):
    """Make ``count`` keys held by all ``players``; ``threshold`` + 1 of them sign."""

    scheme: Literal["ecdsa", "schnorr"]
    curve: Literal["secp256k1", "p256", "ed25519"]
    threshold: int = Field(ge=1, le=254)
    count: int = Field(default=1, ge=1, le=1000)
    variant: Literal["bip340"] | None = Field(
        default=None, description="named for schnorr on secp256k1, and only for that"
    )

    def request(self) -> CreateKeys:
        names = self.names()
        if self.threshold >= len(names.players):
            raise KeycairnError(
                Code.MALFORMED,
                f"threshold {self.threshold} needs {self.threshold + 1} players or more, and "
                f"{len(names.players)} take part: threshold + 1 of the players sign",
                not_lost="No session was started.",
                detail={"field": "threshold"},
            )
        return CreateKeys(names, self.scheme, self.curve, self.threshold, self.count, self.variant)


def child_path(text: str) -> str:
    """A derivation path as every node spells it; E_MALFORMED."""
    parse_path(text)
    return text


class _Payload(_Body):
    """A digest or a message; which one of them, the key's scheme says."""

    digest: str | None = Field(default=None, description="64 lower-case hexadecimal digits")
    message: str | None = Field(default=None, description="lower-case hexadecimal")
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="sign with the child at this derivation path, such as m/0/5"
    )

    def item(self) -> SignItem:
        """E_MALFORMED for what is not hexadecimal, of another length, or not a path."""
        digest, message = self.digest, self.message
        return SignItem(
            digest=None if digest is None else decode_hex(digest, length=32, what="digest"),
            message=None if message is None else decode_hex(message, what="message"),
            path=None if self.path is None else child_path(self.path),
        )


class SignItemBody(_Payload):
    """One thing to sign; exactly one of digest and message."""

    @model_validator(mode="after")
    def _one_of(self) -> SignItemBody:
        if (self.digest is None) == (self.message is None):
            raise ValueError("give exactly one of digest and message")
        return self


class SignBody(SessionBody, _Payload):
    """Sign a 32-byte digest (ECDSA), a message (Schnorr), or up to 100 of them as ``items``.

    Exactly one of ``digest``, ``message`` and ``items``. All items are signed, or none is answered.
    """

    items: list[SignItemBody] | None = Field(default=None, min_length=1, max_length=MAX_ITEMS)
    presignature: Annotated[str, Field(pattern=r"^[0-9a-f]{2,128}$")] | None = Field(
        default=None, description="use this presignature; for a single digest or message"
    )
    taproot: bool = Field(
        default=False,
        description="BIP-340 keys: sign for the output key of the P2TR address (BIP-86)",
    )

    @field_validator("items", mode="before")
    @classmethod
    def _small(cls, value: Any) -> Any:
        # As in parse(): no error for each of a hundred thousand unknown keys.
        if isinstance(value, list) and (
            len(value) > MAX_ITEMS
            or any(isinstance(i, dict) and len(i) > len(_ITEM_KEYS) for i in value)
        ):
            raise ValueError(f"items holds 1 to {MAX_ITEMS} objects with {', '.join(_ITEM_KEYS)}")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> SignBody:
        if sum(x is not None for x in (self.digest, self.message, self.items)) != 1:
            raise ValueError("give exactly one of digest, message and items")
        if self.items is not None and self.path is not None:
            raise ValueError("each of the items has its own path")
        if self.items is not None and len(self.items) > 1 and self.presignature is not None:
            raise ValueError("a presignature can be named for a single item only")
        return self

    def request(self, key_id: str) -> Sign:
        bodies: Sequence[_Payload] = [self] if self.items is None else self.items
        items = []
        for number, body in enumerate(bodies):
            try:
                items.append(body.item())
            except KeycairnError as exc:
                exc.detail["item"] = number
                raise
        return Sign(
            self.names(),
            key_id,
            tuple(items),
            presignature=self.presignature,
            taproot=self.taproot,
        )


class CreateDocumentBody(SessionBody):
    """Make one ERS document for ``key_ids``, encrypted to an RSA key on the allow-list."""

    key_ids: list[KeyId] = Field(min_length=1, max_length=1000)
    rsa_spki: Hex = Field(max_length=4096, description="SubjectPublicKeyInfo DER, hexadecimal")
    params: Literal["fast", "balanced", "compact"] = "balanced"
    label: str = Field(default="", max_length=256)
    partial: bool = Field(
        default=False, description="t+1 holders or more may do; no policy counts such a document"
    )

    def request(self) -> CreateDocument:
        if len(set(self.key_ids)) != len(self.key_ids):
            raise KeycairnError(
                Code.MALFORMED, "key_ids names a key twice", detail={"field": "key_ids"}
            )
        spki = decode_hex(self.rsa_spki, what="rsa_spki")
        keys = tuple(self.key_ids)
        return CreateDocument(self.names(), keys, spki, self.params, self.label, self.partial)


class ErsKeyBody(_Body):
    """An RSA public key that its operator wants on this node's allow-list."""

    rsa_spki: Hex = Field(max_length=4096)
    expires_us: int | None = Field(default=None, ge=0)
    legacy_2048: bool = False


class AnswersBody(_Body):
    """What the RSA key's owner answered to the challenges (``keycairn-recover prove``)."""

    answers: dict[str, Any]


class RotateBody(_Body):
    """A new master key; with ``to_config`` under the encryptor of that file of the node's."""

    to_config: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class PointBody(_Body):
    """One step of a backup point, or all of them at all nodes over the links."""

    step: Literal["lead", "hold", "take", "release", "result"]
    number: int | None = Field(default=None, ge=1, le=1 << 53)
    id: Hex | None = Field(default=None, min_length=32, max_length=32)
    seconds: int | None = Field(default=None, ge=1, le=20)


class PruneBody(_Body):
    """Which bundles may go."""

    dry_run: bool = False


class RegisterBody(_Body):
    """A stored bundle, or a dump of the operator's own tools."""

    location: str = Field(min_length=1, max_length=4096)
    dump: bool = False


class RejoinBody(_Body):
    """Leave quarantine."""

    without_witnesses: bool = False


class EmptyBody(_Body):
    """A body without parameters: ``{}``."""


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], value: Any) -> Model:
    """Validate a decoded body.

    Raises:
        KeycairnError: E_BAD_INDEX if ``players`` is what is wrong, else E_MALFORMED.
    """
    # An error for each of a million unknown keys would be work for the attacker's pleasure.
    if not isinstance(value, dict) or len(value) > len(model.model_fields):
        raise KeycairnError(
            Code.MALFORMED,
            "the body must be an object with the documented keys, and no others",
            not_lost="No session was started.",
            detail={"keys": sorted(model.model_fields)},
        )
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:64]
        code = Code.BAD_INDEX if where.split(".")[0] == "players" else Code.MALFORMED
        text = first["msg"].removeprefix("Value error, ")
        raise KeycairnError(
            code,
            f"{where}: {text}" if where else text,
            not_lost="No session was started.",
            detail={"field": where},
        ) from None
