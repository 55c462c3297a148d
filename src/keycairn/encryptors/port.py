"""The port: what an encryptor is, for the built-in kinds and for plug-ins.

An encryptor wraps one 32-byte *master key* and gives it back. It sees nothing else of a node: the
keys that seal rows are wrapped under the master key (:mod:`keycairn.encryptors.keyring`).

Its methods block: whoever calls them from an event loop does so in a thread. They raise
:class:`~keycairn.errors.KeycairnError` and nothing else, with these codes:

========================  ====================================================================
E_STORE_INTEGRITY         the secret is wrong, or what is unwrapped was edited or is another's
E_AUTHN                   the service knows the caller and says no: token, PIN, permission
E_NOT_FOUND               the secret, the key or the token isn't there
E_UNAVAILABLE             the service does not answer, or can't at the moment
E_POLICY                  the configuration or the key is not fit for this
========================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keycairn.encoding import SecretBytes, encode, tag
from keycairn.ports import Rng

if TYPE_CHECKING:
    from keycairn.encryptors.config import EncryptorConfig

_BINDING = tag("encryptor/binding")

#: Bytes of a master key and of every data key.
KEY_BYTES = 32

#: What an encryptor may keep beside the wrapped key, for anybody to read.
Public = int | str | bytes


@dataclass(frozen=True)
class Binding:
    """Whose master key it is. An encryptor makes this part of what it authenticates, so that a
    wrapped key is of no use in another node's database.

    Attributes:
        vault: vault id.
        node: player index.
        format: of the keyring; 1 in databases made before master keys.
    """

    vault: str
    node: int
    format: int = 2

    def data(self) -> bytes:
        """As associated data."""
        return encode(_BINDING, self.format, self.vault, self.node)

    def labels(self) -> dict[str, str]:
        """As names and values, for services that log or match them. Not secret."""
        return {"keycairn-vault": self.vault, "keycairn-node": str(self.node)}


@dataclass(frozen=True)
class Wrapped:
    """A wrapped master key. Nothing in it is secret.

    Attributes:
        parameters: what unwrapping needs besides the secret and the configuration, or what
            helps to say which key it was: at most 16 of them.
        body: the ciphertext, at most 8 KiB.
    """

    parameters: Mapping[str, Public]
    body: bytes


class Encryptor(Protocol):
    """One configured encryptor. Reads its secret when it needs it and keeps no copy."""

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        """Wrap ``master`` so that only this encryptor, for this binding, unwraps it."""
        ...

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        """The 32 bytes that were wrapped.

        Which key unwraps comes from the configuration, never from ``wrapped``: whoever can write
        the database must not choose it.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Which key it is and where, for people and for the backup: never a secret."""
        ...

    def notes(self) -> list[str]:
        """What an operator should know about this key, in sentences; empty if all is well. May
        ask the service; says nothing about what it may not ask."""
        ...


@dataclass(frozen=True)
class Option:
    """A key of ``[encryptor]`` that a kind takes.

    Attributes:
        name: of the key.
        type: str, int or bool.
        required: whether it must be there.
        default: what it is when left out.
        path: a text that is a path, relative to the directory of node.toml.
        choices: the words that are allowed; empty for any text.
    """

    name: str
    type: type = str
    required: bool = False
    default: str | int | bool | None = None
    path: bool = False
    choices: tuple[str, ...] = ()


Environ = Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """A kind of encryptor: its name in ``[encryptor] kind``, its keys, how to make one.

    A plug-in is an instance of this, named by an entry point of the group
    ``keycairn.encryptors`` (docs/operations/encryptors.md).

    Attributes:
        name: as in node.toml; for a plug-in the name of the entry point.
        make: from the checked configuration, the node's randomness and the environment.
        options: what else may stand in ``[encryptor]``.
        source: "required", "optional" or "none": whether a ``secret_…`` key must be there.
        source_is: what the secret is, in words, for messages.
        production: False for kinds that protect nothing; a production node refuses them.
    """

    name: str
    make: Callable[[EncryptorConfig, Rng, Environ | None], Encryptor]
    options: tuple[Option, ...] = field(default=())
    source: str = "required"
    source_is: str = "master secret"
    production: bool = True
