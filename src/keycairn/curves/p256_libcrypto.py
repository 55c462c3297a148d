"""P-256 point multiplication by the system's libcrypto: an accelerator, never a requirement.

The OpenSSL inside the ``cryptography`` wheel exports no point arithmetic, but most machines have
an OpenSSL of their own: CPython's ``_hashlib`` is linked with it. ``EC_POINT_mul`` called through
ctypes multiplies three to four times faster than the wheel's two ECDH calls, and the generator
twice as fast as the wheel's key object (:mod:`keycairn.curves.p256`).

That library is not a pinned dependency. So it is used only after :func:`self_test` has compared
it with the wheel in this very process, and without it, or if it fails, nothing is missing but
speed.

Constant time: ``EC_POINT_mul`` of one point takes, in every OpenSSL since 1.1.1, either the
``nistz256`` code (fixed windows, table look-ups that touch the whole table) or a Montgomery
ladder; of the generator the same, with a fixed table. Neither looks at the scalar's bits. The
number of machine words of the scalar shows (a scalar below 2^192, one in 2^64). This is what
OpenSSL's authors claim, not what was measured here.

Threads: every thread has its own numbers, points and BN_CTX; the EC_GROUP, read only once made,
is shared. Errors: OpenSSL keeps its errors in a queue of the thread which ``ssl`` reads too;
whoever leaves one behind breaks somebody else's connection, so every failure here clears it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from keycairn.errors import KeycairnError
from keycairn.ports import Rng, randbelow

_NID = 415  # NID_X9_62_prime256v1
_FORM = 4  # POINT_CONVERSION_UNCOMPRESSED
_LEN = 65
#: Names with a version: macOS ends a process that opens libcrypto without one.
_NAMES = ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.3.dylib", "libcrypto.4.dylib")

_P = ctypes.c_void_p


class LibcryptoError(Exception):
    """libcrypto refused its input, or ran out of memory."""


class Libcrypto:
    """The few functions used here, bound with their types.

    Raises:
        LibcryptoError: the library lacks a function, or P-256.
    """

    def __init__(self, library: Any) -> None:
        def bind(name: str, result: Any, *arguments: Any) -> Any:
            try:
                function = getattr(library, name)
            except AttributeError as exc:
                raise LibcryptoError(f"libcrypto has no {name}") from exc
            function.restype, function.argtypes = result, arguments
            return function

        ok, data, size = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
        group_new = bind("EC_GROUP_new_by_curve_name", _P, ctypes.c_int)
        self.point_new = bind("EC_POINT_new", _P, _P)
        self.point_free = bind("EC_POINT_clear_free", None, _P)
        self._point_mul = bind("EC_POINT_mul", ok, _P, _P, _P, _P, _P, _P)
        self._decode = bind("EC_POINT_oct2point", ok, _P, _P, data, size, _P)
        self._encode = bind("EC_POINT_point2oct", size, _P, _P, ctypes.c_int, data, size, _P)
        self.number_new = bind("BN_new", _P)
        self.number_free = bind("BN_clear_free", None, _P)
        self._number_set = bind("BN_bin2bn", _P, data, ctypes.c_int, _P)
        self._number_clear = bind("BN_clear", None, _P)
        self.ctx_new = bind("BN_CTX_new", _P)
        self.ctx_free = bind("BN_CTX_free", None, _P)
        self._clear_errors = bind("ERR_clear_error", None)
        self._peek_error = bind("ERR_peek_error", ctypes.c_ulong)
        self.group = made(group_new(_NID))
        self._threads = threading.local()

    def mul(self, point: bytes | None, scalar: bytes) -> bytes | None:
        """``scalar * point``, constant time in the scalar as the module's text says.

        Args:
            point: 65 bytes, uncompressed SEC1; None is the generator.
            scalar: 32 bytes, big-endian.

        Returns:
            65 bytes, or None for the identity.

        Raises:
            LibcryptoError: the bytes are no point of P-256, or libcrypto failed.
        """
        if (point is not None and len(point) != _LEN) or len(scalar) != 32:
            raise LibcryptoError("a point is 65 bytes and a scalar 32")
        own = self._scratch()
        try:
            if not self._number_set(scalar, 32, own.number):
                raise LibcryptoError("no memory for a number")
            numbers: tuple[int | None, int | None, int | None]  # k for G; a point, k for it
            if point is None:
                numbers = own.number, None, None
            else:
                # Checks both coordinates and the curve equation.
                if self._decode(self.group, own.point, point, _LEN, own.ctx) != 1:
                    raise LibcryptoError("not a point of P-256")
                numbers = None, own.point, own.number
            if self._point_mul(self.group, own.result, *numbers, own.ctx) != 1:
                raise LibcryptoError("the multiplication failed")
            size = self._encode(self.group, own.result, _FORM, own.buffer, _LEN, own.ctx)
            if size not in (1, _LEN):  # the identity is one zero byte
                raise LibcryptoError("the result has no encoding")
            return own.buffer.raw if size == _LEN else None
        except LibcryptoError:
            self._clear_errors()
            raise
        finally:
            self._number_clear(own.number)

    def errors_left(self) -> bool:
        """Whether this thread's error queue holds anything."""
        return bool(self._peek_error())

    def _scratch(self) -> _Scratch:
        try:
            own: _Scratch = self._threads.scratch
        except AttributeError:
            own = self._threads.scratch = _Scratch(self)
        return own


