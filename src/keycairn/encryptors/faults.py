"""The errors of this package: what happened, what was not lost, what helps."""

from __future__ import annotations

from typing import Any

from keycairn.errors import Code, KeycairnError

NOT_LOST = "Nothing was changed; what is stored stays sealed."
PUT_BACK = (
    "put this node's own master secret back, or correct [encryptor] in node.toml; a restore needs "
    "the same secret"
)


def sealed() -> KeycairnError:
    """Wrong secret or edited keyring: always the same body, so that nobody learns which."""
    return KeycairnError(
        Code.STORE_INTEGRITY,
        "the store can't be opened: the secret is wrong, or the keyring is damaged or belongs to "
        "another vault or node",
        not_lost="Nothing was changed; what is stored stays sealed.",
        next="see that [encryptor] names this node's own master secret, and check [vault] id, "
        "[player] index and [database] url in node.toml; if all are right, the database is "
        "damaged: keycairn node restore BUNDLE --into DIR --identity FILE, with the same secret",
    )


def refused(message: str, helps: str = "correct [encryptor] in node.toml") -> KeycairnError:
    """The configuration, or the key, is not fit: E_POLICY."""
    return KeycairnError(Code.POLICY, message, not_lost=NOT_LOST, next=helps)


def absent(message: str, helps: str = PUT_BACK, **detail: Any) -> KeycairnError:
    """A secret, key or token is not there: E_NOT_FOUND."""
    return KeycairnError(Code.NOT_FOUND, message, not_lost=NOT_LOST, next=helps, detail=detail)


def denied(message: str, helps: str, **detail: Any) -> KeycairnError:
    """A service refuses this caller: E_AUTHN."""
    return KeycairnError(Code.AUTHN, message, not_lost=NOT_LOST, next=helps, detail=detail)


def away(message: str, helps: str, **detail: Any) -> KeycairnError:
    """A service can't be reached or can't work: E_UNAVAILABLE."""
    return KeycairnError(Code.UNAVAILABLE, message, not_lost=NOT_LOST, next=helps, detail=detail)


def malformed(message: str, helps: str = PUT_BACK) -> KeycairnError:
    """A secret or a setting has not the form that it must have: E_MALFORMED."""
    return KeycairnError(Code.MALFORMED, message, not_lost=NOT_LOST, next=helps)


def lacks_extra(package: str, extra: str, kind: str) -> KeycairnError:
    """A package that is only installed with an extra is missing."""
    return away(
        f"encryptor kind {kind} needs the package {package}, which is not installed",
        f"pip install 'keycairn[{extra}]', then start the node again",
        extra=extra,
    )


def shown(value: object) -> str:
    """Text out of a database that nobody has authenticated yet, short and printable."""
    text = value if isinstance(value, str) else type(value).__name__
    return "".join(c for c in text if c.isprintable())[:200]
