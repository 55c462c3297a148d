"""The demo's story, step by step: a vault, a disaster, and the keys again.

Every step returns what it proved, or raises. Nodes are real processes with real sockets; each
operator's things lie beside its node's directory, so that the node can be lost whole.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.backup import execute, plan_restore, verify_bundle
from keycairn.cli import strangers
from keycairn.cli.layout import Plan, create_vault
from keycairn.cli.processes import NodeProcess, wait_for_links
from keycairn.cli.strangers import NotProved, require
from keycairn.client import OperatorClient, Vault, VaultProfile, load_profile
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock, SystemRng

_LABEL = "keycairn demo"
_MESSAGE = b"keycairn demo: not a transaction, only a Solana-style message"
_LINK_SECONDS = 20.0
_PATH = "m/0/5"
_STOCK_SECONDS = 30.0
_LOST = 2  # the node that is lost and comes back


@dataclass(frozen=True)
class Step:
    """A step: its name, and what to do; the result says what was proved."""

    name: str
    act: Callable[[], Awaitable[str]]


class Story:
    """The demo in ``plan.directory``; run :attr:`steps` in order, then :meth:`clean_up`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.keys: list[dict[str, Any]] = []
        self._bundles: dict[int, Path] = {}
        self._incarnations: dict[int, str] = {}
        self._processes: dict[int, NodeProcess] = {}
        self._profile: VaultProfile | None = None
        self.clock, self.rng = SystemClock(), SystemRng()
        self.document = plan.directory / "recovery" / "document.json"
        self.rsa_key = plan.directory / "recovery" / "rsa.pem"

    @property
    def steps(self) -> Sequence[Step]:
        """All steps in order."""
        n = self.plan.nodes
        return (
            Step("make a vault", self.make),
            Step(f"start {n} nodes", self.start),
            Step("create an ECDSA and an Ed25519 key", self.create),
            Step("refused: nothing is backed up", self.refused),
            Step("register an RSA-3072 recovery key", self.recovery_key),
            Step("make a recovery document", self.make_document),
            Step("write a bundle of every node", self.bundles),
            Step("show addresses", self.addresses),
            Step("sign an Ethereum transaction", self.ethereum),
            Step("sign a Solana-style message", self.solana),
            Step(f"sign from the child address at {_PATH}", self.derived),
            Step(f"lose node {_LOST}: SIGKILL, directory deleted", self.lose_one),
            Step(f"restore node {_LOST} from its bundle", self.restore),
            Step(f"sign with node {_LOST} again", self.sign_again),
            Step(f"lose all {n} nodes", self.lose_all),
            Step("recover both keys offline", self.recover),
            Step("sign with the recovered keys", self.sign_recovered),
        )

    # -- what the steps share

    @property
    def profile(self) -> VaultProfile:
        """The vault's client profile, once it was made."""
        if self._profile is None:
            self._profile = load_profile(self.plan.directory / "vault.toml")
        return self._profile

    @property
    def quorum(self) -> int:
        """How many nodes sign."""
        return self.plan.threshold + 1

    def _key(self, scheme: str) -> dict[str, Any]:
        return next(k for k in self.keys if k["scheme"] == scheme)

    async def _operator(self, i: int, call: Callable[[OperatorClient], Awaitable[Any]]) -> Any:
        async with OperatorClient.of(self._processes[i].config) as node:
            return await call(node)

    async def _each(self, call: Callable[[OperatorClient, int], Awaitable[Any]]) -> dict[int, Any]:
        async def one(i: int) -> Any:
            return await self._operator(i, lambda node: call(node, i))

        found = await asyncio.gather(*(one(i) for i in self._processes))
        return dict(zip(self._processes, found, strict=True))

    async def _start(self, indices: Sequence[int]) -> None:
        for i in indices:
            config = load_config(self.plan.node(i) / "node.toml", {})
            self._processes[i] = NodeProcess(i, self.plan.directory / "run", config)
        await asyncio.gather(*(self._processes[i].start() for i in indices))
        apart = await wait_for_links(list(self._processes.values()), _LINK_SECONDS)
        require(not apart, f"nodes don't reach each other: {apart[:1]}")

    async def _sign(self, scheme: str, nodes: Sequence[int] | None, nonce: int = 0) -> str:
        """Sign with the key of a scheme; a stranger's library verifies. Returns who signed."""
        key = self._key(scheme)
        async with Vault(self.profile) as vault:
            if scheme == "ecdsa":
                transaction = strangers.Ethereum(nonce)
                made = await vault.sign(key["key_id"], digest=transaction.digest, nodes=nodes)
                sender = transaction.sender(
                    bytes.fromhex(made["signature"]), int(made["recovery_id"])
                )
                require(
                    sender == self._address("ethereum"),
                    f"the transaction's sender is {sender}, not the key's address",
                )
            else:
                made = await vault.sign(key["key_id"], message=_MESSAGE, nodes=nodes)
                good = strangers.solana_verifies(
                    self._address("solana"), _MESSAGE, bytes.fromhex(made["signature"])
                )
                require(good, "solders refuses the signature")
        return ", ".join(map(str, made["nodes"]))

    def _address(self, name: str) -> str:
        return next(str(k["addresses"][name]) for k in self.keys if k["addresses"][name])

    # -- the steps

    async def make(self) -> str:
        await asyncio.to_thread(create_vault, self.plan, self.clock, self.rng)
        return f"{self.quorum}-of-{self.plan.nodes} (t={self.plan.threshold})"

    async def start(self) -> str:
        await self._start(self.profile.players)
        status = await self._each(lambda n, _: n.status())
        self._incarnations = {i: s["incarnation"] for i, s in status.items()}
        pids = {p.pid() for p in self._processes.values()}
        require(len(pids) == self.plan.nodes and None not in pids, "a node has no process")
        return f"{len(pids)} processes, every node reaches every other over TLS 1.3"

    async def create(self) -> str:
        async with Vault(self.profile) as vault:
            self.keys = [
                (await vault.create_keys(scheme, curve))[0]
                for scheme, curve in (("ecdsa", "secp256k1"), ("schnorr", "ed25519"))
            ]
        require(all(k["state"] == "active" for k in self.keys), "a key is not active everywhere")
        return f"{self.plan.nodes} nodes give equal public keys and record hashes"

    async def refused(self) -> str:
        async with Vault(self.profile) as vault:
            for key in self.keys:
                shown = await vault.show_key(key["key_id"])
                given = [a for a in shown["addresses"].values() if a is not None]
                require(not given, "an address was shown for a key without a backup")
                ecdsa = key["scheme"] == "ecdsa"
                digest = strangers.Ethereum(0).digest if ecdsa else None
                message = None if ecdsa else _MESSAGE
                try:
                    await vault.sign(key["key_id"], digest=digest, message=message)
                except KeycairnError as exc:
                    require(exc.code is Code.KEY_NOT_BACKED_UP, f"refused, but by {exc}")
                else:
                    raise NotProved("a key without a backup signed")
        return "E_KEY_NOT_BACKED_UP for both keys, no address"

    async def recovery_key(self) -> str:
        place = self.rsa_key.parent
        place.mkdir(mode=0o700)
        await self._recover_tool("keygen", "--bits", "3072", "--out", str(self.rsa_key))
        public = self.rsa_key.with_name("rsa.pem.pub")
        key = load_rsa_public_key(await asyncio.to_thread(public.read_bytes))

        async def register(node: OperatorClient, i: int) -> bool:
            challenges, answers = place / f"challenges{i}.json", place / f"answers{i}.json"
            body = json.dumps(await node.ers_key_add(key.spki), sort_keys=True)
            challenges.write_text(body)
            words = ("--challenges", challenges, "--rsa-key", self.rsa_key, "--out", answers)
            await self._recover_tool("prove", *map(str, words))
            view = await node.ers_key_confirm(json.loads(answers.read_text()))
            return bool(view["state"] == "allowed")

        allowed = await self._each(register)
        require(all(allowed.values()), "a node did not take the recovery key")
        return f"its owner answered 8 challenges of each of {len(allowed)} nodes"

    async def make_document(self) -> str:
        public = load_rsa_public_key(self.rsa_key.with_name("rsa.pem.pub").read_bytes())
        async with Vault(self.profile) as vault:
            ids = [k["key_id"] for k in self.keys]
            made = await vault.ers_create(ids, public.spki, label=_LABEL)
        self.document.write_text(made["document"])
        expected = [
            ExpectedKey(
                k["key_id"],
                bytes.fromhex(k["public_key"]),
                k["curve"],
                k["generation"],
                bytes.fromhex(k["record_hash"]),
            )
            for k in self.keys
        ]
        document = Document.load(self.document.read_bytes())
        report = await asyncio.to_thread(
            verify_document, document, rsa=public, expected=expected, label=_LABEL
        )
        require(report.complete, "the document is not complete")
        return f"verified with public data: both keys, parts of all {len(made['parts'])} nodes"

    async def bundles(self) -> str:
        made = await self._each(lambda n, _: n.backup_create())
        for i, receipt in made.items():
            self._bundles[i] = Path(receipt["bundle"])
            pin = next(n.public_key for n in self.profile.nodes if n.index == i)
            report = await verify_bundle(self._bundles[i], node_public_key=pin)
            require(report.sha256 == receipt["sha256"], f"node {i}'s bundle is not what it wrote")
            require(receipt["keys"] == len(self.keys), f"node {i}'s bundle lacks a key")
        return f"{len(made)} bundles read back, signature and hashes good"

    async def addresses(self) -> str:
        async with Vault(self.profile) as vault:
            self.keys = [await vault.show_key(k["key_id"]) for k in self.keys]
        ed = bytes.fromhex(self._key("schnorr")["public_key"])
        require(
            self._address("solana") == strangers.solana_address(ed), "solders has another address"
        )
        return f"Ethereum {self._address('ethereum')}, Solana {self._address('solana')}"

    async def ethereum(self) -> str:
        who = await self._sign("ecdsa", None)
        return f"nodes {who}; eth-account recovers the sender: the key's address"

    async def solana(self) -> str:
        who = await self._sign("schnorr", None)
        return f"nodes {who}; solders verifies"

    async def derived(self) -> str:
        key_id = self._key("ecdsa")["key_id"]
        transaction = strangers.Ethereum(1)
        async with Vault(self.profile) as vault:
            child = await vault.show_key(key_id, _PATH)
            address = child["addresses"]["ethereum"]
            require(address not in (None, self._address("ethereum")), "the child has no address")
            # The signature before made the nodes fill a pool for its signers.
            signers, waiting = await self._stock(vault, key_id)
            digest = transaction.digest
            made = await vault.sign(key_id, digest=digest, path=_PATH, nodes=signers)
            sender = transaction.sender(bytes.fromhex(made["signature"]), int(made["recovery_id"]))
            require(sender == address, f"the sender is {sender}, not the child's address")
            used = made["presignature_id"]
            require(used == waiting, "it was not signed with the presignature that came next")
            try:
                await vault.sign(
                    key_id, digest=digest, path=_PATH, nodes=signers, presignature=used
                )
            except KeycairnError as exc:
                require(exc.code is Code.PRESIG_SPENT, f"refused, but by {exc}")
            else:
                raise NotProved("a presignature was used twice")
        who = ", ".join(map(str, made["nodes"]))
        return f"nodes {who} used one presignature, and refuse it a second time; {address}"

    async def _stock(self, vault: Vault, key_id: str) -> tuple[list[int], str]:
        """A signer set all of whose nodes have presignatures ready, and the one that is next."""
        end = self.clock.monotonic() + _STOCK_SECONDS
        while self.clock.monotonic() < end:
            rows, _ = await vault.presignatures(key_id)
            first: dict[tuple[int, ...], dict[int, str]] = {}
            for node, found in rows.items():
                for row in found:
                    if row["ids"]:
                        first.setdefault(tuple(row["players"]), {})[node] = row["ids"][0]
            for players, ids in sorted(first.items()):
                if set(ids) == set(players) and len(set(ids.values())) == 1:
                    return list(players), ids[players[0]]
            await asyncio.sleep(0.1)
        raise NotProved("no presignature was made ahead")

    async def lose_one(self) -> str:
        await self._processes.pop(_LOST).kill()
        await asyncio.to_thread(shutil.rmtree, self.plan.node(_LOST))
        others = [i for i in self.profile.players if i != _LOST][: self.quorum]
        if len(others) < self.quorum:
            return f"all nodes of this vault sign, so nothing signs until node {_LOST} is back"
        for nonce, scheme in enumerate(("ecdsa", "schnorr"), 2):
            who = await self._sign(scheme, others, nonce)
        return f"nodes {who} sign with both keys without it"

    async def restore(self) -> str:
        operator = self.plan.operator(_LOST)
        pin = next(n.public_key for n in self.profile.nodes if n.index == _LOST)
        plan = await plan_restore(
            self._bundles[_LOST],
            into=self.plan.node(_LOST),
            identity=SecretBytes((operator / "backup-identity.age").read_bytes()),
            clock=self.clock,
            rng=self.rng,
            node_public_key=pin,
            node=_LOST,
        )
        result = await execute(plan)
        require(result["presignatures"] == 0, "a presignature came back")
        require(result["proofs_ok"] is True, "a share was not proved")
        await self._start([_LOST])
        status = await self._operator(_LOST, lambda n: n.status())
        require(status["incarnation"] != self._incarnations[_LOST], "the old incarnation is back")
        return f"{result['keys']} shares fit their public records, no presignature came back"

    async def sign_again(self) -> str:
        others = [i for i in reversed(self.profile.players) if i != _LOST]
        nodes = sorted([_LOST, *others[: self.plan.threshold]])
        for nonce, scheme in enumerate(("ecdsa", "schnorr"), 3):
            who = await self._sign(scheme, nodes, nonce)
        return f"nodes {who} sign with both keys"

    async def lose_all(self) -> str:
        await asyncio.gather(*(p.stop() for p in self._processes.values()))
        alive = [i for i, p in self._processes.items() if p.pid() is not None]
        require(not alive, f"nodes {alive} still run")
        for i in self.profile.players:
            await asyncio.to_thread(shutil.rmtree, self.plan.node(i))
        return "no process, no directory; left: the document and the RSA key"

    async def recover(self) -> str:
        out = self.plan.directory / "recovery" / "keys"
        words = [str(self.document), "--rsa-key", str(self.rsa_key), "--out", str(out)]
        # A demo runs on a connected machine; a recovery should not.
        result = await self._recover_tool(*words, "--allow-network")
        found = {r["key_id"]: r for r in result["recovered"]}
        for key in self.keys:
            got = found.get(key["key_id"], {})
            require(got.get("public_key") == key["public_key"], "a recovered key is another one")
            key["recovered_file"] = str(out / Path(str(got["file"])).name)
        return "both private keys fit the public keys that the vault gave"

    async def sign_recovered(self) -> str:
        transaction = strangers.Ethereum(9)
        ecdsa = await self._recover_tool(
            "sign", "--key", self._key("ecdsa")["recovered_file"], "--digest",
            transaction.digest.hex(),
        )  # fmt: skip
        sender = transaction.sender(bytes.fromhex(ecdsa["signature"]), int(ecdsa["recovery_id"]))
        require(sender == self._address("ethereum"), "the recovered ECDSA key is another one")
        schnorr = await self._recover_tool(
            "sign", "--key", self._key("schnorr")["recovered_file"], "--message", _MESSAGE.hex()
        )
        good = strangers.solana_verifies(
            self._address("solana"), _MESSAGE, bytes.fromhex(schnorr["signature"])
        )
        require(good, "solders refuses the recovered Ed25519 key's signature")
        return "eth-account and solders accept both, for the same addresses"

    # -- helpers

    async def _recover_tool(self, *words: str) -> dict[str, Any]:
        """Run ``keycairn-recover`` as a process of its own, as its user would."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "keycairn.ers.cli", *words, "--json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        try:
            result: dict[str, Any] = json.loads(out)
        except ValueError:
            tail = err.decode("utf-8", "replace")[-300:]
            raise NotProved(f"keycairn-recover {words[0]} said nothing: {tail}") from None
        if process.returncode != 0:
            raise KeycairnError.from_json(result)
        return result

    async def clean_up(self) -> None:
        """End every process that this story started, whatever happened."""
        await asyncio.gather(*(p.stop() for p in self._processes.values()))
