"""``keycairn bench``: figures of this machine. Protocols run in this process, without network."""

from __future__ import annotations

from typing import Annotated

import typer

from keycairn.cli.options import command, group, whole
from keycairn.cli.output import output
from keycairn.errors import malformed
from keycairn.ers.params import TABLE


def register(app: typer.Typer) -> None:
    """Add the group."""
    bench = group("bench", "Measure this machine. (dkg and system come with later versions.)")
    app.add_typer(bench)

    @command(bench, "sign")
    def sign(
        scheme: Annotated[
            str | None, typer.Option("--scheme", help="ecdsa or schnorr; default: both")
        ] = None,
        signers: Annotated[int, typer.Option("--signers", parser=whole, help="t+1, 2 to 16")] = 2,
        count: Annotated[
            int, typer.Option("--count", parser=whole, help="signatures, 1 to 10000")
        ] = 20,
    ) -> None:
        """Time to sign per party, waiting not counted; ECDSA with its presigning, setups not."""
        from keycairn.cli.figures import SCHEMES, bench_sign, machine

        if scheme is not None and scheme not in SCHEMES:
            raise malformed("--scheme must be ecdsa or schnorr")
        if not (2 <= signers <= 16 and 1 <= count <= 10_000):
            raise malformed("--signers must be 2 to 16 and --count 1 to 10000")
        wanted = [scheme] if scheme is not None else list(SCHEMES)
        with output.working("signing"):
            results = [bench_sign(s, signers, count) for s in wanted]
        output.result({"machine": machine(), "results": results})

    @command(bench, "presign")
    def presign(
        signers: Annotated[int, typer.Option("--signers", parser=whole, help="t+1, 2 to 16")] = 2,
        batch: Annotated[
            str, typer.Option("--batch", help="batch sizes, like 1,16,100")
        ] = "1,16,100",
    ) -> None:
        """Processor time of one party for threshold ECDSA, in ratios to primitives."""
        from keycairn.cli.figures import bench_presign, machine

        words = batch.split(",")
        if not all(w.isascii() and w.isdigit() and 1 <= int(w) <= 256 for w in words):
            raise malformed("--batch takes numbers from 1 to 256 with commas between them")
        if not 2 <= signers <= 16:
            raise malformed("--signers must be 2 to 16")
        with output.working("presigning"):
            results = bench_presign(signers, [int(w) for w in words])
        output.result({"machine": machine(), "results": results})

    @command(bench, "ers")
    def ers(
        keys: Annotated[str, typer.Option("--keys", help="batch sizes, like 1,100")] = "1,100",
        params: Annotated[
            str, typer.Option("--params", help="fast, balanced or compact")
        ] = "balanced",
        rsa_bits: Annotated[
            int, typer.Option("--rsa-bits", parser=whole, help="2048, 3072 or 4096")
        ] = 3072,
        curve: Annotated[
            str | None, typer.Option("--curve", help="secp256k1 or ed25519; default: both")
        ] = None,
    ) -> None:
        """Time of one node's part of a document, proving and verifying, and its size."""
        from keycairn.cli.figures import SCHEMES, bench_ers, machine, rsa_spki

        words = keys.split(",")
        if not all(w.isascii() and w.isdigit() and 1 <= int(w) <= 1000 for w in words):
            raise malformed("--keys takes numbers from 1 to 1000 with commas between them")
        if rsa_bits not in (2048, 3072, 4096):
            raise malformed("--rsa-bits must be 2048, 3072 or 4096")
        if params not in TABLE:
            raise malformed("--params must be fast, balanced or compact")
        curves = list(SCHEMES.values()) if curve is None else [curve]
        with output.working("proving and verifying"):
            spki = rsa_spki(rsa_bits)
            results = [bench_ers(c, int(w), params, spki) for c in curves for w in words]
        output.result({"machine": machine(), "results": results})
