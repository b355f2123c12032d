"""How a fitted predictor is kept: one self-describing file, checked before anything in it is read.

Layout: a magic line; the SHA-256 of all that follows; the length of the header (4 bytes, little-endian); the header
(JSON: ``kind``, ``version``, ``blobs``, ``body``); then the blobs, each zlib-compressed. ``blobs`` holds each one's
[compressed, plain] length. Nothing is unpickled. The digest finds damage; it does not vouch for the writer.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

MAGIC = b"frontier predictor\n"
_LENGTH = struct.Struct("<I")
_MOST = 1 << 30
"""Bytes that one blob may unpack to."""


def pack(kind: str, version: int, body: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """``body`` must be JSON with finite numbers; ValueError otherwise. Equal input gives equal bytes."""
    packed = [zlib.compress(blob, 6) for blob in blobs]
    sizes = [[len(small), len(blob)] for small, blob in zip(packed, blobs, strict=True)]
    stated = {"kind": kind, "version": version, "blobs": sizes, "body": body}
    header = json.dumps(stated, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    rest = b"".join([_LENGTH.pack(len(header)), header, *packed])
    return MAGIC + hashlib.sha256(rest).digest() + rest


def unpack(data: bytes, kind: str, version: int) -> tuple[dict[str, Any], list[bytes]]:
    """Body and blobs of a file that `pack` wrote with this kind and version; ValueError for anything else."""
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not a predictor file")
    start = len(MAGIC) + 32
    rest = data[start:]
    if hashlib.sha256(rest).digest() != data[len(MAGIC) : start] or len(rest) < _LENGTH.size:
        raise ValueError("the predictor file is damaged: its digest does not match")
    place = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
    try:
        header = json.loads(rest[_LENGTH.size : place])
        stated, sizes, body = (header["kind"], header["version"]), header["blobs"], header["body"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the predictor file has no readable header: {error}") from error
    if stated != (kind, version):
        raise ValueError(f"the file holds a predictor {stated[0]!r} version {stated[1]}, not {kind!r} {version}")
    blobs = []
    for small, size in sizes:
        if size > _MOST:
            raise ValueError(f"a blob states {size} bytes, at most {_MOST} are read")
        unzip = zlib.decompressobj()
        try:
            blob = unzip.decompress(rest[place : place + small], size)
        except zlib.error as error:
            raise ValueError(f"a blob of the predictor file cannot be unpacked: {error}") from error
        if len(blob) != size:
            raise ValueError("a blob of the predictor file has another length than stated")
        blobs.append(blob)
        place += small
    if place != len(rest):
        raise ValueError("the predictor file is longer than its header states")
    return body, blobs
