"""RSA keys from PEM files.

Private: PKCS #8, plain or encrypted by PBES2 (RFC 8018: PBKDF2-HMAC-SHA1/256/384/512 or scrypt,
AES in CBC mode), and PKCS #1 without encryption. For any other file the error says how to convert
it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import List, Optional, Tuple

from .aes import cbc_decrypt
from .errors import ToolError, malformed
from .rsa import E, PrivateKey, PublicKey, load

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_CONVERT = (
    "convert it where OpenSSL is: openssl pkcs8 -topk8 -scrypt -in OLD.pem -out NEW.pem; or use "
    "--decrypt-command"
)
MAX_SCRYPT = 1 << 30  # bytes of memory

Item = Tuple[int, bytes]


def _oid(text: str) -> bytes:
    return bytes.fromhex(text)


RSA = _oid("2a864886f70d010101")
PBES2 = _oid("2a864886f70d01050d")
PBKDF2 = _oid("2a864886f70d01050c")
SCRYPT = _oid("2b06010401da47040b")
PRF = {
    _oid("2a864886f70d0207"): "sha1",
    _oid("2a864886f70d0209"): "sha256",
    _oid("2a864886f70d020a"): "sha384",
    _oid("2a864886f70d020b"): "sha512",
}
#: Bytes of the AES key, in CBC mode.
CBC = {
    _oid("608648016503040102"): 16,
    _oid("608648016503040116"): 24,
    _oid("60864801650304012a"): 32,
}


def _items(data: bytes) -> List[Item]:
    """The DER elements of ``data``, as (type, content)."""
    out, at = [], 0
    while at < len(data):
        if at + 2 > len(data):
            raise malformed("the key's DER encoding is cut off")
        kind, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            raise malformed("the key's DER encoding is cut off")
        out.append((kind, data[at : at + size]))
        at += size
    return out


def _sequence(data: bytes) -> List[Item]:
    found = _items(data)
    if len(found) != 1 or found[0][0] != 0x30:
        raise malformed("not a private key in DER")
    return _items(found[0][1])


def _number(item: Item) -> int:
    if item[0] != 2:
        raise malformed("a number is missing in the key")
    return int.from_bytes(item[1], "big")


def blocks(data: bytes) -> List[Tuple[str, bytes]]:
    """The PEM blocks of a file: (name, DER)."""
    found = []
    for name, body in _PEM.findall(data):
        if b":" in body:
            raise malformed("a key in OpenSSL's old encrypted form is not read here", _CONVERT)
        try:
            raw = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            raise malformed("the PEM text is not valid base64") from None
        found.append((name.decode("ascii"), raw))
    return found


def load_public(data: bytes) -> PublicKey:
    """SubjectPublicKeyInfo in PEM or DER; E_MALFORMED, E_WEAK_RSA."""
    if data[:1] == b"\x30":
        return load(data)
    found = blocks(data)
    if len(found) != 1 or found[0][0] != "PUBLIC KEY":
        raise malformed("not an RSA public key: give one PUBLIC KEY in PEM, or DER")
    return load(found[0][1])


def is_encrypted(data: bytes) -> bool:
    """Whether a private key's file needs a passphrase."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data


def load_private(data: bytes, passphrase: Optional[bytes]) -> PrivateKey:
    """An RSA private key.

    Raises:
        ToolError: E_MALFORMED for another kind of file or a wrong passphrase, E_WEAK_RSA.
    """
    found = [(n, raw) for n, raw in blocks(data) if n.endswith("PRIVATE KEY")]
    if len(found) != 1:
        raise malformed(
            "no RSA private key, or several, in this file: one in PEM is needed", _CONVERT
        )
    name, raw = found[0]
    try:
        if name == "ENCRYPTED PRIVATE KEY":
            if passphrase is None:
                raise malformed("the RSA private key is encrypted", "give --passphrase-file")
            return _pkcs8(_decrypt(raw, passphrase))
        if passphrase is not None:
            raise malformed("the RSA private key is not encrypted", "drop --passphrase-file")
        if name == "PRIVATE KEY":
            return _pkcs8(raw)
        if name == "RSA PRIVATE KEY":
            return _pkcs1(raw)
    except (IndexError, ValueError, OverflowError):
        raise malformed("the private key is not built as RFC 5958 has it", _CONVERT) from None
    raise malformed(f"a file with a {name} is not read here", _CONVERT)


def _pkcs1(raw: bytes) -> PrivateKey:
    numbers = _sequence(raw)
    n, e, d = (_number(item) for item in numbers[1:4])
    if e != E:
        raise ToolError("E_WEAK_RSA", f"the public exponent must be {E}")
    return PrivateKey(n, d)


def _pkcs8(raw: bytes) -> PrivateKey:
    _, algorithm, key = _sequence(raw)[:3]
    if _items(algorithm[1])[0] != (6, RSA):
        raise malformed("the private key is not an RSA key")
    return _pkcs1(key[1])


def _decrypt(raw: bytes, passphrase: bytes) -> bytes:
    algorithm, sealed = _sequence(raw)
    scheme, parameters = _items(algorithm[1])
    if scheme[1] != PBES2:
        raise malformed("the key is encrypted otherwise than by PBES2", _CONVERT)
    derivation, encryption = _items(parameters[1])
    cipher, iv = _items(encryption[1])
    if cipher[1] not in CBC:
        raise malformed("the key is encrypted otherwise than by AES in CBC mode", _CONVERT)
    key = _derive(derivation, passphrase, CBC[cipher[1]])
    try:
        plain = cbc_decrypt(key, iv[1], sealed[1])
        _sequence(plain)  # One wrong passphrase in 256 leaves something that looks padded.
    except ToolError:
        raise malformed(
            "not a readable RSA private key, or a wrong passphrase",
            "check the passphrase (the first line of its file) and the private key",
        ) from None
    return plain


def _derive(item: Item, passphrase: bytes, size: int) -> bytes:
    kind, parameters = _items(item[1])
    values = _items(parameters[1])
    salt = values[0][1]
    if kind[1] == SCRYPT:
        n, r, p = (_number(v) for v in values[1:4])
        memory = 128 * r * (n + p + 2)
        if not hasattr(hashlib, "scrypt"):  # some systems' Python is built without it
            raise malformed("this Python has no scrypt: use one built with OpenSSL 1.1 or newer")
        if memory > MAX_SCRYPT:
            raise malformed("the key's scrypt parameters ask for more than 1 GiB of memory")
        return hashlib.scrypt(
            passphrase, salt=salt, n=n, r=r, p=p, maxmem=memory + (1 << 20), dklen=size
        )
    if kind[1] != PBKDF2:
        raise malformed("the key's passphrase is used otherwise than by PBKDF2 or scrypt", _CONVERT)
    prf = "sha1"
    for tag, content in values[2:]:
        if tag == 0x30:
            name = _items(content)[0][1]
            if name not in PRF:
                raise malformed("PBKDF2 with a hash that is not known here", _CONVERT)
            prf = PRF[name]
    return hashlib.pbkdf2_hmac(prf, passphrase, salt, _number(values[1]), size)
