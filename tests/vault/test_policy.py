"""The policy language: parser, three-valued evaluation, what is missing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycairn.errors import Code, KeycairnError
from keycairn.vault import policy as p
from keycairn.vault.policy import Answer, Policy, Redundancy, Term

YES, NO, CANT = Answer.YES, Answer.NO, Answer.CANT_TELL


def join(kind: type[p.AllOf] | type[p.AnyOf], parts: list[p.Expression]) -> p.Expression:
    """A node in normal form: parts of the same kind are merged."""
    flat: list[p.Expression] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, kind) else (part,))
    return kind(tuple(flat))


leaves = st.one_of(
    st.sampled_from([Term("ers"), Term("node_backup")]),
    st.integers(1, p.MAX_REDUNDANCY).map(Redundancy),
)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        join, st.sampled_from([p.AllOf, p.AnyOf]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=8,
)
policies = st.one_of(st.just(Policy(None)), trees.map(Policy))
answers = st.sampled_from(list(Answer))


@given(policies)
def test_what_is_printed_parses_to_the_same_policy(policy: Policy) -> None:
    assert p.parse(str(policy)) == policy


@given(st.text(alphabet="ersnod_backupy()>=0123456789 \tanrl", max_size=60))
def test_any_text_parses_or_is_malformed_with_a_column(text: str) -> None:
    error = None
    try:
        policy = p.parse(text)
    except KeycairnError as exc:
        error = exc
    if error is None:
        assert p.parse(str(policy)) == policy
    else:
        assert error.code is Code.MALFORMED
        assert 1 <= error.detail["column"] <= len(text) + 1


@given(trees.map(Policy), answers, answers, st.one_of(st.none(), st.integers(-1, 5)))
def test_doubt_never_decides(policy: Policy, ers: Answer, node: Answer, spare: int | None) -> None:
    """Whatever an unknown turns out to be, a yes or no that was given stands."""
    facts = {"ers": ers, "node_backup": node}
    before = p.evaluate(policy, facts, spare)
    resolved = [
        p.evaluate(policy, {"ers": e, "node_backup": n}, s)
        for e in ([YES, NO] if ers is CANT else [ers])
        for n in ([YES, NO] if node is CANT else [node])
        for s in ([-1, 0, 1, 3, 99] if spare is None else [spare])
    ]
    if before is not CANT:
        assert set(resolved) == {before}


@given(trees.map(Policy), answers, answers, st.integers(-1, 5))
def test_more_protection_never_makes_it_worse(
    policy: Policy, ers: Answer, node: Answer, spare: int
) -> None:
    order = {NO: 0, CANT: 1, YES: 2}
    base = order[p.evaluate(policy, {"ers": ers, "node_backup": node}, spare)]
    for better in Answer:
        if order[better] >= order[ers]:
            now = p.evaluate(policy, {"ers": better, "node_backup": node}, spare)
            assert order[now] >= base
    assert order[p.evaluate(policy, {"ers": ers, "node_backup": node}, spare + 1)] >= base


@given(trees.map(Policy), answers, answers, st.integers(-1, 5))
def test_missing_names_what_suffices(policy: Policy, ers: Answer, node: Answer, spare: int) -> None:
    facts = {"ers": ers, "node_backup": node}
    found = p.missing(policy, facts, spare)
    if p.evaluate(policy, facts, spare) is YES:
        assert found == p.Missing((), (), ())
        return
    assert found.words
    assert found.next
    for option in found.options:
        assert p.evaluate(policy, {**facts, **dict.fromkeys(option, YES)}, spare) is YES
    reachable = p.evaluate(policy, {"ers": YES, "node_backup": YES}, spare) is YES
    assert bool(found.options) == reachable


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("  none ", "none"),
        ("ers", "ers"),
        ("(ers)", "ers"),
        ("ers or node_backup and redundancy>=2", "ers or (node_backup and redundancy >= 2)"),
        ("(ers or node_backup) and redundancy >= 02", "(ers or node_backup) and redundancy >= 2"),
        ("ers or (ers or node_backup)", "ers or ers or node_backup"),
    ],
)
def test_reads(text: str, canonical: str) -> None:
    assert str(p.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("   ", 1),
        ("ers or none", 8),
        ("(none)", 2),
        ("none none", 1),
        ("ers and", 8),
        ("ers node_backup", 5),
        ("(ers", 5),
        ("ers)", 4),
        ("ERS", 1),
        ("ers & node_backup", 5),
        ("ers or\nnode_backup", 7),
        ("backup", 1),
        ("redundancy", 11),
        ("redundancy > 1", 12),
        ("redundancy >= ers", 15),
        ("redundancy >= 0", 15),
        ("redundancy >= 100", 15),
        ("redundancy >= ٣", 15),
        ("ers or or ers", 8),
    ],
)
def test_malformed_names_the_column(text: str, column: int) -> None:
    with pytest.raises(KeycairnError) as caught:
        p.parse(text)
    assert caught.value.code is Code.MALFORMED
    assert caught.value.detail["column"] == column


@pytest.mark.parametrize("value", [None, 1, ["ers"], b"ers"])
def test_only_text_is_a_policy(value: object) -> None:
    with pytest.raises(KeycairnError) as caught:
        p.parse(value)
    assert caught.value.code is Code.MALFORMED


def test_depth_and_length_are_limited() -> None:
    assert p.parse("(" * p.MAX_DEPTH + "ers" + ")" * p.MAX_DEPTH) == Policy(Term("ers"))
    for text in ("(" * 17 + "ers" + ")" * 17, "(" * 400, "ers or " * 80 + "ers"):
        with pytest.raises(KeycairnError) as caught:
            p.parse(text)
        assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    ("text", "facts", "spare", "holds"),
    [
        ("none", {}, None, YES),
        ("ers", {}, 1, CANT),
        ("ers or node_backup", {"ers": YES}, 1, YES),
        ("ers or node_backup", {"ers": NO}, 1, CANT),
        ("ers and node_backup", {"ers": NO}, 1, NO),
        ("ers and node_backup", {"ers": YES, "node_backup": CANT}, 1, CANT),
        ("redundancy >= 1", {}, 1, YES),
        ("redundancy >= 1", {}, 0, NO),
        ("redundancy >= 1", {}, None, CANT),
    ],
)
def test_evaluates(
    text: str, facts: Mapping[str, Answer], spare: int | None, holds: Answer
) -> None:
    assert p.evaluate(p.parse(text), facts, spare) is holds


def test_missing_lists_the_smallest_sets() -> None:
    none_yet = {"ers": NO, "node_backup": NO}
    either = p.missing(p.parse("ers or node_backup"), none_yet, 1, key="k1")
    assert either.options == (("ers",), ("node_backup",))
    assert [w.split(":")[0] for w in either.words] == ["ers", "node_backup"]
    assert "keycairn ers create k1" in either.next[0]
    both = p.missing(p.parse("ers and node_backup"), none_yet, 1)
    assert both.options == (("ers", "node_backup"),)
    rest = p.missing(p.parse("ers and node_backup"), {"ers": YES, "node_backup": NO}, 1)
    assert rest.options == (("node_backup",),)
    stuck = p.missing(p.parse("redundancy >= 2"), none_yet, 1)
    assert stuck.options == ()
    assert "more spare nodes" in stuck.words[0]


@pytest.mark.parametrize(
    ("text", "n", "t", "fine"),
    [
        ("none", 2, 1, True),
        ("ers or node_backup", 2, 1, True),
        ("redundancy >= 1", 2, 1, False),
        ("redundancy >= 1", 3, 1, True),
        ("redundancy >= 2 or redundancy >= 3", 3, 1, False),
        ("ers and redundancy >= 2", 3, 1, False),
        ("ers or redundancy >= 2", 3, 1, True),
    ],
)
def test_a_policy_that_n_and_t_cannot_meet_is_refused(
    text: str, n: int, t: int, fine: bool
) -> None:
    policy = p.parse(text)
    assert p.satisfiable(policy, n, t) is fine
    if fine:
        p.require_satisfiable(policy, n, t)
        return
    with pytest.raises(KeycairnError) as caught:
        p.require_satisfiable(policy, n, t)
    assert caught.value.code is Code.POLICY


def test_gates_and_loud_words() -> None:
    full = p.parse_gate(["address", "sign"])
    assert full == {"address", "sign"}
    for bad in ("sign", ["sign", "sign"], ["launch"], [1], None):
        with pytest.raises(KeycairnError) as caught:
            p.parse_gate(bad)
        assert caught.value.code is Code.MALFORMED
    assert p.warnings_for(p.parse("ers"), full) == []
    assert "none" in p.warnings_for(p.parse("none"), full)[0]
    assert "sign" in p.warnings_for(p.parse("ers"), p.parse_gate(["address"]))[0]
    assert p.parse(p.DEFAULT_REQUIRE).root is not None
