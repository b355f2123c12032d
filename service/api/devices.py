"""Devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.deps import COMMON, DEFAULT_PAGE, Db, PageSize, PageToken
from service.api.documents import problems
from service.db import devices
from service.wire.base import DeviceName, Page
from service.wire.jobs import DeviceOut

router = APIRouter(prefix="/v1", tags=["devices"], dependencies=COMMON)


@router.get("/devices")
def list_devices(db: Db, page_size: PageSize = DEFAULT_PAGE, page_token: PageToken = None) -> Page[DeviceOut]:
    """List devices.

    Those that workers announced, and those that pipelines named.
    """
    with db.read() as session:
        return devices.page(session, page_size, page_token)


@router.get("/devices/{device}", responses=problems(404))
def get_device(device: Annotated[DeviceName, Path(description="Name.")], db: Db) -> DeviceOut:
    """Get a device.

    As it was announced last, with the workers that have it and the number of latencies measured on it.
    """
    with db.read() as session:
        return devices.get(session, device)
