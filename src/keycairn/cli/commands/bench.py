"""``keycairn bench``: figures of this machine, in ratios that hold on others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import command, group, whole
from keycairn.cli.output import output
from keycairn.errors import Code, KeycairnError, malformed

_FAILED = 1
SchemeOption = Annotated[
    str | None, typer.Option("--scheme", help="ecdsa or schnorr; default: both")
]
CurveOption = Annotated[
    str | None, typer.Option("--curve", help="secp256k1, p256 or ed25519; default: all")
]
SignersOption = Annotated[
    int, typer.Option("--signers", parser=whole, help="t+1, 2 to 16: all of them sign")
]
CountOption = Annotated[int, typer.Option("--count", parser=whole, help="signatures, 1 to 10000")]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="compare with the baseline; exit 1 if a ratio is twice as bad"),
]
BaselineOption = Annotated[
    Path | None, typer.Option("--baseline", help="another baseline than the one shipped")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    bench = group("bench", "Measure this machine: protocols, primitives, and a whole vault.")
    app.add_typer(bench)
    _protocols(bench)
    _others(bench)
    _system(bench)


def _protocols(bench: typer.Typer) -> None:
    @command(bench, "presign")
    def presign(
        signers: SignersOption = 2,
        batch: Annotated[
            str, typer.Option("--batch", help="batch sizes, like 1,16,100")
        ] = "1,16,100",
        curve: CurveOption = None,
        check: CheckOption = False,
        baseline: BaselineOption = None,
    ) -> int:
        """Processor time of one party for presignatures of threshold ECDSA."""
        from keycairn.cli.bench import suite

        sizes = _sizes(batch, "--batch", 256)
        _limits(signers=signers)
        found = suite.kinds("ecdsa", curve)
        return _report(suite.presign(found, signers, sizes), check, baseline)

    @command(bench, "sign")
    def sign(
        scheme: SchemeOption = None,
        curve: CurveOption = None,
        signers: SignersOption = 2,
        count: CountOption = 50,
        check: CheckOption = False,
        baseline: BaselineOption = None,
    ) -> int:
        """Processor time of one party for a signature: from the pool, and in a whole session."""
        from keycairn.cli.bench import suite

        _limits(signers=signers, count=count)
        found = suite.kinds(scheme, curve)
        return _report(suite.sign(found, signers, count), check, baseline)

    @command(bench, "frost")
    def frost(
        curve: CurveOption = None,
        signers: SignersOption = 2,
        count: CountOption = 100,
        check: CheckOption = False,
        baseline: BaselineOption = None,
    ) -> int:
        """Processor time of one party for FROST: nonces, and signatures with and without."""
        from keycairn.cli.bench import suite

        _limits(signers=signers, count=count)
        found = suite.kinds("schnorr", curve)
        return _report(suite.frost(found, signers, count), check, baseline)

    @command(bench, "dkg")
    def dkg(
        scheme: SchemeOption = None,
        curve: CurveOption = None,
        nodes: Annotated[int, typer.Option("--nodes", parser=whole, help="holders, 2 to 32")] = 3,
        threshold: Annotated[int, typer.Option("--threshold", parser=whole, help="t")] = 1,
        batch: Annotated[str, typer.Option("--batch", help="keys of a session, like 1,100")] = (
            "1,100"
        ),
        check: CheckOption = False,
        baseline: BaselineOption = None,
    ) -> int:
        """Processor time of one node for key generation."""
        from keycairn.cli.bench import suite

        if not (2 <= nodes <= 32 and 1 <= threshold < nodes):
            raise malformed("--nodes must be 2 to 32 and --threshold 1 to one less than that")
        sizes = _sizes(batch, "--batch", 1000)
        found = suite.kinds(scheme, curve)
        return _report(suite.keygen(found, nodes, threshold, sizes), check, baseline)

    @command(bench, "setup")
    def setup(check: CheckOption = False, baseline: BaselineOption = None) -> int:
        """Processor time of one player for the base OTs of a pair."""
        from keycairn.cli.bench import dkg

        return _report((dkg.setup(runs) for runs in (9,)), check, baseline)


def _others(bench: typer.Typer) -> None:
    @command(bench, "micro")
    def micro(scheme: SchemeOption = None, curve: CurveOption = None) -> int:
        """Microseconds of the library calls that everything else is made of."""
        from keycairn.cli.bench import suite
        from keycairn.cli.bench.primitives import primitives

        found = suite.kinds(scheme, curve)
        rows = (
            {"what": "primitives", "scheme": s, "curve": c, "microseconds": primitives(s, c)}
            for s, c in found
        )
        return _report(rows, False, None)

    @command(bench, "all")
    def everything(
        quick: Annotated[
            bool, typer.Option("--quick", help="only what has a target; a few seconds")
        ] = False,
        check: CheckOption = False,
        baseline: BaselineOption = None,
        write_baseline: Annotated[
            Path | None, typer.Option("--write-baseline", help="write a new baseline")
        ] = None,
    ) -> int:
        """All protocols, as a release is judged by; with --check against a baseline."""
        from keycairn.cli.bench import suite

        return _report(suite.everything(quick=quick), check, baseline, write_baseline)

    @command(bench, "ers")
    def ers(
        keys: Annotated[str, typer.Option("--keys", help="batch sizes, like 1,100")] = "1,100",
        params: Annotated[
            str, typer.Option("--params", help="fast, balanced or compact")
        ] = "balanced",
        rsa_bits: Annotated[
            int, typer.Option("--rsa-bits", parser=whole, help="2048, 3072 or 4096")
        ] = 3072,
        curve: CurveOption = None,
    ) -> int:
        """Time of one node's part of a document, proving and verifying, and its size."""
        from keycairn.cli.bench import ers as figures
        from keycairn.cli.bench import suite
        from keycairn.ers.params import TABLE

        sizes = _sizes(keys, "--keys", 100_000)
        if rsa_bits not in (2048, 3072, 4096):
            raise malformed("--rsa-bits must be 2048, 3072 or 4096")
        if params not in TABLE:
            raise malformed("--params must be fast, balanced or compact")
        curves = list(dict.fromkeys(c for _, c in suite.kinds(None, curve)))
        spki = figures.rsa_spki(rsa_bits)
        rows = (figures.ers(c, size, params, spki) for c in curves for size in sizes)
        return _report(rows, False, None)


