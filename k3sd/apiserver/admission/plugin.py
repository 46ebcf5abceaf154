"""The base of admission plugins: which requests it sees, and empty hooks."""

from __future__ import annotations

from typing import ClassVar

from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.request import Attributes


class Plugin:
    """``resources``: rows it sees (empty: all); ``operations`` and ``subresources`` likewise, "" being the main resource."""

    name: str = ""
    resources: ClassVar[tuple[Resource, ...]] = ()
    operations: ClassVar[tuple[str, ...]] = ("CREATE",)
    subresources: ClassVar[tuple[str, ...]] = ("",)

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        return (
            operation in self.operations
            and subresource in self.subresources
            and (not self.resources or resource in self.resources)
        )

    async def admit(self, attrs: Attributes) -> None:
        return

    async def validate(self, attrs: Attributes) -> None:
        return

    async def close(self) -> None:
        """Give back what the plugin holds open. Idempotent."""
