"""Self-signed certificates for tests (ECDSA on P-256), made with the standard library alone."""

import base64
import hashlib
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_CURVE = bytes.fromhex("06082a8648ce3d030107")
_KEY = bytes.fromhex("06072a8648ce3d0201")
_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
_USAGE = bytes.fromhex("0603551d0f0101ff040403020284")  # to sign, and to sign certificates
_AUTHORITY = bytes.fromhex("0603551d130101ff040530030101ff")
Point = tuple[int, int]


def server_context(certificate: Path) -> ssl.SSLContext:
    """A server's side of TLS with a file that `make` has written."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def make(path: Path, address: str = "127.0.0.1") -> Path:
    """Write a private key with a certificate for an IP address, good for a day, as one file."""
    key = secrets.randbelow(_N - 1) + 1
    x, y = _times(key, _G)
    point = b"\4" + x.to_bytes(32) + y.to_bytes(32)
    body = _body(point, ip_address(address).packed)
    certificate = _tag(0x30, body, _ECDSA, _bits(_signature(key, body)))
    curve, public = _tag(0xA0, _CURVE), _tag(0xA1, _bits(point))
    private = _tag(0x30, _integer(1), _tag(4, key.to_bytes(32)), curve, public)
    path.write_text(_pem("EC PRIVATE KEY", private) + _pem("CERTIFICATE", certificate))
    return path


def _body(point: bytes, address: bytes) -> bytes:
    now = datetime.now(UTC)
    times = [_time(now + timedelta(days=days)) for days in (-1, 1)]
    name = _tag(0x30, _tag(0x31, _tag(0x30, bytes.fromhex("0603550403"), _tag(12, b"test"))))
    identity = bytes.fromhex("0603551d0e") + _tag(4, _tag(4, hashlib.sha1(point).digest()))
    names = bytes.fromhex("0603551d11") + _tag(4, _tag(0x30, _tag(0x87, address)))
    extensions = _tag(0x30, *(_tag(0x30, each) for each in (_AUTHORITY, _USAGE, identity, names)))
    subject_key = _tag(0x30, _tag(0x30, _KEY, _CURVE), _bits(point))
    version, serial = _tag(0xA0, _integer(2)), _integer(secrets.randbits(64) + 1)
    parts = (version, serial, _ECDSA, name, _tag(0x30, *times), name, subject_key)
    return _tag(0x30, *parts, _tag(0xA3, extensions))


def _signature(key: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest())
    once = secrets.randbelow(_N - 1) + 1
    r = _times(once, _G)[0] % _N
    return _tag(0x30, _integer(r), _integer(pow(once, -1, _N) * (digest + r * key) % _N))


def _times(count: int, point: Point) -> Point:
    found = None
    while count:
        if count & 1:
            found = point if found is None else _plus(found, point)
        point, count = _plus(point, point), count >> 1
    if found is None:
        raise ValueError("count must be positive")
    return found


def _plus(a: Point, b: Point) -> Point:
    """The sum of two points of the curve y² = x³ - 3x + b that are not each other's negatives."""
    if a == b:
        slope = 3 * (a[0] ** 2 - 1) * pow(2 * a[1], -1, _P) % _P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P) % _P
    x = (slope**2 - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _tag(tag: int, *parts: bytes) -> bytes:
    """One DER value."""
    content = b"".join(parts)
    length = len(content)
    size = (length.bit_length() + 7) // 8
    head = bytes([length]) if length < 128 else bytes([128 + size]) + length.to_bytes(size)
    return bytes([tag]) + head + content


def _integer(value: int) -> bytes:
    return _tag(2, value.to_bytes(value.bit_length() // 8 + 1))


def _bits(content: bytes) -> bytes:
    return _tag(3, b"\0", content)


def _time(moment: datetime) -> bytes:
    return _tag(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def _pem(kind: str, content: bytes) -> str:
    lines = base64.encodebytes(content).decode()
    return f"-----BEGIN {kind}-----\n{lines}-----END {kind}-----\n"
