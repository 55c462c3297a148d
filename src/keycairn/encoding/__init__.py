"""Encodings: the injective transcript encoder, secret wrappers and strict decoders."""

from keycairn.encoding.secret import Secret, SecretBytes, SecretScalar
from keycairn.encoding.strict import (
    canonical_cbor,
    canonical_json,
    decode_cbor,
    decode_hex,
    decode_json,
)
from keycairn.encoding.transcript import (
    Field,
    Tag,
    digest,
    encode,
    field,
    header,
    tag,
    to_scalar,
    xof,
)

__all__ = [
    "Field",
    "Secret",
    "SecretBytes",
    "SecretScalar",
    "Tag",
    "canonical_cbor",
    "canonical_json",
    "decode_cbor",
    "decode_hex",
    "decode_json",
    "digest",
    "encode",
    "field",
    "header",
    "tag",
    "to_scalar",
    "xof",
]
