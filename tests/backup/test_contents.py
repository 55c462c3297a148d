"""Launch files, certificate chains, external items: in the bundle, in the plan, back in place."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keycairn.backup import execute, plan_restore, verify_bundle
from keycairn.backup.external import External, read_external, run_checks
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

UNIT = "[Service]\nExecStart=keycairn node run --config /var/lib/keycairn/node.toml\n"
COMPOSE = "services:\n  node2:\n    command: node run\n"
CHAIN = "-----BEGIN CERTIFICATE-----\nleaf\n-----END CERTIFICATE-----\n" * 2


def external(check: str, **more: Any) -> str:
    lines = [f"{key} = {str(v).lower() if isinstance(v, bool) else v}" for key, v in more.items()]
    return "\n".join(
        [
            "[[backup.external]]",
            'name = "database password"',
            'where = "secret manager, keycairn/node2/db"',
            'how = "ask Ada to write it again"',
            f"check = '''{check}'''",
            *lines,
            "",
        ]
    )


def configure(node: Any, text: str) -> None:
    old = node.config.read_text()
    node.config.write_text(old.replace("[backup.policy]", text + "[backup.policy]", 1))


@pytest.fixture
def launched(node: Any) -> Any:
    """The node with a unit, a compose file and a certificate chain outside of its directory."""
    etc = node.operator / "etc"
    (etc / "systemd").mkdir(parents=True)
    (etc / "compose").mkdir()
    (etc / "systemd" / "keycairn.service").write_text(UNIT)
    (etc / "compose" / "compose.yaml").write_text(COMPOSE)
    (node.operator / "tls" / "cert.pem").write_text(CHAIN)
    text = node.config.read_text()
    node.config.write_text(text.replace("include = [", f'include = ["{etc}", ', 1))
    return node


async def plan(node: Any, bundle: Path, into: Path, **kw: Any) -> Any:
    given = {"identity": node.secret, "node_public_key": node.identity.public, **kw}
    return await plan_restore(bundle, into=into, clock=node.clock, rng=node.rng, **given)


async def test_an_empty_machine_and_nothing_but_bundle_identity_and_secret(
    launched: Any, tmp_path: Path
) -> None:
    node = launched
    there = node.operator / "reachable"
    configure(node, external(f"test -e {there}"))
    there.touch()
    row = await node.backup()
    await node.store.close()
    bundle = shutil.copy(row.location, tmp_path / "only.bundle")
    secret = shutil.copy2(node.operator / "master.key", tmp_path / "secret")
    shutil.rmtree(node.home)
    there.rename(tmp_path / "reachable")
    shutil.rmtree(node.operator)

    into = tmp_path / "new"
    dry = (await plan(node, bundle, into, secret_file=secret, dry_run=True)).to_json()
    assert not into.exists()
    assert dry["encryptor"] == {
        "kind": "keyfile",
        "source": "secret_file",
        "where": str(node.operator / "master.key"),
    }
    [item] = dry["external"]
    assert (item["name"], item["answer"]) == ("database password", "failed")
    assert item["how"] == "ask Ada to write it again"
    assert {Path(x["original"]).name for x in dry["launch"]} == {
        "keycairn.service",
        "compose.yaml",
        "start.sh",
    }
    assert [s["answer"] for s in dry["steps"] if s["name"] == "external items"] == ["warn"]

    # Step 2 of a real one refuses, and says what to do; nothing was written.
    with pytest.raises(KeycairnError) as refused:
        await plan(node, bundle, into, secret_file=secret)
    assert refused.value.code is Code.UNAVAILABLE
    assert "ask Ada" in refused.value.next
    assert "secret manager" in refused.value.message
    assert not into.exists()

    node.operator.mkdir()
    (tmp_path / "reachable").rename(there)
    result = await execute(await plan(node, bundle, into, secret_file=secret))
    assert result["proofs_ok"] is True
    assert [x["answer"] for x in result["external"]] == ["ok"]
    units = {Path(x["original"]).name: Path(x["file"]) for x in result["launch"]}
    assert units["keycairn.service"].read_text() == UNIT
    assert units["compose.yaml"].read_text() == COMPOSE
    assert (into / "files" / "api.tls_cert").read_text() == CHAIN
    findings = {f["words"] for f in result["findings"] if f["what"] == "launch file"}
    assert len(findings) == 3


async def test_launch_files_go_back_to_where_they_were_and_overwrite_nothing(
    launched: Any,
) -> None:
    node = launched
    row = await node.backup()
    await node.store.close()
    shutil.rmtree(node.home)
    etc = node.operator / "etc"
    (etc / "systemd" / "keycairn.service").unlink()
    (etc / "compose" / "compose.yaml").write_text("somebody's own")
    shutil.rmtree(node.operator / "launch")
    result = await execute(await plan(node, Path(row.location), node.home, put_back=True))
    assert (etc / "systemd" / "keycairn.service").read_text() == UNIT
    assert [p.name for p in (etc / "systemd").iterdir()] == ["keycairn.service"]
    assert (etc / "compose" / "compose.yaml").read_text() == "somebody's own"
    words = " ".join(f["words"] for f in result["findings"] if f["what"] == "launch file")
    assert "another file stands at" in words
    assert "launch is not on this machine" in words
    assert "keycairn.service" not in words


async def test_a_verification_runs_the_checks_of_a_known_signer_only(
    node: Any, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    configure(node, external(f"touch {ran}"))
    path = Path((await node.backup()).location)
    unknown = await verify_bundle(path, identity=node.secret, level="trial")
    assert not ran.exists()
    assert unknown.external[0].answer == "not_checked"
    assert any("database password" in point for point in unknown.not_checked)
    known = {"identity": node.secret, "node_public_key": node.identity.public}
    report = await verify_bundle(path, level="trial", checks=False, **known)
    assert not ran.exists()
    report = await verify_bundle(path, level="trial", opener=node.opener, **known)
    assert ran.exists()
    assert report.to_json()["verified"] is True


async def test_a_failed_check_is_no_verified_backup(node: Any) -> None:
    configure(node, external("false"))
    path = Path((await node.backup()).location)
    known = {"identity": node.secret, "node_public_key": node.identity.public}
    report = (await verify_bundle(path, level="trial", opener=node.opener, **known)).to_json()
    assert report["verified"] is False
    assert report["external"][0]["exit_code"] == 1
    assert "ask Ada to write it again" in {f["next"] for f in report["findings"]}


async def test_an_unknown_signer_is_refused_and_its_commands_do_not_run(
    node: Any, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    configure(node, external(f"touch {ran}"))
    path = Path((await node.backup()).location)
    into = tmp_path / "new"
    with pytest.raises(KeycairnError) as refused:
        await plan(node, path, into, node_public_key=None)
    assert refused.value.code is Code.POLICY
    assert node.identity.public.hex() in refused.value.message
    assert "--public-key" in refused.value.next
    dry = await plan(node, path, into, node_public_key=None, dry_run=True)
    assert {"signer", "external item"} <= {f.what for f in dry.findings}
    assert not ran.exists()
    # The mapping file may carry the pin, and then it must be the right one.
    ports = {f"{s}.listen": f"127.0.0.1:{p}" for s, p in (("api", 1), ("links", 2))}
    pinned = {"player.public_key": node.identity.public.hex(), **ports}
    assert (await plan(node, path, into, node_public_key=None, mapping=pinned)).external
    assert ran.exists()
    wrong = {"player.public_key": "11" * 32}
    with pytest.raises(KeycairnError) as other:
        await plan(node, path, into, node_public_key=None, mapping=wrong)
    assert other.value.code is Code.CONFLICT


# -- the commands ---------------------------------------------------------------------------------


def item(check: str, **more: Any) -> External:
    return External("x", "there", "so", check, **more)


def line(check: str, **more: Any) -> External:
    """For /bin/sh."""
    return replace(item(check, **more), shell=True)  # noqa: S604


async def check(one: External, **kw: Any) -> Any:
    [found] = await run_checks([one], environ={"PATH": "/usr/bin:/bin", **kw.pop("env", {})}, **kw)
    return found


async def test_the_exit_code_decides_and_the_output_is_shown() -> None:
    assert (await check(item("true"))).answer == "ok"
    found = await check(item("sh -c 'echo no such entry >&2; exit 3'"))
    assert (found.answer, found.exit_code, found.output) == ("failed", 3, "no such entry")
    assert (await check(item(""))).answer == "not_checked"
    missing = await check(item("/no/such/command --now"))
    assert (missing.answer, missing.exit_code) == ("failed", None)


async def test_no_shell_unless_asked(tmp_path: Path) -> None:
    made = tmp_path / "made"
    found = await check(item(f"echo hello > {made}; true"))
    assert found.output.startswith("hello >")
    assert not made.exists()
    await check(line(f"echo hello > {made}; true"))
    assert made.read_text() == "hello\n"


async def test_a_check_that_hangs_ends_with_all_its_children(tmp_path: Path) -> None:
    late = tmp_path / "late"
    found = await check(line(f"(sleep 2; touch {late}) & sleep 60", seconds=1))
    assert found.answer == "failed"
    assert "1 seconds" in found.words
    quick = await check(line("sleep 60 & echo done", seconds=1))
    assert quick.answer == "failed"  # It holds the output: nobody can say that it has ended.
    await asyncio.sleep(1.5)
    assert not late.exists()


async def test_floods_and_secrets_stay_out_of_the_output() -> None:
    secret = SecretBytes(b"canary-master-secret")
    found = await check(item("echo has canary-master-secret in it"), hidden=[secret])
    assert found.output == "has [hidden] in it"
    flood = await check(line("yes | head -c 3000000"))
    assert flood.answer == "ok"
    assert len(flood.output) <= 2000
    odd = await check(line("printf 'a\\033[2Jb'"))
    assert odd.output == "a?[2Jb"


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [{"name": "a", "where": "b"}],
        [{"name": "", "where": "b", "how": "c"}],
        [{"name": "a", "where": "b", "how": "c", "check": "'open"}],
        [{"name": "a", "where": "b", "how": "c", "check": "  "}],
        [{"name": "a", "where": "b", "how": "c", "shell": 1}],
        [{"name": "a", "where": "b", "how": "c", "seconds": 0}],
        [{"name": "a", "where": "b", "how": "c", "seconds": True}],
        [{"name": "a", "where": "b", "how": "c", "more": 1}],
        [{"name": "a", "where": "b", "how": "c"}] * 2,
    ],
)
def test_odd_items_are_refused_by_name(value: Any) -> None:
    with pytest.raises(KeycairnError) as caught:
        read_external(value)
    assert caught.value.code is Code.MALFORMED
