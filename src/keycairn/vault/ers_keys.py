"""Which RSA keys a node allows for emergency recovery.

An RSA key counts only if this node's configuration names it, or this node's operator added it
and its owner proved that it can decrypt (R-30, R-31).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from keycairn.encoding import canonical_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.possession import Challenges, check_answers, make_challenges
from keycairn.ers.rsa import RsaPublicKey, check_distinct, load_rsa_public_key
from keycairn.ports import Clock, Rng
from keycairn.vault.api import ErsKeyView, VaultParameters
from keycairn.vault.ports import ErsKeyRow, Store

_DAY_US = 86_400 * 1_000_000


class ErsKeys:
    """This node's allow-list of RSA recovery keys (default: empty, nothing is allowed)."""

    def __init__(self, params: VaultParameters, store: Store, clock: Clock, rng: Rng) -> None:
        self._params = params
        self._store = store
        self._clock = clock
        self._rng = rng
        # Held by every change of a row: what is read must still be so when it is written.
        self._change = asyncio.Lock()

    async def allowed(self, spki: bytes) -> RsaPublicKey:
        """The key, if it stands on the list right now. E_KEY_NOT_ALLOWED, E_WEAK_RSA."""
        sha = load_rsa_public_key(spki, allow_2048=True).spki_sha256
        configured = base64.b64encode(spki).decode()
        if sha in self._params.ers_allowed or configured in self._params.ers_allowed:
            return load_rsa_public_key(spki)
        row = await self._store.ers_key(sha)
        now = self._clock.now_us()
        if row is not None and row.state == "allowed":
            if row.expires_us is None or row.expires_us > now:
                return load_rsa_public_key(row.spki, allow_2048=row.legacy_2048)
            reason = "its entry has expired"
        elif row is not None and row.state == "challenged":
            reason = "its owner has not answered the challenges yet"
        else:
            reason = "it is not on the list"
        raise KeycairnError(
            Code.KEY_NOT_ALLOWED,
            f"this RSA key is not allowed at this node: {reason}",
            not_lost="Nothing was encrypted to it.",
            next="each node's operator: keycairn ers key add --rsa-public-key FILE, then "
            "keycairn ers key confirm",
            node=self._params.index,
            detail={"rsa_spki_sha256": sha},
        )

    async def add(self, spki: bytes, expires_us: int | None, legacy_2048: bool) -> dict[str, Any]:
        """Check a key and give challenges to its owner."""
        key = load_rsa_public_key(spki, allow_2048=legacy_2048)
        if expires_us is not None and expires_us <= self._clock.now_us():
            raise malformed("the expiry lies in the past")
        async with self._change:
            # Of a key that only a witness revoked, no more than the hash is known.
            rows = [r for r in await self._store.ers_keys() if r.spki]
            others = [r for r in rows if r.spki_sha256 != key.spki_sha256]
            check_distinct([key, *(load_rsa_public_key(r.spki, allow_2048=True) for r in others)])
            known = await self._store.ers_key(key.spki_sha256)
            if known is not None and known.state == "allowed":
                raise KeycairnError(
                    Code.CONFLICT,
                    "this RSA key is on the list already",
                    next="keycairn ers key attest repeats the proof of possession",
                )
            return await self._challenge(
                ErsKeyRow(
                    spki_sha256=key.spki_sha256,
                    spki=key.spki,
                    bits=key.bits,
                    added_us=self._clock.now_us(),
                    expires_us=expires_us,
                    attested_us=None,
                    state="challenged",
                    legacy_2048=legacy_2048,
                )
            )

    async def attest(self, spki_sha256: str) -> dict[str, Any]:
        """Challenges for a key that is on the list; it stays allowed meanwhile."""
        async with self._change:
            row = await self._store.ers_key(spki_sha256)
            if row is None or row.state == "removed":
                raise KeycairnError(Code.NOT_FOUND, "no such ERS key at this node")
            return await self._challenge(row)

    async def _challenge(self, row: ErsKeyRow) -> dict[str, Any]:
        key = load_rsa_public_key(row.spki, allow_2048=row.legacy_2048)
        made = make_challenges(key, self._rng)
        kept = {
            "public": made.public_json.decode(),
            "expected": [e.hex() for e in made.expected],
            "nonce": made.nonce.hex(),
        }
        await self._store.put_ers_key(replace(row, challenge=kept))
        return cast("dict[str, Any]", json.loads(made.public_json))

    async def confirm(self, answers: Mapping[str, Any]) -> ErsKeyView:
        """Check the owner's answers and put the key on the list. E_BAD_PROOF."""
        sha = answers.get("rsa_spki_sha256")
        async with self._change:
            row = await self._store.ers_key(sha) if isinstance(sha, str) else None
            if row is None or row.challenge is None or row.state == "removed":
                raise KeycairnError(
                    Code.NOT_FOUND,
                    "no challenges are outstanding for this RSA key",
                    next="keycairn ers key add --rsa-public-key FILE",
                )
            kept = row.challenge
            challenges = Challenges(
                kept["public"].encode(),
                tuple(bytes.fromhex(e) for e in kept["expected"]),
                row.spki_sha256,
                bytes.fromhex(kept["nonce"]),
            )
            check_answers(challenges, canonical_json(dict(answers)))
            now = self._clock.now_us()
            row = replace(row, state="allowed", attested_us=now, challenge=None)
            await self._store.put_ers_key(row)
            return self._dated(self._view(row))

    async def remove(self, spki_sha256: str) -> None:
        """Take a run-time key off the list. What was encrypted to it can still be opened with it;
        here it counts as a backup no more."""
        if any(_configured(e).rsa_spki_sha256 == spki_sha256 for e in self._params.ers_allowed):
            raise KeycairnError(
                Code.CONFLICT,
                "this RSA key is allowed by the configuration file",
                not_lost="It stays allowed.",
                next="take it out of [ers] allowed in node.toml and restart the node",
            )
        async with self._change:
            row = await self._store.ers_key(spki_sha256)
            if row is None:
                raise KeycairnError(Code.NOT_FOUND, "no such ERS key at this node")
            await self._store.put_ers_key(replace(row, state="removed", challenge=None))

    async def list(self) -> Sequence[ErsKeyView]:
        rows = [self._view(r) for r in await self._store.ers_keys() if r.state != "removed"]
        known = {r.rsa_spki_sha256 for r in rows}
        for entry in self._params.ers_allowed:
            view = _configured(entry)
            if view.rsa_spki_sha256 not in known:
                rows.append(view)
        return [self._dated(view) for view in rows]

    async def standing(self) -> dict[str, str]:
        """The state of every RSA key that this node knows of, the removed ones too, by hash."""
        known = {r.spki_sha256: "removed" for r in await self._store.ers_keys()}
        return known | {v.rsa_spki_sha256: v.state for v in await self.list()}

    async def usable(self) -> Sequence[tuple[int, RsaPublicKey | str]]:
        """The keys that documents may be made for now, newest first, with the time since when each
        is listed; of a configured key that is only named by its hash, that hash."""
        now = self._clock.now_us()
        found: list[tuple[int, RsaPublicKey | str]] = [
            (r.added_us, load_rsa_public_key(r.spki, allow_2048=r.legacy_2048))
            for r in await self._store.ers_keys()
            if r.state == "allowed" and (r.expires_us is None or r.expires_us > now)
        ]
        known = {key.spki_sha256 for _, key in found if isinstance(key, RsaPublicKey)}
        for entry in self._params.ers_allowed:
            if _configured(entry).rsa_spki_sha256 in known:
                continue
            named = len(entry) == 64
            found.append((0, entry if named else load_rsa_public_key(base64.b64decode(entry))))
        return sorted(found, key=lambda f: f[0], reverse=True)

    def _dated(self, view: ErsKeyView) -> ErsKeyView:
        """With how fresh the proof of possession is."""
        if view.attested_us is None:
            return replace(view, attestation="never")
        days = max(0, self._clock.now_us() - view.attested_us) // _DAY_US
        late = days >= self._params.ers_attest_days
        return replace(view, attestation="overdue" if late else "good", attested_days=days)

    async def findings(self) -> Sequence[dict[str, Any]]:
        """RSA keys whose owner should show again that it can decrypt."""
        found = []
        for view in await self.list():
            if view.state != "allowed" or view.attestation == "good":
                continue
            sha, days = view.rsa_spki_sha256, view.attested_days
            # A configured key has no entry that challenges could belong to.
            step = (
                f"keycairn ers key attest {sha}"
                if view.origin == "runtime"
                else "keycairn ers key add --rsa-public-key FILE, then confirm"
            )
            found.append(
                {
                    "finding": "ers key attestation",
                    "rsa_spki_sha256": sha,
                    "why": "its owner never showed that it can decrypt"
                    if days is None
                    else f"its owner last showed {days} days ago that it can decrypt "
                    f"(the limit is {self._params.ers_attest_days})",
                    "next": step,
                }
            )
        return found

    def _view(self, row: ErsKeyRow) -> ErsKeyView:
        over = row.expires_us is not None and row.expires_us <= self._clock.now_us()
        return ErsKeyView(
            rsa_spki_sha256=row.spki_sha256,
            bits=row.bits,
            state="expired" if over and row.state == "allowed" else row.state,
            added_us=row.added_us,
            attested_us=row.attested_us,
            expires_us=row.expires_us,
            origin="runtime",
            spki=row.spki,
        )


def _configured(entry: str) -> ErsKeyView:
    """A list entry of the configuration: SPKI SHA-256 in hex, or the SPKI in base64."""
    if len(entry) == 64:
        return ErsKeyView(entry, 0, "allowed", 0, None, None, "config")
    try:
        key = load_rsa_public_key(base64.b64decode(entry, validate=True), allow_2048=True)
    except (binascii.Error, ValueError) as exc:
        raise malformed("[ers] allowed holds something that is neither a hash nor base64") from exc
    return ErsKeyView(key.spki_sha256, key.bits, "allowed", 0, None, None, "config", spki=key.spki)
