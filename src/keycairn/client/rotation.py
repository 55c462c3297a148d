"""Rotating the RSA recovery key: every key gets a document under the new one, batch by batch.

Nothing is remembered between runs. What is left to do follows from what the nodes hold, so a
rotation that was broken off goes on where it ended, and one that is complete does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keycairn.client.vault import Vault
from keycairn.errors import Code, KeycairnError
from keycairn.ers.rsa import load_rsa_public_key

#: Faults of one batch that the next would have too.
_ALL_ALIKE = frozenset(
    {
        Code.UNAVAILABLE,
        Code.PEER_TIMEOUT,
        Code.KEY_NOT_ALLOWED,
        Code.POLICY,
        Code.AUTHN,
        Code.WEAK_RSA,
        Code.PEER_BANNED,
        Code.QUARANTINED,
    }
)


@dataclass
class Rotation:
    """What a rotation has done so far, and what is left.

    Attributes:
        to, old: names of the RSA keys; ``old`` None: from whichever they are under.
        total: keys that were to be rotated; ``already``: those that had a document before.
        rotated: keys that got one now, at every node.
        documents: how many were made.
        left: key id to why it has none under the new key.
        only_old: of these, the ones that the old key alone (or any other) protects.
        error: what ended the rotation early.
    """

    to: str
    old: str | None
    total: int = 0
    already: int = 0
    rotated: int = 0
    documents: int = 0
    left: dict[str, str] = field(default_factory=dict)
    only_old: list[str] = field(default_factory=list)
    error: KeycairnError | None = None

    def to_json(self) -> dict[str, Any]:
        """The result of ``ers rotate``."""
        return {
            "to": self.to,
            "from": self.old,
            "keys": self.total,
            "already": self.already,
            "rotated": self.rotated,
            "documents": self.documents,
            "left": [{"key_id": k, "why": why} for k, why in sorted(self.left.items())],
            "only_under_old": sorted(self.only_old),
            "removable": not self.left,
            "stopped_by": None if self.error is None else self.error.to_json()["error"],
        }


async def rotate(
    vault: Vault,
    rsa_spki: bytes,
    *,
    old: str | None = None,
    batch: int = 250,
    params: str = "balanced",
    label: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rotation:
    """Make documents under the RSA key ``rsa_spki`` for every active key that lacks one there.

    Args:
        old: SHA-256 (hex) of an RSA key: only keys with a document under it. None: all keys.
        batch: keys of one document, 1 to 1000.
        progress: called with the number of keys that are done, and of all.

    Raises:
        KeycairnError: E_WEAK_RSA; when the nodes' state can't be asked for. What goes wrong later
            is in the result.
    """
    to = load_rsa_public_key(rsa_spki, allow_2048=True).spki_sha256
    made = Rotation(to, old)
    chosen = await _chosen(vault, made)
    made.total = len(chosen)
    done = {k for k, under in chosen.items() if to in under}
    made.already = len(done)
    todo = [k for k in sorted(chosen) if k not in done]
    progress(made.already, made.total)
    failed: dict[str, str] = {}
    waiting = [todo[n : n + batch] for n in range(0, len(todo), batch)]
    while waiting and made.error is None:
        keys = waiting.pop(0)
        try:
            await vault.ers_create(keys, rsa_spki, params=params, label=label, attempts=2)
        except KeycairnError as exc:
            if exc.code in _ALL_ALIKE:
                made.error = exc
            elif len(keys) == 1:
                failed[keys[0]] = f"{exc.message} [{exc.code.value}]"
            else:
                # One key of them may be the cause.
                middle = len(keys) // 2
                waiting[:0] = [keys[:middle], keys[middle:]]
        else:
            made.documents += 1
            made.rotated += len(keys)
            progress(made.already + made.rotated, made.total)
    await _look_again(vault, made, chosen, failed)
    return made


async def _chosen(vault: Vault, made: Rotation) -> dict[str, list[str]]:
    """The keys to rotate, with the RSA keys that protect them at every node; keys that can't be
    rotated now go to ``left``."""
    active = {k["key_id"]: k["state"] for k in await vault.list_keys()}
    chosen: dict[str, list[str]] = {}
    for key_id, (everywhere, anywhere) in (await _under(vault)).items():
        if made.old is not None and made.old not in anywhere:
            continue
        if active.get(key_id) != "active":
            if made.to not in everywhere:
                state = active.get(key_id, "not known to all nodes")
                made.left[key_id] = f"the key is {state}"
            continue
        chosen[key_id] = everywhere
    return chosen


async def _under(vault: Vault) -> dict[str, tuple[list[str], set[str]]]:
    """Per key: the RSA keys with a complete document at every node, and those at any."""
    by_node = await vault.ers_status()
    silent = [i for i in vault.nodes if i not in by_node]
    rows: dict[str, list[Sequence[str]]] = {}
    for answers in by_node.values():
        for row in answers:
            rows.setdefault(str(row["key_id"]), []).append(_names(row))
    out: dict[str, tuple[list[str], set[str]]] = {}
    for key_id, each in rows.items():
        whole = len(each) == len(by_node) and not silent
        everywhere = [n for n in each[0] if whole and all(n in other for other in each)]
        out[key_id] = everywhere, {n for other in each for n in other}
    return out


def _names(row: dict[str, Any]) -> list[str]:
    named = [str(n) for n in row.get("rsa_keys", ())]
    newest = row.get("rsa_spki_sha256")
    # A stale document has a key too, which may be the one that goes.
    return named + ([str(newest)] if newest and not named else [])


async def _look_again(
    vault: Vault, made: Rotation, chosen: dict[str, list[str]], failed: dict[str, str]
) -> None:
    """What the nodes hold now decides what was done, not what was asked for."""
    now = await _under(vault)
    for key_id in chosen:
        everywhere, anywhere = now.get(key_id, ([], set()))
        if made.to in everywhere:
            continue
        why = failed.get(key_id) or "not every node holds its document under the new key"
        if key_id not in failed and made.error is not None:
            why = f"{made.error.message} [{made.error.code.value}]"
        made.left[key_id] = why
        if made.old is None or made.old in anywhere:
            made.only_old.append(key_id)
    made.rotated = sum(k not in made.left for k in chosen) - made.already
