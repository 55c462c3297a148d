"""T-056: the nonce point of a signature depends on all that is signed, and on values that every
signer opens only after the request is fixed (R-05; Groth and Shoup, eprint 2021/1330).

A dry run computes one signer's part of a signature without sending it: so the same presignature
can be asked about many requests.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import pytest

from keycairn.curves import SECP256K1
from keycairn.errors import Abort, Code
from keycairn.protocols.dkls23 import Presignature, Request, claim, use
from protocols.dkls23.vault import Vault, sha
from protocols.lockstep import parties

SIGN = importlib.import_module("keycairn.protocols.dkls23.sign")
ALL = (1, 2, 3)


@pytest.fixture(scope="module")
def vault() -> Vault:
    return Vault(4, 1, ALL)


class Dry:
    """One presignature, whose secrets are put back after each look."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.batch = {i: b[0] for i, b in vault.presignatures(1).items()}
        self.secrets = {i: p.take() for i, p in self.batch.items()}

    def claims(self, request: Request) -> dict[int, Any]:
        for i, p in self.batch.items():
            p._secrets = self.secrets[i]
        return {
            i: claim(self.vault.keys[i], i, ALL, self.vault.setups[i], [self.batch[i]], [request])
            for i in ALL
        }

    def x_of(
        self,
        request: Request,
        players: tuple[int, ...] = ALL,
        nus: Mapping[int, bytes] | None = None,
        **changes: Any,
    ) -> int:
        """x of R' as player 1 would use it."""
        made = self.claims(request)[1]
        presignature = made.presignatures[0]
        if changes:
            made = dataclasses.replace(made, presignatures=(changed(presignature, **changes),))
        opened = nus or {i: self.secrets[i].nu for i in players}
        party = parties(players, "dry")[1]
        return int(SIGN._Slot.begin(party, made, 0, opened).x)

    @property
    def base_x(self) -> int:
        return int.from_bytes(self.batch[1].base_r[1:], "big")


def changed(presignature: Presignature, **changes: Any) -> Any:
    """The same presignature under another name."""

    class Other:
        def __getattr__(self, name: str) -> Any:
            return changes[name] if name in changes else getattr(presignature, name)

    return Other()


def test_t056_dry_run_delta_for_digests_paths_signer_sets_and_every_opened_value(
    vault: Vault,
) -> None:
    dry = Dry(vault)
    first = Request(sha(1))
    other_nu = {i: dry.secrets[i].nu for i in ALL}
    seen = {
        "the request": dry.x_of(first),
        "digest": dry.x_of(Request(sha(2))),
        "path": dry.x_of(Request(sha(1), 7)),
        "another path": dry.x_of(Request(sha(1), 8)),
        "signer set": dry.x_of(first, (1, 2)),
        "another signer set": dry.x_of(first, (1, 3)),
        "presignature id": dry.x_of(first, id=bytes(32)),
        **{f"ν of {i}": dry.x_of(first, nus={**other_nu, i: bytes(32)}) for i in ALL},
    }
    assert len(set(seen.values())) == len(seen)
    assert dry.base_x not in seen.values()
    assert dry.x_of(first) == seen["the request"], "the same request gives the same R'"


def test_t056_another_key_with_the_same_presignature_moves_it_too(vault: Vault) -> None:
    dry, request = Dry(vault), Request(sha(1))
    other = Vault(4, 1, ALL, seed="another").keys
    mine = dry.claims(request)[1]
    theirs = dataclasses.replace(mine, key=other[1])
    party, nus = parties(ALL, "dry")[1], {i: dry.secrets[i].nu for i in ALL}
    points = {SIGN._Slot.begin(party, made, 0, nus).x for made in (mine, theirs)}
    assert len(points) == 2


OFF = {
    "nothing": lambda nu: b"",
    "zeros": lambda nu: bytes(32),
    "another length": lambda nu: nu + b"\0",
    "another's": None,
}


@pytest.mark.parametrize("who", [1, 3])
@pytest.mark.parametrize("what", OFF)
def test_t056_a_path_without_the_opened_values_is_refused_and_spends(
    vault: Vault, what: str, who: int
) -> None:
    """There is no way to sign with a presignature and a derivation, but without ν."""
    mine = {i: b[0] for i, b in vault.presignatures(1).items()}
    claims = {
        i: claim(vault.keys[i], i, ALL, vault.setups[i], [mine[i]], [Request(sha(1), 7)])
        for i in ALL
    }
    opened = {i: claims[i].opening.nonce for i in ALL}
    change = OFF[what]
    opened[who] = opened[2] if change is None else change(opened[who])
    party = dataclasses.replace(parties(ALL, "use")[1], nonces=opened)
    with pytest.raises(Abort) as caught:
        next(use(party, claims[1]))  # before its first message
    short = what in ("nothing", "another length")
    assert caught.value.code is (Code.BAD_LENGTH if short else Code.BAD_COMMIT)
    assert caught.value.culprits == (who,)
    assert mine[1].spent


def test_t056_delta_is_no_function_of_public_data_alone(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hashed into δ holds ν of all signers, which are not in what the others keep."""
    hashed: list[tuple[Any, ...]] = []
    honest = SIGN.to_scalar

    def spy(q: int, tag: Any, *fields: Any) -> int:
        if tag.name == "sign/delta":
            hashed.append(fields)
        return int(honest(q, tag, *fields))

    monkeypatch.setattr(SIGN, "to_scalar", spy)
    dry = Dry(vault)
    dry.x_of(Request(sha(1), 7))
    (fields,) = hashed
    assert fields[-1] == [dry.secrets[i].nu for i in ALL]
    assert vault.record.public_key in fields
    assert SECP256K1.encode_scalar(7) in fields
    kept = dry.batch[1].commitments
    assert not {dry.secrets[i].nu for i in ALL} & set(kept.values())