def _system(bench: typer.Typer) -> None:
    @command(bench, "system")
    def system(
        what: Annotated[
            str, typer.Option("--what", help="sign, or create: keys in batches")
        ] = "sign",
        scheme: Annotated[str, typer.Option("--scheme", help="ecdsa or schnorr")] = "ecdsa",
        curve: CurveOption = None,
        seconds: Annotated[
            int, typer.Option("--seconds", parser=whole, help="how long, 1 to 3600")
        ] = 10,
        concurrency: Annotated[
            int, typer.Option("--concurrency", parser=whole, help="open requests, 1 to 256")
        ] = 1,
        batch: Annotated[
            int, typer.Option("--batch", parser=whole, help="keys of one creation, 1 to 1000")
        ] = 100,
        items: Annotated[
            int, typer.Option("--items", parser=whole, help="signatures of one request, 1 to 100")
        ] = 1,
        pool: Annotated[
            int,
            typer.Option(
                "--pool", parser=whole, help="stock to begin with, to 1000; 0: as init has it"
            ),
        ] = 0,
        nodes: Annotated[int, typer.Option("--nodes", parser=whole, help="2 to 9")] = 3,
        threshold: Annotated[int, typer.Option("--threshold", parser=whole, help="t")] = 1,
        database: Annotated[
            str,
            typer.Option(
                "--database",
                help="URL of each node's empty database on a server, {node} for its number",
            ),
        ] = "sqlite:///data/node.db",
        password_env: Annotated[
            str | None,
            typer.Option(
                "--database-password-env",
                help="environment variable with its password, {node} for the number",
            ),
        ] = None,
        link: Annotated[str, typer.Option("--link", help="direct")] = "direct",
    ) -> int:
        """A vault of real processes in a temporary directory, and one client that keeps asking."""
        from keycairn.cli.bench import suite
        from keycairn.cli.bench.system import Plan
        from keycairn.cli.bench.system import system as measure

        _only("--link", link, "direct")
        if what not in ("sign", "create"):
            raise malformed("--what must be sign or create")
        if scheme not in ("ecdsa", "schnorr"):
            raise malformed("--scheme must be ecdsa or schnorr")
        if not (1 <= seconds <= 3600 and 1 <= concurrency <= 256 and 1 <= batch <= 1000):
            raise malformed(
                "--seconds must be 1 to 3600, --concurrency 1 to 256 and --batch 1 to 1000"
            )
        if not (1 <= items <= 100 and 0 <= pool <= 1000):
            raise malformed("--items must be 1 to 100 and --pool 0 to 1000")
        if not (2 <= nodes <= 9 and 1 <= threshold < nodes):
            raise malformed("--nodes must be 2 to 9 and --threshold 1 to one less than that")
        # A scheme's usual curve, unless one is named: secp256k1, Ed25519 for Schnorr.
        kind = suite.kinds(scheme, curve)[0]
        plan = Plan(
            what,
            *kind,
            seconds,
            concurrency,
            nodes,
            threshold,
            batch,
            items,
            pool,
            database,
            password_env,
        )
        return _report((asyncio.run(measure(p)) for p in (plan,)), False, None)

    @command(bench, "populate")
    def populate(
        directory: Annotated[Path, typer.Argument(help="a vault that init made; stopped")],
        keys: Annotated[
            int, typer.Option("--keys", parser=whole, help="how many, 1 to 10000000")
        ] = 1000,
        scheme: Annotated[str, typer.Option("--scheme", help="ecdsa or schnorr")] = "ecdsa",
        curve: CurveOption = None,
    ) -> int:
        """Deal many keys into the databases of a vault that is only for measuring.

        Each node's node.toml must say profile = "test" under [vault]: whoever deals keys knows
        them all.
        """
        from keycairn.cli.bench import suite
        from keycairn.cli.bench.populate import populate as deal
        from keycairn.ports.system import SystemClock, SystemRng

        if not 1 <= keys <= 10_000_000:
            raise malformed("--keys must be 1 to 10000000")
        kind = suite.kinds(scheme, curve)[0]
        configs = sorted(directory.glob("node*/node.toml"))
        work = deal(configs, keys, SystemClock(), SystemRng(), scheme=kind[0], curve=kind[1])
        return _report((asyncio.run(work) for _ in (0,)), False, None)


