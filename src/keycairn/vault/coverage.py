"""Coverage: which key is protected by what, and the gate that waits for it.

Pure functions over a node's own rows. Each node decides alone, from its own evidence: a signature
needs t+1 willing nodes, so a signature proves t+1 covered shares
(docs/operations/backup-restore.md, "Backed up before use").

Coverage never says yes on doubt. A row is evidence only if it names this key at this generation
with this record hash, and says that the stored artefact was read back and verified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.vault.policy import Answer, Missing, Policy, evaluate, missing
from keycairn.vault.ports import BundleRow, DocumentRow, KeyRow

#: Levels of bundle verification that read the stored payload back. "manifest" alone does not.
_READ_BACK = ("hashes", "trial")


@dataclass(frozen=True)
class Method:
    """One method's answer for one key.

    Attributes:
        answer: yes, no or cant_tell.
        at: when the evidence was last verified, microseconds since the epoch; None without any.
        generation: of the key in the evidence; differs from the key's own when it is stale.
        where: path or location of the stored artefact.
        sha256: of the stored artefact, hex.
        why: words for an answer other than yes.
        value: for ``redundancy``, n - (t+1).
    """

    answer: Answer
    at: int | None = None
    generation: int | None = None
    where: str | None = None
    sha256: str | None = None
    why: str = ""
    value: int | None = None

    def to_json(self) -> dict[str, Any]:
        """``{answer, at, generation, where, sha256}`` and, where they apply, why and value."""
        out: dict[str, Any] = {
            "answer": self.answer.value,
            "at": self.at,
            "generation": self.generation,
            "where": self.where,
            "sha256": self.sha256,
        }
        if self.why:
            out["why"] = self.why
        if self.value is not None:
            out["value"] = self.value
        return out


@dataclass(frozen=True)
class KeyCoverage:
    """What protects one key, and whether the policy holds for it."""

    key_id: str
    state: str
    players: tuple[int, ...]
    require: Policy
    holds: Answer
    methods: Mapping[str, Method]
    missing: Missing

    def to_json(self) -> dict[str, Any]:
        """One element of ``keys[]`` of the command ``coverage`` (docs/operations/cli.md)."""
        return {
            "key_id": self.key_id,
            "state": self.state,
            "players": list(self.players),
            "require": str(self.require),
            "holds": self.holds.value,
            "missing": list(self.missing.words),
            "options": [list(option) for option in self.missing.options],
            "next": list(self.missing.next),
            "methods": {name: method.to_json() for name, method in self.methods.items()},
        }


@dataclass(frozen=True)
class _Evidence:
    """A document or a bundle, seen as evidence for a key."""

    sha256: str
    where: str
    verified_us: int
    keys: Mapping[str, tuple[int, bytes]]
    sound: bool  # complete, or read back: what makes a yes
    doubt: str  # why it isn't sound
    retired: bool = False  # nobody is meant to open it any more


def _method(
    row: KeyRow, found: Iterable[_Evidence], unreadable: frozenset[str], what: str
) -> Method:
    record = row.record
    best: Method | None = None
    rank = {Answer.NO: 0, Answer.CANT_TELL: 1, Answer.YES: 2}
    for item in found:
        if record.key_id not in item.keys:
            continue
        generation, record_hash = item.keys[record.key_id]
        if generation != record.generation:
            answer = Answer.NO
            why = f"stale: it holds generation {generation}, the key is at {record.generation}"
        elif record_hash != record.hash:
            answer, why = Answer.NO, "it was made for another record of this key"
        elif item.retired:
            answer, why = Answer.NO, "stale: its RSA key was taken off this node's list"
        elif item.sha256 in unreadable:
            answer, why = Answer.CANT_TELL, "the stored copy could not be read back"
        elif item.verified_us <= 0:
            answer, why = Answer.CANT_TELL, "it was never read back and verified"
        elif not item.sound:
            answer, why = Answer.CANT_TELL, item.doubt
        else:
            answer, why = Answer.YES, ""
        made = Method(answer, item.verified_us or None, generation, item.where, item.sha256, why)
        newer = best is None or (rank[answer], generation, made.at or 0) > (
            rank[best.answer],
            best.generation or 0,
            best.at or 0,
        )
        best = made if newer else best
    return best or Method(Answer.NO, why=f"no {what} names this key")


def _documents(rows: Sequence[DocumentRow], retired: Collection[str]) -> Iterable[_Evidence]:
    # A document without all holders' parts recovers nothing that policy counts on: a plain no is
    # said by leaving it out, unless it is complete.
    for d in rows:
        if d.complete:
            gone = d.spki_sha256 in retired
            yield _Evidence(d.sha256, d.path, d.verified_us, d.keys, True, "", gone)


def _bundles(rows: Sequence[BundleRow]) -> Iterable[_Evidence]:
    for b in rows:
        sound = b.level in _READ_BACK
        doubt = "only its manifest was checked, not the stored payload"
        if b.level == "external":
            doubt = "a dump of the operator's own tools: registered, but nobody looked into it"
        yield _Evidence(b.sha256, b.location, b.verified_us, b.keys, sound, doubt)


def key_coverage(
    row: KeyRow,
    policy: Policy,
    *,
    documents: Sequence[DocumentRow] | None,
    bundles: Sequence[BundleRow] | None,
    unreadable: Iterable[str] = (),
    retired: Collection[str] = (),
) -> KeyCoverage:
    """What protects ``row``'s key at this node.

    Args:
        row: the key; n, t, generation and record hash come from its record.
        policy: what this node requires.
        documents: rows of this node's own ERS store, or None when they can't be read.
        bundles: receipts of this node's own bundles, or None when they can't be read.
        unreadable: SHA-256 (hex) of artefacts whose stored copy couldn't be read at the last
            look; they count as can't tell. Artefacts known to be gone have no row any more.
        retired: SPKI SHA-256 (hex) of RSA keys that the operator took off the list; documents
            under them count no more.
    """
    blind = frozenset(unreadable)
    unknown = Method(Answer.CANT_TELL, why="this node's own records could not be read")
    record = row.record
    spare = len(record.holders) - (record.threshold + 1)
    methods = {
        "ers": unknown
        if documents is None
        else _method(
            row, _documents(documents, retired), blind, "complete ERS document of this node"
        ),
        "node_backup": unknown
        if bundles is None
        else _method(row, _bundles(bundles), blind, "verified bundle of this node"),
        "redundancy": Method(
            Answer.YES if spare >= 1 else Answer.NO,
            generation=record.generation,
            why="" if spare >= 1 else "every holder is needed to sign",
            value=spare,
        ),
    }
    facts = {name: methods[name].answer for name in ("ers", "node_backup")}
    return KeyCoverage(
        key_id=record.key_id,
        state=row.state,
        players=tuple(record.holders),
        require=policy,
        holds=evaluate(policy, facts, spare),
        methods=methods,
        missing=missing(policy, facts, spare, key=record.key_id),
    )


def gate(
    action: str, coverage: KeyCoverage, gated: frozenset[str], *, node: int | None = None
) -> None:
    """Refuse ``action`` until the key is backed up as the policy asks.

    Args:
        action: "address" or "sign".
        coverage: of the key, just computed from this node's own rows.
        gated: ``[backup.policy] gate``.
        node: index of this node, for the error.

    Raises:
        KeycairnError: E_KEY_NOT_BACKED_UP; ``detail.missing`` lists what is missing, and
            ``detail.options`` the sets of terms of which one suffices.
    """
    if action not in gated or coverage.holds is Answer.YES:
        return
    doubt = coverage.holds is Answer.CANT_TELL
    state = "can't be shown to be backed up" if doubt else "is not backed up"
    wanted = coverage.missing.sentence() or "; ".join(coverage.missing.words)
    reasons = {
        name: method.why
        for name, method in coverage.methods.items()
        if method.answer is not Answer.YES and method.why
    }
    raise KeycairnError(
        Code.KEY_NOT_BACKED_UP,
        f"key {coverage.key_id} {state} at this node; missing: {wanted}",
        not_lost="The key is complete and its shares are stored; only its use waits for a backup.",
        next=" or: ".join(coverage.missing.next),
        node=node,
        detail={
            "key_id": coverage.key_id,
            "action": action,
            "require": str(coverage.require),
            "holds": coverage.holds.value,
            "missing": list(coverage.missing.words),
            "options": [list(option) for option in coverage.missing.options],
            "why": reasons,
        },
    )
