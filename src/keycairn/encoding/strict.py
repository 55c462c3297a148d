"""Strict decoders: limits before parsing, one canonical form, typed errors (R-51)."""

from __future__ import annotations

import io
import json
import re
from typing import Any, NoReturn

import cbor2

from keycairn.errors import Code, KeycairnError

MAX_BODY = 1 << 20
MAX_DEPTH = 32
MAX_STRING = 4096
MAX_INT = 1 << 63

_HEX = re.compile(r"(?:[0-9a-f]{2})*\Z")
_INT_DIGITS = 20
#: Brackets, and whole strings (so that brackets inside are skipped). Possessive by form: a string
#: is runs without quote and backslash, or escapes; no input makes it backtrack.
_STRUCTURE = re.compile(rb'[][{}]|"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def _bad(message: str, code: Code = Code.MALFORMED, **detail: Any) -> NoReturn:
    raise KeycairnError(code, message, detail=detail)


def decode_hex(text: object, *, length: int | None = None, what: str = "value") -> bytes:
    """Lower-case hex to bytes; nothing else (no ``0x``, spaces, upper case, Unicode digits).

    Raises:
        KeycairnError: E_MALFORMED when it is not such text, or not ``length`` bytes.
    """
    if not isinstance(text, str) or not _HEX.match(text):
        _bad(f"{what} must be lower-case hexadecimal", field=what)
    raw = bytes.fromhex(text)
    if length is not None and len(raw) != length:
        _bad(f"{what} must be {length} bytes, got {len(raw)}", field=what)
    return raw


def _check_depth(data: bytes, limit: int) -> None:
    # Counts brackets outside strings, so that the parser never recurses deeper than the limit.
    depth = 0
    for match in _STRUCTURE.finditer(data):
        mark = match.group()
        if mark in b"[{":
            depth += 1
            if depth > limit:
                _bad(f"nested deeper than {limit}")
        elif mark in b"]}":
            depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            # Escaped: the key may hold lone surrogates, which no answer could carry.
            _bad("duplicate key in a JSON object", key=ascii(key[:64])[1:-1])
        out[key] = value
    return out


def _integer(text: str) -> int:
    if len(text) > _INT_DIGITS:
        _bad("integer too large")
    value = int(text)
    if not -MAX_INT <= value <= MAX_INT:
        _bad("integer too large")
    return value


def _no_constant(text: str) -> NoReturn:
    _bad(f"{text} is not JSON")


def _check_strings(value: Any, limit: int) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if len(item) > limit:
                _bad(f"string longer than {limit} characters", Code.TOO_LARGE)
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                _bad("string holds lone surrogates")
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())


def decode_json(data: bytes, *, max_bytes: int = MAX_BODY, max_string: int = MAX_STRING) -> Any:
    """Parse JSON from outside.

    Limits are checked before parsing: size, nesting depth (32). Duplicate keys, NaN, Infinity,
    integers beyond 2^63, floats, strings over ``max_string`` and lone surrogates are refused.

    Raises:
        KeycairnError: E_TOO_LARGE or E_MALFORMED.
    """
    if len(data) > max_bytes:
        _bad(f"body larger than {max_bytes} bytes", Code.TOO_LARGE)
    _check_depth(data, MAX_DEPTH)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_pairs,
            parse_int=_integer,
            parse_float=lambda _: _bad("floating-point numbers are not accepted"),
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as exc:
        raise KeycairnError(Code.MALFORMED, "not valid JSON") from exc
    _check_strings(value, max_string)
    return value


def canonical_json(value: Any) -> bytes:
    """The one JSON rendering: sorted keys, no spaces, UTF-8, integers only for numbers."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def canonical_cbor(value: Any) -> bytes:
    """Canonical CBOR (RFC 8949 section 4.2.3 as cbor2 does it: length-first map keys)."""
    return cbor2.dumps(value, canonical=True)


def _cbor_plain(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        _bad(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                _bad("CBOR map keys must be text")
            _cbor_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _cbor_plain(item, depth + 1)
    elif isinstance(value, int) and not -(1 << 64) <= value < 1 << 64:
        # Beyond 64 bits an integer is tagged (a bignum), and tags are not used here.
        _bad("integer too large")
    elif not (value is None or isinstance(value, (bytes, str, bool, int))):
        _bad("CBOR item of a type that is not used here")


def decode_cbor(data: bytes, *, max_bytes: int = 1 << 30) -> Any:
    """Parse canonical CBOR of maps (text keys), lists, bytes, text, integers, booleans, null.

    Anything that would not re-encode to the very same bytes is refused: duplicate or unsorted
    keys, non-minimal integers, indefinite lengths, tags, floats, trailing bytes.

    Raises:
        KeycairnError: E_TOO_LARGE or E_MALFORMED.
    """
    if len(data) > max_bytes:
        _bad(f"more than {max_bytes} bytes", Code.TOO_LARGE)
    stream = io.BytesIO(data)
    try:
        value = cbor2.load(
            stream, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
        )
        trailing = stream.tell() != len(data)
        _cbor_plain(value, 0)
        if trailing or canonical_cbor(value) != data:
            _bad("CBOR is not in canonical form")
    except KeycairnError:
        raise
    # cbor2 raises its own error and, on odd input, ValueError, TypeError, OverflowError …
    except Exception as exc:
        raise KeycairnError(Code.MALFORMED, "not valid CBOR") from exc
    return value
