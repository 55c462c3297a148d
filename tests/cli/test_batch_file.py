"""``sign --batch``: what a file may hold."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from keycairn.cli.commands.sign import batch_items
from keycairn.client import Item
from keycairn.errors import Code, KeycairnError

D = "11" * 32
GOOD_LINE = json.dumps({"digest": D})
GOOD = [
    {"digest": D},
    {"digest": D, "path": "m/0/5"},
    {"message": "00ff"},
    {"message": "", "path": "m"},
]
ITEMS = [
    Item(digest=bytes.fromhex(D)),
    Item(digest=bytes.fromhex(D), path="m/0/5"),
    Item(message=b"\x00\xff"),
    Item(message=b"", path="m"),
]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        "  \n" + json.dumps(GOOD, indent=2),
        "\n".join(map(json.dumps, GOOD)),
        "\r\n\r\n".join(map(json.dumps, GOOD)) + "\n",
    ],
    ids=["array", "indented", "lines", "lines of another system"],
)
def test_array_or_lines(text: str) -> None:
    assert batch_items(text.encode()) == ITEMS


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[", ""),
        ("{", "line 1"),
        (GOOD_LINE + '\n{"digest":', "line 2"),
        (GOOD_LINE + GOOD_LINE, "line 1"),
        (f"[{GOOD_LINE},7]", "item 2"),
        ("7", "item 1"),
        ('"digest"', "item 1"),
        ("null", "item 1"),
        ("{}", "item 1"),
        (GOOD_LINE[:-1] + ',"message":"00"}', "item 1"),
        (GOOD_LINE[:-1] + f',"digest":"{D}"}}', "line 1"),
        ('{"digest":"00"}', "item 1"),
        ('{"digest":7}', "item 1"),
        ('{"message":"0"}', "item 1"),
        ('{"message":"AA"}', "item 1"),
        ('{"message":"00","path":7}', "item 1"),
        ('{"message":"00","path":["m"]}', "item 1"),
        ('{"message":"00","path":"m/0\'"}', "item 1"),
        ('{"message":"00","extra":1}', "item 1"),
        ('{"message":"00","path":1.5}', "line 1"),
        ("[" * 100_000, ""),
    ],
)
def test_T040_T042_what_is_refused_is_named(text: str, place: str) -> None:
    with pytest.raises(KeycairnError) as caught:
        batch_items(text.encode())
    assert caught.value.code is Code.MALFORMED
    assert place in caught.value.message


@pytest.mark.parametrize(
    "words",
    [
        ["--digest", D],
        ["--message", "00"],
        ["--message-file", "x"],
        ["--path", "m/0"],
        ["--presignature", "00"],
    ],
)
def test_batch_stands_alone(keycairn: Callable[..., Any], tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "batch"
    file.write_text(json.dumps(GOOD))
    ran = keycairn("sign", "K", "--batch", file, *words, "--vault", "x", "--json")
    assert (ran.code, ran.error) == (2, "E_MALFORMED")
    assert "--batch" in ran.json["error"]["message"]


def test_standard_input_is_limited(keycairn: Callable[..., Any]) -> None:
    class Stdin:
        buffer = io.BytesIO(b" " * ((1 << 20) + 1))

    with patch("sys.stdin", Stdin):
        ran = keycairn("sign", "K", "--batch", "-", "--vault", "x", "--json")
    assert (ran.code, ran.error) == (2, "E_TOO_LARGE")
