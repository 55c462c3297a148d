"""The fingerprint sheet of an RSA recovery key: a page to print, to sign, and to compare with."""

from __future__ import annotations

from keycairn.ers.rsa import RsaPublicKey

_LINE = "________________"


def groups(spki_sha256: str) -> list[str]:
    """A fingerprint as people read it aloud: four lines of four groups of four digits."""
    quads = [spki_sha256[i : i + 4] for i in range(0, 64, 4)]
    return [" ".join(quads[i : i + 4]) for i in range(0, 16, 4)]


def sheet(public: RsaPublicKey, where: str, public_file: str) -> str:
    """The sheet's text; nothing on it is secret.

    Args:
        where: where the private key is, in words.
        public_file: name of the file with the public key.
    """
    rows = "\n".join(
        f"    {number}   {row}" for number, row in enumerate(groups(public.spki_sha256), 1)
    )
    return f"""\
KEYCAIRN RECOVERY KEY: FINGERPRINT SHEET

SHA-256 of the public key (SubjectPublicKeyInfo, DER):

{rows}

RSA, {public.bits} bits, exponent {public.e}
private key: {where}
public key:  {public_file}

Whoever registers this key at a node compares all four lines with what the
node shows (keycairn ers key list). Whoever holds the private key AND a
recovery document has every key in it: keep them apart.

made on  {_LINE}   by  {_LINE}   seen by  {_LINE}

copies of the private key, and who can open them (passphrase, PIN, cards):

    1  {_LINE}{_LINE}    2  {_LINE}{_LINE}

last recovery drill with a test key:  {_LINE}
"""