class _Scratch:
    """One thread's objects; wiped and freed when the thread ends."""

    def __init__(self, lib: Libcrypto) -> None:
        self._free: list[tuple[Callable[[int], None], int]] = []
        self.ctx = self._keep(lib.ctx_new(), lib.ctx_free)
        self.number = self._keep(lib.number_new(), lib.number_free)
        self.point = self._keep(lib.point_new(lib.group), lib.point_free)
        self.result = self._keep(lib.point_new(lib.group), lib.point_free)
        self.buffer = ctypes.create_string_buffer(_LEN)

    def _keep(self, pointer: int | None, free: Callable[[int], None]) -> int:
        self._free.append((free, made(pointer)))
        return self._free[-1][1]

    def __del__(self) -> None:
        for free, pointer in self._free:
            free(pointer)


def made(pointer: int | None) -> int:
    """A pointer that libcrypto gave, or LibcryptoError if it gave none."""
    if not pointer:
        raise LibcryptoError("libcrypto lacks P-256, or memory")
    return pointer


def _libraries() -> Iterator[Any]:
    # PyDLL and not CDLL: a call of some 50 us is not worth giving up the interpreter lock, which
    # a busy thread gives back only after milliseconds.
    own = None
    with contextlib.suppress(ImportError):
        own = getattr(importlib.import_module("_hashlib"), "__file__", None)
    for name in (own, *_NAMES):
        if name is not None:
            try:
                yield ctypes.PyDLL(name)
            except OSError:
                continue


def load() -> Libcrypto | None:
    """The first libcrypto that has what is needed, *untested*; None if there is none."""
    for library in _libraries():
        try:
            return Libcrypto(library)
        except LibcryptoError:
            continue
    return None


# -- self-test -----------------------------------------------------------------------------------

_Q = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = bytes.fromhex(
    "04"
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
#: (point, scalar, product), all in hex: k*G, then k*P, of NIST's ECC CDH vectors (P-256, COUNT 0).
_KNOWN = (
    (
        _G.hex(),
        "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
        "04"
        "ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b230"
        "28af61281fd35e2fa7002523acc85a429cb06ee6648325389f59edfce1405141",
    ),
    (
        "04"
        "700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287"
        "db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
        "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
        "04"
        "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"
        "c553079d5a6b963c42f013ceb53c9715144bfb52d700d015387e4fae2918a9cd",
    ),
)
#: The generator of secp256k1, and G of P-256 with another y.
_NO_POINTS = (
    bytes.fromhex(
        "04"
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    ),
    _G[:-1] + b"\xf4",
    bytes([4]) + bytes(64),
)
_RANDOM = 6

_EDGES = ((5, 1), (5, 2), (5, _Q - 1), (1, 5), (2, 5), (_Q - 1, 5))

Multiply = Callable[[bytes, bytes], bytes | None]


def self_test(fast: Libcrypto, reference: Multiply, rng: Rng) -> bool:
    """Whether ``fast`` may be trusted with P-256 in this process.

    Known answers; random points and scalars, each compared with ``reference`` (the pure-wheel
    multiplication, same form as :meth:`Libcrypto.mul`); scalars 1, 2, q-1; the identity from 0 and
    q; what is no point must be refused, and leave no error behind.
    """
    scalars = (1 + randbelow(rng, _Q - 1) for _ in range(2 * _RANDOM))
    try:
        return (
            all(
                fast.mul(bytes.fromhex(p), bytes.fromhex(k)) == bytes.fromhex(product)
                for p, k, product in _KNOWN
            )
            and all(_equal(fast, reference, j, k) for j, k in zip(scalars, scalars, strict=True))
            and fast.mul(None, bytes.fromhex(_KNOWN[0][1])) == bytes.fromhex(_KNOWN[0][2])
            and all(_equal(fast, reference, j, k) for j, k in _EDGES)
            and all(fast.mul(p, _raw(k)) is None for k in (0, _Q) for p in (_G, None))
            and all(_refuses(fast, data) for data in _NO_POINTS)
            and not fast.errors_left()
        )
    except (LibcryptoError, KeycairnError):
        return False


def _raw(k: int) -> bytes:
    return k.to_bytes(32, "big")


def _equal(fast: Libcrypto, reference: Multiply, j: int, k: int) -> bool:
    point = reference(_G, _raw(j))
    return (
        point is not None
        and fast.mul(None, _raw(j)) == point
        and fast.mul(point, _raw(k)) == reference(point, _raw(k)) is not None
    )


def _refuses(fast: Libcrypto, data: bytes) -> bool:
    try:
        fast.mul(data, _raw(3))
    except LibcryptoError:
        return True
    return False