def _report(
    rows: Iterable[dict[str, Any]],
    check: bool,
    baseline: Path | None,
    write: Path | None = None,
) -> int:
    """Make the rows, print them, and say whether they hold."""
    from keycairn.cli.bench import baseline as baselines
    from keycairn.cli.bench.machine import machine
    from keycairn.ports.system import SystemClock

    known = baselines.load(baseline) if check else None
    with output.working("measuring"):
        results = list(rows)
    here = machine()
    answer: dict[str, Any] = {"machine": here, "results": results}
    if write is not None:
        write.write_text(baselines.text(results, here, SystemClock()), "utf-8")
    if known is None:
        output.result(answer)
        return 0
    verdicts = baselines.compare(results, known)
    worse = [v["name"] for v in verdicts if not v["ok"]]
    checked = {"baseline": known["made"], "ok": not worse, "rows": verdicts}
    output.result(answer | {"check": checked})
    if worse:
        output.note(f"slower than half the speed that is asked for: {'; '.join(worse)}")
    return _FAILED if worse or not verdicts else 0


def _sizes(text: str, option: str, most: int) -> list[int]:
    words = text.split(",")
    if not all(w.isascii() and w.isdigit() and 1 <= int(w) <= most for w in words):
        raise malformed(f"{option} takes numbers from 1 to {most} with commas between them")
    return [int(w) for w in words]


def _limits(*, signers: int, count: int = 1) -> None:
    if not 2 <= signers <= 16:
        raise malformed("--signers must be 2 to 16")
    if not 1 <= count <= 10_000:
        raise malformed("--count must be 1 to 10000")


def _only(option: str, value: str, available: str) -> None:
    """Refuse what this version does not have yet, by a word that says so."""
    if value != available:
        raise KeycairnError(
            Code.MALFORMED,
            f"{option} {value} is not available in this version",
            next=f"{option} {available}",
            detail={"available": [available]},
        )
