"""The two objects every namespace has: its default ServiceAccount and the root CA ConfigMap."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.config.settings import Settings
from k3sd.controllers.rootca import RootCACertPublisher
from k3sd.controllers.serviceaccount import ServiceAccountController
from tests.fakes.harness import Harness


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    out = Settings(data_dir=str(tmp_path))
    out.paths.tls.mkdir(parents=True)
    (out.paths.tls / "server-ca.crt").write_text("CERT\n")
    return out


async def test_both_exist_soon_after_the_namespace_and_come_back(settings: Settings):
    async with Harness(ServiceAccountController, RootCACertPublisher, settings=settings) as h:
        await h.create(resources.NAMESPACES, {"metadata": {"name": "shop"}})
        await h.settle(0.2)
        account, config_map = h.only(resources.SERVICEACCOUNTS), h.only(resources.CONFIGMAPS)
        assert account["metadata"]["name"] == "default"
        assert config_map["data"] == {"ca.crt": "CERT\n"}
        assert "kubernetes.io/description" in config_map["metadata"]["annotations"]
        await h.delete(resources.SERVICEACCOUNTS, account)
        await h.delete(resources.CONFIGMAPS, config_map)
        await h.settle(0.2)
        assert h.only(resources.SERVICEACCOUNTS)["metadata"]["uid"] != account["metadata"]["uid"]
        restored = h.only(resources.CONFIGMAPS)
        await h.client.update(resources.CONFIGMAPS, {**restored, "data": {"ca.crt": "forged", "x": "y"}})
        await h.settle(0.2)
        assert h.only(resources.CONFIGMAPS)["data"] == {"ca.crt": "CERT\n"}


async def test_a_terminating_namespace_gets_nothing_and_is_no_error(settings: Settings):
    async with Harness(ServiceAccountController, RootCACertPublisher, settings=settings) as h:

        def refuse(verb, resource, obj, subresource) -> None:
            if resource in (resources.SERVICEACCOUNTS, resources.CONFIGMAPS):
                raise StatusError(403, "Forbidden", "terminating", {"causes": [{"reason": "NamespaceTerminating"}]})

        h.client.on_write(refuse)
        await h.create(resources.NAMESPACES, {"metadata": {"name": "shop"}})
        await h.settle(60)
        assert all(c.queue.num_requeues("shop") == 0 for c in h.controllers)
