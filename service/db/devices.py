"""The registry of devices: what workers compute on. A latency belongs to the name of one.

A name stands for a kind of device with its settings, so several workers may have the same one. What was announced
last is what is kept: memory and software change with drivers, containers and upgrades. The type never does: a name
under which processors and GPUs are timed would mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.core.errors import Invalid, NotFound
from service.db import events
from service.db.paging import slice_of
from service.db.rows import insert_new, table_of, upsert
from service.db.tables import LATENCIES, Context, Device, Measurement, Worker, now
from service.wire.base import Page
from service.wire.jobs import Device as Announced
from service.wire.jobs import DeviceOut

ALIVE = timedelta(minutes=1)
"""A worker that was heard of within this time is alive."""
EXTERNAL = "external"
"""Type of what pipelines name and nobody announced."""

_NAME = re.compile(r"[A-Za-z0-9_.:\-]{1,80}")
_TYPE = re.compile(r"[a-z][a-z0-9_\-]{0,19}")
_MOST_MB = 2**31 - 1


def register(s: Session, device: Announced) -> None:
    """Stores a device as a worker announces it.

    A change of its memory is told by the event ``device.changed``: jobs that ask for memory may find another worker.
    Raises `Invalid` for ``device.name``, ``device.type`` (also for another type than the device has) and
    ``device.memory_mb``.
    """
    _check(device)
    before = s.scalars(select(Device.memory_mb).where(Device.name == device.name)).one_or_none()
    time = now()
    table = table_of(Device)
    known = {
        "type": device.type,
        "memory_mb": device.memory_mb,
        "software": device.software,
        "last_seen_at": time,
    }
    statement = upsert(Device, s.get_bind().dialect.name).values(name=device.name, created_at=time, **known)
    # One statement decides: of two workers that bring one name with two types, the second is refused.
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_=known, where=or_(table.c.type == device.type, table.c.type == EXTERNAL)
    )
    if s.execute(statement.returning(table.c.name)).first() is None:
        kept = s.scalars(select(Device.type).where(Device.name == device.name)).one()
        raise Invalid(
            "device.type",
            f"is {device.type!r}, but device {device.name!r} is of type {kept!r}: give the other device another name",
        )
    if before is not None and before != device.memory_mb:
        body = {"device": device.name, "memory_mb": device.memory_mb, "memory_mb_before": before}
        events.emit(s, "device.changed", body=body)


def ensure(s: Session, name: str) -> None:
    """Registers a device that a pipeline names, unless it is known."""
    if s.scalars(select(Device.name).where(Device.name == name)).one_or_none() is None:
        time = now()
        row = {"name": name, "type": EXTERNAL, "memory_mb": 0, "software": {}}
        insert_new(s, Device, [{**row, "created_at": time, "last_seen_at": time}])


def get(s: Session, name: str) -> DeviceOut:
    """One device, or `NotFound`."""
    found = s.get(Device, name, populate_existing=True)
    if found is None:
        raise NotFound("device", name)
    return _views(s, [found])[0]


def page(s: Session, size: int, token: str | None = None) -> Page[DeviceOut]:
    """Devices by name."""
    rows, following = slice_of(s, select(Device), [Device.name], size, token)
    return Page(items=_views(s, [found[0] for found in rows]), next_page_token=following)


def _check(device: Announced) -> None:
    if not _NAME.fullmatch(device.name):
        raise Invalid("device.name", f"must be 1 to 80 letters, digits, '_', '.', ':' or '-', is {device.name!r:.120}")
    if not _TYPE.fullmatch(device.type):
        raise Invalid(
            "device.type",
            "must be a lower-case letter and up to 19 more, digits, '_' or '-', as in cpu or cuda, "
            f"is {device.type!r:.120}",
        )
    if device.memory_mb > _MOST_MB:
        raise Invalid("device.memory_mb", f"must be at most {_MOST_MB} MiB, is {device.memory_mb}")


def _views(s: Session, devices: Sequence[Device]) -> list[DeviceOut]:
    names = [device.name for device in devices]
    device_of = Worker.device["name"].as_string()
    query = select(device_of, Worker.name, Worker.last_seen_at).where(device_of.in_(names)).order_by(Worker.name)
    youngest = now() - ALIVE
    alive: dict[str, list[str]] = {}
    seen = {device.name: device.last_seen_at for device in devices}
    for device, worker, at in s.execute(query):
        seen[device] = max(seen[device], at)
        if at >= youngest:
            alive.setdefault(device, []).append(worker)
    counts = _latencies(s, names)
    return [
        DeviceOut(
            name=device.name,
            type=device.type,
            memory_mb=device.memory_mb,
            software=device.software,
            created_at=device.created_at,
            last_seen_at=seen[device.name],
            workers=alive.get(device.name, []),
            latencies=counts.get(device.name, 0),
        )
        for device in devices
    ]


def _latencies(s: Session, names: Iterable[str]) -> dict[str, int]:
    """Device → measured latencies, counted in an index that holds nothing else; contexts are few."""
    device_of = Context.body["device"].as_string()
    query = (
        select(device_of, func.count())
        .join(Measurement, Measurement.context_digest == Context.digest)
        .where(device_of.in_(list(names)), LATENCIES)
        .group_by(device_of)
    )
    return {str(device): int(count) for device, count in s.execute(query)}
