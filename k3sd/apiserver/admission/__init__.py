"""Admission: what the cluster adds to a request and what it refuses, plugin by plugin, in upstream's order.

``build_chain`` is the list of rows; a plugin is asked once per (resource, subresource, operation) whether it has a say, so it
costs nothing elsewhere. Source: ``pkg/kubeapiserver/options/plugins.go`` (``AllOrderedPlugins``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from k3sd.apiserver.request import AdmissionPlugin

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.config.settings import Settings


def build_chain(registry: Registry, settings: Settings) -> Sequence[AdmissionPlugin]:
    """The plugins of this server in order. ``enable-admission-plugins`` and ``disable-admission-plugins`` of the API
    server's extra arguments switch single ones; an unknown name there is an error of the options, not of this function."""
    from k3sd.apiserver.admission.limits import LimitRanger
    from k3sd.apiserver.admission.mutatingpolicies import MutatingAdmissionPolicy
    from k3sd.apiserver.admission.namespaces import NamespaceLifecycle
    from k3sd.apiserver.admission.noderestriction import NodeRestriction
    from k3sd.apiserver.admission.podresize import PodResizeValidator
    from k3sd.apiserver.admission.pods import DefaultTolerationSeconds, PodPriority, RuntimeClass, TaintNodesByCondition
    from k3sd.apiserver.admission.podsecurity import PodSecurity
    from k3sd.apiserver.admission.policies import ValidatingAdmissionPolicy
    from k3sd.apiserver.admission.quota import ResourceQuota
    from k3sd.apiserver.admission.serviceaccount import ServiceAccount
    from k3sd.apiserver.admission.storage import (
        DefaultIngressClass,
        DefaultStorageClass,
        PersistentVolumeClaimResize,
        StorageObjectInUseProtection,
    )
    from k3sd.apiserver.admission.webhooks import MutatingAdmissionWebhook, ValidatingAdmissionWebhook

    policies = MutatingAdmissionPolicy(registry)
    rows: list[AdmissionPlugin] = [
        NamespaceLifecycle(registry),
        ServiceAccount(registry, settings),
        NodeRestriction(registry),
        TaintNodesByCondition(),
        LimitRanger(registry),
        PodSecurity(registry),
        PodPriority(registry),
        DefaultTolerationSeconds(),
        DefaultStorageClass(registry),
        StorageObjectInUseProtection(),
        PersistentVolumeClaimResize(registry),
        RuntimeClass(registry),
        DefaultIngressClass(registry),
        PodResizeValidator(registry),
        policies,
        MutatingAdmissionWebhook(registry, policies),
        ValidatingAdmissionPolicy(registry),
        ValidatingAdmissionWebhook(registry),
        ResourceQuota(registry),
    ]
    disabled = {name for text in settings.apiserver_args.get("disable-admission-plugins", ()) for name in text.split(",")}
    return [plugin for plugin in rows if plugin.name not in disabled]
