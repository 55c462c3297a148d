"""The two byte forms: one rendering each, everything else refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ers.helpers import document_of, make_key, part_of, refused
from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.ers.context import check_label
from keycairn.ers.document import Document, Part, looks_like_document
from keycairn.ers.verify import verify_document

KEYS = [
    make_key("key-a"),
    make_key("key-b", "ed25519", chain_code=False),
    make_key("key-p", "p256"),
]
KIT_1 = Path(__file__).with_name("kit")
SCHEMA = Path(__file__).parents[2] / "docs" / "ers-document.schema.json"


@pytest.fixture(scope="module")
def document(rsa_key) -> Document:
    return document_of(KEYS, rsa_key().public, (1, 2), label='hé "ü" \u1234\U0001f600')


def test_both_forms_round_trip_and_name_the_same_document(document: Document) -> None:
    for data in (document.to_json(), document.to_cbor()):
        again = Document.load(data)
        assert again == document
        assert again.sha256 == document.sha256
        assert again.to_json() == document.to_json()
        assert looks_like_document(data[:64])
    for part in document.parts:
        assert Part.from_cbor(part.to_cbor()) == part
        assert looks_like_document(part.to_cbor()[:64])
    assert document.file_name() == f"ers-vault-1-{document.sha256[:12]}.json"
    assert document.file_name("cbor").endswith(".cbor")


def test_order_of_parts_does_not_matter(document: Document) -> None:
    assert Document(document.parts[::-1]).to_cbor() == document.to_cbor()


def test_json_form_fits_the_published_schema(document: Document) -> None:
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))
    value = json.loads(document.to_json())
    validator.validate(value)
    changed = json.loads(document.to_json())
    changed["parts"][0]["context"]["extra"] = 1
    assert not validator.is_valid(changed)
    for change in ({"version": 1}, {"version": 3}):
        assert not validator.is_valid({**value, **change})
    for part in value["parts"]:
        part["context"]["version"] = 1
    assert not validator.is_valid({**value, "version": 1})  # no P-256 in version 1
    for part in value["parts"]:
        del part["context"]["keys"][2]
    assert validator.is_valid({**value, "version": 1})
    assert validator.is_valid(json.loads((KIT_1 / "all.json").read_bytes()))


def test_json_form_is_readable(document: Document) -> None:
    context = json.loads(document.to_json())["parts"][0]["context"]
    assert context["keys"][0]["public_key"] == KEYS[0].statement.public_key.hex()
    assert context["keys"][0]["key_id"] == "key-a"
    assert context["label"].startswith("hé")


def test_other_renderings_are_refused(document: Document) -> None:
    text = document.to_json().decode()
    value = json.loads(text)
    for other in (
        json.dumps(value, sort_keys=True),
        json.dumps(value, indent=2),
        json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n",
        text + "\n",
        text[:-1],
        " " + text,
        text.replace('"version": 2', '"version": 2.0'),
        text.replace('"version": 2', '"version": true'),
        text.replace('"version": 2', '"version": 3'),
        text.replace('"version": 2', '"version": 1'),
        text.replace('\n  "version": 2', '\n  "version": 1'),
        text.replace("\\u00e9", "\\u00E9"),
        text.replace('{\n  "format"', '{\n  "format": "keycairn-ers",\n  "format"', 1),
        text.replace("=", "", 1),
    ):
        assert other != text
        refused(lambda o=other: Document.load(o.encode()))


def test_other_cbor_is_refused(document: Document) -> None:
    data = document.to_cbor()
    item = decode_cbor(data)
    for change in (
        {"version": 1}, {"version": 3}, {"format": "x"}, {"parts": []}, {"parts": None},
        {"extra": 1},
        {"parts": item["parts"][::-1]}, {"parts": item["parts"] + item["parts"][:1]},
        {"parts": [item["parts"][0] | {"x": b""}]}, {"parts": [item["parts"][0] | {"e": b""}]},
        {"parts": [item["parts"][0] | {"context": b""}]}, {"parts": [b"x"]},
    ):  # fmt: skip
        other = canonical_cbor({**item, **change})
        refused(lambda o=other: Document.load(o))
    for other in (data + b"\0", data[:-1], b"", b"\xa0", b"\xff" * 50, b"\x9b" + b"\xff" * 8,
                  b"{", b"{}", b"[" * 100_000, b"{" * 100_000):  # fmt: skip
        refused(lambda o=other: Document.load(o))
        refused(lambda o=other: Part.from_cbor(o))


def test_contexts_with_bad_fields_are_refused(document: Document) -> None:
    part = decode_cbor(document.parts[0].to_cbor())
    context = decode_cbor(part["context"])
    key = context["keys"][0]

    def with_key(position: int, value: object) -> dict[str, object]:
        changed = list(key)
        changed[position] = value
        return {"keys": [changed, *context["keys"][1:]]}

    changes = [
        {"version": 3}, {"version": 0}, {"version": 1}, {"version": True},
        {"hash": "sha512"}, {"format": "x"}, {"params": 1},
        {"node": 0}, {"node": 4}, {"node": 256}, {"node": True}, {"node": "1"}, {"salt": b""},
        {"label": 5}, {"label": "\x00"}, {"vault": ""}, {"vault": "a b"}, {"vault": "é"},
        {"k_point": b""}, {"rsa_spki": b""}, {"rsa_spki": "x"}, {"keys": []}, {"keys": {}},
        {"keys": [key, key]}, {"keys": [key[:-1]]}, {"keys": [[]]}, {"keys": [None]},
        {"rsa_spki": context["rsa_spki"] + b"\0"},
        with_key(0, ""), with_key(0, "x" * 129), with_key(1, "p384"), with_key(1, 7),
        with_key(1, ["secp256k1"]), with_key(2, None), with_key(4, 0), with_key(4, 3),
        with_key(4, True), with_key(5, []), with_key(5, [1, 1, 2]), with_key(5, [3, 2, 1]),
        with_key(5, [0, 1, 2]), with_key(5, [1, 2, 256]), with_key(5, "123"), with_key(6, b""),
        with_key(7, key[7][:2]), with_key(7, [*key[7], key[7][0]]), with_key(7, None),
        with_key(8, 0), with_key(8, -1), with_key(8, 1 << 60), with_key(9, b""),
        with_key(9, False), with_key(10, b"x"), with_key(10, None),
    ]  # fmt: skip
    for change in changes:
        raw = canonical_cbor({**part, "context": canonical_cbor({**context, **change})})
        refused(lambda r=raw: Part.from_cbor(r))
        with pytest.raises(Exception, match="E_ERS_INVALID"):
            verify_document(Document((Part.from_cbor(raw),)))


@given(st.text(max_size=60))
def test_labels_never_hold_what_a_terminal_obeys(label: str) -> None:
    try:
        check_label(label)
    except Exception as exc:
        assert "E_ERS_INVALID" in str(exc)  # noqa: PT017
    else:
        assert not any(ch in label for ch in "\x00\x1b\n\r\x7f\x9b\u202e\u2066\u200b\ufeff")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_t113_random_bytes_never_crash_the_decoders(data: bytes) -> None:
    refused(lambda: Document.load(data))
    refused(lambda: Document.load(b"{" + data))
    refused(lambda: Document.load(b"\xa3eparts" + data))
    refused(lambda: Part.from_cbor(b"\xa6aeX " + data))


def test_sizes_meet_the_targets(rsa_key) -> None:
    rsa = rsa_key().public
    assert max(part_of(KEYS[:1], i, rsa).proof_size for i in (1, 2, 3)) <= 24_000
    assert part_of(KEYS[:1], 1, rsa, params="balanced").proof_size <= 17_000
