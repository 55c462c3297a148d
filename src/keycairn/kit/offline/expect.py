"""What the caller knows from elsewhere, against what documents say about themselves (9, step 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Tuple

from .document import Document
from .errors import invalid, malformed
from .rsa import PublicKey


@dataclass(frozen=True)
class Expected:
    """What was given; None and empty lists are not checked.

    Attributes:
        facts: (key id, attribute of :class:`~.document.Key` or None, value).
    """

    rsa: Optional[PublicKey] = None
    label: Optional[str] = None
    vault: Optional[str] = None
    facts: List[Tuple[str, Optional[str], Any]] = field(default_factory=list)


def compare(documents: Sequence[Document], want: Expected) -> None:
    """E_ERS_INVALID for the first thing that is otherwise than expected."""
    for document in documents:
        if want.rsa is not None and document.rsa_spki != want.rsa.spki:
            raise invalid("rsa", "a document is for another RSA key than the one given")
        if want.label is not None and document.label != want.label:
            raise invalid("label", "a document has another label")
        if want.vault is not None and document.vault != want.vault:
            raise invalid("vault", "a document is of another vault")
    for key_id, name, value in want.facts:
        found = [key for document in documents for key in document.keys if key.key_id == key_id]
        if not found:
            raise invalid("key id", "no document holds a key that was asked for", key_id)
        for key in found:
            if name is not None and getattr(key, name) != value:
                check = name.replace("_", " ")
                raise invalid(check, "the key has another %s than the one given" % check, key_id)


def parse_fact(text: str, name: str) -> List[Tuple[str, Optional[str], Any]]:
    """``KEY=[CURVE:]HEX`` as facts; E_MALFORMED."""
    key_id, equals, value = text.rpartition("=")
    curve, colon, raw = value.rpartition(":")
    try:
        facts: List[Tuple[str, Optional[str], Any]] = [(key_id, name, bytes.fromhex(raw))]
    except ValueError:
        equals = ""
    if not equals or not key_id:
        raise malformed("--%s takes KEY=[CURVE:]HEX" % name.replace("_", "-"))
    return facts + ([(key_id, "curve", curve)] if colon else [])
