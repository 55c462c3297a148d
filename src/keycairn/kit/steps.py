"""The steps from a kit to the keys: README.txt, and the same on the printed page.

Whoever follows them may never have heard of this program. Every command stands on a line of its own
and works as it stands; a test executes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keycairn.kit.offline.kitfile import TOOL
from keycairn.kit.offline.tool import groups

WIDTH = 88


@dataclass(frozen=True)
class Fingerprint:
    """Something with a SHA-256 that is worth comparing."""

    of: str
    sha256: str


@dataclass(frozen=True)
class Step:
    """A step: what to do, the commands for it, and how to tell that it worked."""

    title: str
    text: str
    commands: tuple[str, ...] = ()
    after: str = ""


WHAT = (
    "This kit and an RSA private key that is NOT in it bring back every key named here, when no "
    "server of the vault is left. Nothing in the kit is secret, but it names your keys and "
    "addresses. Keep the RSA private key elsewhere: whoever has both has the keys."
)

STEPS = (
    Step(
        "A machine",
        "Take a computer that you can wipe afterwards, with Python 3.8 or newer and nothing else. "
        "Unpack the kit into a folder (python3 -m zipfile -e KIT.zip kit), go into it, and take "
        "the machine off every network: with one, recovery refuses to run.",
        ("python3 --version",),
    ),
    Step(
        "Is the kit whole?",
        "Both commands are the operating system's own. The first must say OK for every file. The "
        "second must print the fingerprint of the kit: compare it with the printed page that YOU "
        "kept, not with this file.",
        ("sha256sum -c SHA256SUMS", "sha256sum SHA256SUMS"),
    ),
    Step(
        "Are the documents good?",
        "This checks every proof; it takes seconds, for a thousand keys half a minute.",
        (f"python3 -I {TOOL} verify",),
        'It must say "valid: True". Compare public keys and addresses with your records.',
    ),
    Step(
        "Bring the RSA private key",
        "Put it, as rsa-key.pem, into the folder that holds the kit's folder; never into the "
        "kit's folder itself. Its passphrase is asked for.",
        (f"python3 -I {TOOL} recover --rsa-key ../rsa-key.pem --out ../recovered",),
        "A key in a token (HSM): instead of --rsa-key say --decrypt-command 'pkcs11-tool --module "
        "MODULE --login --pin PIN --label LABEL --decrypt --mechanism RSA-X-509', or use "
        "keycairn-recover, which speaks PKCS #11 itself.",
    ),
    Step(
        "Use the keys",
        "In ../recovered each key has a file KEY.json (hex, and where the key has them WIF, xprv, "
        "PEM), and KEY.children.json with every derived key in use. Compare the addresses with "
        "this page. An Ed25519 key is a number, not a seed: wallets can't import it. Sign with "
        f"it by: python3 -I {TOOL} sign --key ../recovered/KEY.json --message-file FILE",
        ("ls -l ../recovered",),
    ),
    Step(
        "Afterwards",
        "Move what the keys guard to new keys: these have been in one place. Wipe the machine.",
    ),
)


def readme(label: str, prints: Sequence[Fingerprint], keys: int) -> bytes:
    """``README.txt``: UTF-8, lines of at most about 90 characters."""
    out = ["KEYCAIRN RECOVERY KIT", ""]
    if label:
        out += [label, ""]
    out += [*_wrap(WHAT), "", f"Keys in it: {keys} (public.json). Derived ones: paths.json.", ""]
    out += ["FINGERPRINTS (SHA-256)", ""]
    for one in prints:
        first, *rest = groups(one.sha256)
        out.append(f"  {one.of}")
        out += [f"      {row}" for row in (first, *rest)]
        out.append(f"      {one.sha256}")
    out += ["", "STEPS", ""]
    for number, step in enumerate(STEPS, 1):
        out += [f"{number}. {step.title}", ""]
        out += [f"   {line}" for line in _wrap(step.text, WIDTH - 3)]
        if step.commands:
            out += ["", *(f"       $ {command}" for command in step.commands)]
        if step.after:
            out += ["", *(f"   {line}" for line in _wrap(step.after, WIDTH - 3))]
        out.append("")
    return "\n".join(out).encode("utf-8")


def _wrap(text: str, width: int = WIDTH) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]
