"""The backup policy: which protection a key needs before it may be used.

The language, in full::

    policy = "none" | any
    any    = all  ("or"  all)*
    all    = term ("and" term)*
    term   = "ers" | "node_backup" | "redundancy" ">=" K | "(" any ")"

``ers`` and ``node_backup`` are facts that each node finds in its own evidence
(:mod:`keycairn.vault.coverage`); ``redundancy`` is n - (t+1), the number of nodes that may be lost
before the key can't sign. ``none`` stands alone: it requires nothing, and a node that runs with it
says so loudly (:func:`warnings_for`).

Evaluation knows three answers. Doubt never becomes a yes: an unknown term makes the whole policy
``cant_tell`` unless the known terms decide it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import NoReturn, TypeAlias

from keycairn.errors import Code, KeycairnError

MAX_LENGTH = 512
MAX_DEPTH = 16
MAX_REDUNDANCY = 99

#: What ``[backup.policy]`` means when it isn't written.
DEFAULT_REQUIRE = "ers or node_backup"

#: Actions that a gate can hold back, and the default gate.
ACTIONS = ("address", "sign")


class Answer(StrEnum):
    """The three answers of coverage."""

    YES = "yes"
    NO = "no"
    CANT_TELL = "cant_tell"


#: Terms that a node's operator can make true, with what makes them true and how.
_TERMS: dict[str, tuple[str, str]] = {
    "ers": (
        "a complete ERS document with this key in this node's own store, read back and verified",
        "keycairn ers create {key} --rsa-public-key FILE --out FILE",
    ),
    "node_backup": (
        "a verified bundle of this node that holds its share at this generation",
        "keycairn backup create --config node.toml  # each node; a local vault: --vault vault.toml",
    ),
}


@dataclass(frozen=True)
class Term:
    """``ers`` or ``node_backup``."""

    name: str


@dataclass(frozen=True)
class Redundancy:
    """``redundancy >= at_least``."""

    at_least: int


@dataclass(frozen=True)
class AllOf:
    """``a and b and …``: two parts or more, none of them an ``AllOf``."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class AnyOf:
    """``a or b or …``: two parts or more, none of them an ``AnyOf``."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = "Term | Redundancy | AllOf | AnyOf"


@dataclass(frozen=True)
class Policy:
    """A parsed policy. ``root`` is None for the policy ``none``.

    ``str(policy)`` is the canonical text; parsing it gives an equal policy.
    """

    root: Expression | None

    def __str__(self) -> str:
        return "none" if self.root is None else _print(self.root)

    @property
    def requires_nothing(self) -> bool:
        """Whether this is the policy ``none``."""
        return self.root is None


def _print(node: Expression) -> str:
    if isinstance(node, Term):
        return node.name
    if isinstance(node, Redundancy):
        return f"redundancy >= {node.at_least}"
    word = " and " if isinstance(node, AllOf) else " or "
    return word.join(
        f"({_print(p)})" if isinstance(p, (AllOf, AnyOf)) else _print(p) for p in node.parts
    )


# -- parsing -------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[ \t]*(?:(?P<word>[a-z_]+)|(?P<number>[0-9]+)|(?P<sign>>=|[()]))")


def _fail(message: str, column: int) -> NoReturn:
    raise KeycairnError(
        Code.MALFORMED,
        f"backup policy, column {column}: {message}",
        next='see [backup.policy] require; for example "ers or node_backup"',
        detail={"field": "backup.policy.require", "column": column},
    )


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, int]] = []
        at = 0
        end = len(text.rstrip(" \t"))
        while at < end:
            found = _TOKEN.match(text, at)
            if not found:
                blank = len(text[at:]) - len(text[at:].lstrip(" \t"))
                _fail(f"{text[at + blank]!r} is not part of the language", at + blank + 1)
            kind = found.lastgroup or "word"
            self._tokens.append((found.group(kind), found.start(kind) + 1))
            at = found.end()
        self._tokens.append(("", end + 1))
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _take(self) -> tuple[str, int]:
        here = self._tokens[self._at]
        if here[0]:
            self._at += 1
        return here

    def policy(self) -> Policy:
        word, _ = self._tokens[0]
        if word == "none" and len(self._tokens) == 2:
            return Policy(None)
        root = self._chain("or", 0)
        left, column = self._tokens[self._at]
        if left:
            _fail(f"{left!r} is not expected here", column)
        return Policy(root)

    def _chain(self, word: str, depth: int) -> Expression:
        parts: list[Expression] = []
        while True:
            part = self._chain("and", depth) if word == "or" else self._term(depth)
            same = isinstance(part, AnyOf if word == "or" else AllOf)
            # "(a or b) or c" is "a or b or c": one spelling for one meaning.
            parts.extend(part.parts if same and isinstance(part, (AllOf, AnyOf)) else (part,))
            if self._peek() != word:
                break
            self._take()
        if len(parts) == 1:
            return parts[0]
        return AnyOf(tuple(parts)) if word == "or" else AllOf(tuple(parts))

    def _term(self, depth: int) -> Expression:
        word, column = self._take()
        if word == "(":
            if depth >= MAX_DEPTH:
                _fail(f"nested deeper than {MAX_DEPTH}", column)
            inner = self._chain("or", depth + 1)
            close, at = self._take()
            if close != ")":
                _fail("a closing parenthesis is missing", at)
            return inner
        if word in _TERMS:
            return Term(word)
        if word == "redundancy":
            return self._redundancy()
        if word == "none":
            _fail("none stands alone, as the whole policy", column)
        if not word:
            _fail("a term is missing", column)
        _fail(f"{word!r} is not a term (ers, node_backup, redundancy >= K)", column)

    def _redundancy(self) -> Redundancy:
        sign, column = self._take()
        if sign != ">=":
            _fail("redundancy needs >= and a number", column)
        number, column = self._take()
        if not number.isdecimal():
            _fail("redundancy >= needs a number", column)
        # 0 would always hold: a "none" that nobody sees.
        if len(number) > 2 or not 1 <= int(number) <= MAX_REDUNDANCY:
            _fail(f"K must be 1 to {MAX_REDUNDANCY} (to require nothing, write none)", column)
        return Redundancy(int(number))


def parse(text: object) -> Policy:
    """Read a policy.

    Raises:
        KeycairnError: E_MALFORMED naming the column (1 is the first character; ``detail.column``).
    """
    if not isinstance(text, str):
        _fail("it must be text", 1)
    if len(text) > MAX_LENGTH:
        _fail(f"longer than {MAX_LENGTH} characters", MAX_LENGTH + 1)
    return _Parser(text).policy()


def parse_gate(actions: object) -> frozenset[str]:
    """Read ``[backup.policy] gate``: a list of actions that the policy holds back.

    Raises:
        KeycairnError: E_MALFORMED for anything but a list of known, distinct actions.
    """
    known = isinstance(actions, (list, tuple)) and all(a in ACTIONS for a in actions)
    if not known or not isinstance(actions, (list, tuple)) or len(set(actions)) != len(actions):
        raise KeycairnError(
            Code.MALFORMED,
            f"backup.policy.gate must be a list of distinct actions out of {', '.join(ACTIONS)}",
            detail={"field": "backup.policy.gate"},
        )
    return frozenset(actions)


# -- evaluation ----------------------------------------------------------------------------------


def evaluate(policy: Policy, facts: Mapping[str, Answer], redundancy: int | None) -> Answer:
    """Whether the policy holds.

    Args:
        policy: what is required.
        facts: answer per term; a term that isn't there is ``cant_tell``.
        redundancy: n - (t+1) of the key, or None when it isn't known.
    """
    return Answer.YES if policy.root is None else _evaluate(policy.root, facts, redundancy)


def _evaluate(node: Expression, facts: Mapping[str, Answer], redundancy: int | None) -> Answer:
    if isinstance(node, Term):
        return facts.get(node.name, Answer.CANT_TELL)
    if isinstance(node, Redundancy):
        if redundancy is None:
            return Answer.CANT_TELL
        return Answer.YES if redundancy >= node.at_least else Answer.NO
    answers = {_evaluate(part, facts, redundancy) for part in node.parts}
    decisive, other = (
        (Answer.NO, Answer.YES) if isinstance(node, AllOf) else (Answer.YES, Answer.NO)
    )
    if decisive in answers:
        return decisive
    return Answer.CANT_TELL if Answer.CANT_TELL in answers else other


@dataclass(frozen=True)
class Missing:
    """What would make a policy hold.

    Attributes:
        options: the smallest sets of terms that suffice, each a tuple of term names; empty when
            nothing that can be done makes the policy hold.
        words: one text per term in ``options``, each beginning with the term's name and a colon.
        next: the commands that make these terms true.
    """

    options: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    next: tuple[str, ...]

    def sentence(self) -> str:
        """The options as one piece of a sentence."""
        return ", or ".join(" and ".join(_TERMS[name][0] for name in o) for o in self.options)


def missing(
    policy: Policy, facts: Mapping[str, Answer], redundancy: int | None, *, key: str = "KEY"
) -> Missing:
    """What would satisfy the policy, with the commands that help; empty when it holds."""
    if evaluate(policy, facts, redundancy) is Answer.YES:
        return Missing((), (), ())
    open_terms = [name for name in _TERMS if facts.get(name) is not Answer.YES]
    options: list[tuple[str, ...]] = []
    for size in range(1, len(open_terms) + 1):
        for chosen in combinations(open_terms, size):
            if any(set(smaller) <= set(chosen) for smaller in options):
                continue
            then = {**facts, **dict.fromkeys(chosen, Answer.YES)}
            if evaluate(policy, then, redundancy) is Answer.YES:
                options.append(chosen)
    if not options:
        known = "unknown" if redundancy is None else str(redundancy)
        text = f"redundancy: the policy asks for more spare nodes than this key has ({known})"
        return Missing((), (text,), ("keycairn key create (in a vault with more nodes)",))
    names = [name for name in _TERMS if any(name in option for option in options)]
    return Missing(
        tuple(options),
        tuple(f"{name}: {_TERMS[name][0]}" for name in names),
        tuple(_TERMS[name][1].format(key=key) for name in names),
    )


def names_term(policy: Policy, name: str) -> bool:
    """Whether a term occurs anywhere in the policy."""

    def within(node: Expression) -> bool:
        if isinstance(node, (AllOf, AnyOf)):
            return any(within(part) for part in node.parts)
        return isinstance(node, Term) and node.name == name

    return policy.root is not None and within(policy.root)


def satisfiable(policy: Policy, n: int, t: int) -> bool:
    """Whether a key with ``n`` holders and threshold ``t`` can ever meet the policy."""
    return evaluate(policy, dict.fromkeys(_TERMS, Answer.YES), n - (t + 1)) is Answer.YES


def require_satisfiable(policy: Policy, n: int, t: int) -> None:
    """Refuse to create a key that could never be used.

    Raises:
        KeycairnError: E_POLICY.
    """
    if satisfiable(policy, n, t):
        return
    raise KeycairnError(
        Code.POLICY,
        f"the backup policy ({policy}) can't be met by a key with {n} holders and t={t}: "
        f"its redundancy is {n - (t + 1)}",
        not_lost="No key was made.",
        next="change [backup.policy] require at every node, or use more nodes",
        detail={"require": str(policy), "n": n, "t": t, "redundancy": n - (t + 1)},
    )


def warnings_for(policy: Policy, gate: frozenset[str] | Sequence[str]) -> list[str]:
    """What a node says loudly at its start, and ``coverage`` with every answer."""
    if policy.requires_nothing:
        return [
            'BACKUP POLICY IS "none": keys are used with no backup at all; '
            "a lost node may mean a lost key"
        ]
    ungated = [action for action in ACTIONS if action not in gate]
    if ungated:
        return [
            f"BACKUP POLICY DOES NOT HOLD BACK: {', '.join(ungated)}. "
            "Keys can be used so before they are backed up"
        ]
    return []
