"""Read-modify-write with a retry bound, in one place. Source: client-go ``util/retry``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import Client
from k3sd.lib.jsonvalue import clone

ATTEMPTS = 5


async def update_with_retry(
    client: Client,
    resource: Resource,
    name: str,
    namespace: str | None,
    mutate: Callable[[Obj], object],
    *,
    subresource: str = "",
    initial: Obj | None = None,
    uid: str = "",
    attempts: int = ATTEMPTS,
) -> Obj:
    """Apply ``mutate`` to a copy of the object and write it; on conflict read again and repeat.

    ``mutate`` changes its argument; nothing is written when it changed nothing. ``initial`` (a cached object) saves the first
    read. With ``uid`` a successor of the same name is left alone (NotFound). Returns the object as stored. Raises the last
    Conflict after ``attempts``, and NotFound when the object is gone.
    """
    current = initial
    for attempt in range(attempts):
        if current is None:
            current = await client.get(resource, name, namespace)
        if uid and current["metadata"].get("uid") != uid:
            raise StatusError(404, "NotFound", f'{resource.qualified} "{name}" with uid {uid} not found')
        changed = clone(current)
        mutate(changed)
        if changed == current:
            return current
        try:
            return await client.update(resource, changed, subresource=subresource)
        except StatusError as e:
            if e.reason != "Conflict" or attempt == attempts - 1:
                raise
        current = None
        # Two writers that collided once should not collide again.
        await asyncio.sleep(0.01 * random.random() * (attempt + 1))
    raise ValueError("attempts must be at least 1")
