"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: ask servers outside about a request.

Configurations are followed, so a change is in force with its write; a request that no webhook concerns costs a few look-ups.
Mutating webhooks run one after the other, sorted by configuration, validating ones in parallel. Source:
``apiserver/pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from k3sd.apimachinery import codec, schema
from k3sd.apimachinery.cel import EvaluationError
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.errors import Obj, internal
from k3sd.apimachinery.patch import json_patch
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.admission import webhookrules
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.admission.webhookrules import Hook, Verdict
from k3sd.apiserver.follow import follow
from k3sd.apiserver.kinds.reviews import user_obj
from k3sd.apiserver.request import Attributes
from k3sd.apiserver.webhookclient import CallFailed

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

MAX_ANSWER_BYTES = 3 << 20
EXEMPT = frozenset(
    (
        resources.MUTATINGWEBHOOKCONFIGURATIONS,
        resources.VALIDATINGWEBHOOKCONFIGURATIONS,
        resources.VALIDATINGADMISSIONPOLICIES,
        resources.VALIDATINGADMISSIONPOLICYBINDINGS,
        resources.MUTATINGADMISSIONPOLICIES,
        resources.MUTATINGADMISSIONPOLICYBINDINGS,
    )
)
"""Never sent to webhooks: a broken one could otherwise not be repaired."""


class Reinvoked(Protocol):
    """Mutating policies, which may want to see what webhooks have changed."""

    async def reinvoke(self, attrs: Attributes) -> None: ...


class _Webhooks(Plugin):
    """The hooks of one kind of configuration."""

    source: Resource
    mutating = False

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_configuration: dict[str, list[Hook]] = {}
        self._following = False

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        return resource not in EXEMPT

    @property
    def _idle(self) -> bool:
        """True when there is no webhook at all. The first request starts following: the cache runs by then."""
        if not self._following:
            self._following = True
            follow(self._registry, self.source, self._on_configuration)
        return not self._by_configuration

    def _on_configuration(self, event: str, obj: Obj, old: Obj | None) -> None:
        name = obj["metadata"]["name"]
        if event == "DELETED":
            self._by_configuration.pop(name, None)
        else:
            self._by_configuration[name] = [Hook(h) for h in obj.get("webhooks") or ()]

    def _concerned(self, attrs: Attributes) -> Iterator[Hook]:
        """The hooks of this request, sorted by configuration and place."""
        ctx = attrs.ctx
        assert ctx.resource is not None
        for name in sorted(self._by_configuration):
            for hook in self._by_configuration.get(name, ()):
                if not hook.concerns(ctx.resource, ctx.subresource, attrs.operation, ctx.namespace):
                    continue
                if not self._selected(hook, attrs):
                    continue
                if not self._conditions_hold(hook, attrs):
                    continue
                if ctx.dry_run and not hook.dry_run_safe:
                    raise webhookrules.dry_run_refusal(hook.name)
                yield hook

    @staticmethod
    def _conditions_hold(hook: Hook, attrs: Attributes) -> bool:
        if not hook.conditions:
            return True
        request = webhookrules.build_question(attrs, user_obj(attrs.ctx.user)).review["request"]
        variables = {"object": attrs.obj, "oldObject": attrs.old, "request": request}
        try:
            return webhookrules.conditions_match(hook.conditions, variables)
        except EvaluationError as error:
            if hook.fails_closed:
                raise webhookrules.condition_error(hook.name, error) from error
            return False

    def _selected(self, hook: Hook, attrs: Attributes) -> bool:
        ctx = attrs.ctx
        if hook.objects is not None and not any(
            hook.objects.matches((o.get("metadata") or {}).get("labels")) for o in (attrs.obj, attrs.old) if o is not None
        ):
            return False
        if hook.namespaces is None:
            return True
        if ctx.resource is resources.NAMESPACES:
            source = attrs.obj if attrs.obj is not None else attrs.old
            return hook.namespaces.matches(((source or {}).get("metadata") or {}).get("labels"))
        if not ctx.namespace:
            return True
        namespace = self._registry.read(resources.NAMESPACES, ctx.namespace)
        return hook.namespaces.matches(((namespace or {}).get("metadata") or {}).get("labels"))

    async def _verdict(self, hook: Hook, attrs: Attributes) -> Verdict | None:
        """None when the hook could not be asked and its policy is to ignore that."""
        question = webhookrules.build_question(attrs, user_obj(attrs.ctx.user))
        client = self._registry.webhooks
        try:
            body = await client.post(hook.client, question.review, hook.timeout_seconds, MAX_ANSWER_BYTES)
            verdict = webhookrules.parse_answer(body, question.uid, mutating=self.mutating)
        except CallFailed as error:
            if hook.fails_closed:
                raise webhookrules.call_error(hook.name, error) from error
            return None
        attrs.ctx.warnings += verdict.warnings
        if not verdict.allowed:
            raise webhookrules.denial(hook.name, verdict.status)
        return verdict


class MutatingAdmissionWebhook(_Webhooks):
    name = "MutatingAdmissionWebhook"
    source = resources.MUTATINGWEBHOOKCONFIGURATIONS
    mutating = True

    def __init__(self, registry: Registry, policies: Reinvoked) -> None:
        super().__init__(registry)
        self._policies = policies

    async def admit(self, attrs: Attributes) -> None:
        if self._idle:
            return
        before = codec.clone(attrs.obj)
        asked: list[tuple[Hook, Obj | None]] = []
        for hook in list(self._concerned(attrs)):
            await self._ask(hook, attrs)
            asked.append((hook, codec.loads(codec.encode(attrs.obj)) if attrs.obj is not None and hook.reinvokes else None))
        # Once more for those who want to see what the hooks after them have changed.
        for hook, seen in asked:
            if seen is not None and seen != attrs.obj:
                await self._ask(hook, attrs)
        if asked and attrs.obj != before:
            await self._policies.reinvoke(attrs)

    async def _ask(self, hook: Hook, attrs: Attributes) -> None:
        verdict = await self._verdict(hook, attrs)
        if verdict is None or not verdict.patch:
            return
        if attrs.obj is None:
            raise internal(
                f'admission webhook "{hook.name}" attempted to modify the object, which is not supported for this operation'
            )
        changed = json_patch(attrs.obj, verdict.patch)
        self._complete(attrs, changed)
        # The writer and the plugins after this one hold the same object.
        attrs.obj.clear()
        attrs.obj.update(changed)

    @staticmethod
    def _complete(attrs: Attributes, changed: Any) -> None:
        resource = attrs.ctx.resource
        assert resource is not None
        if attrs.operation == "CONNECT" or not isinstance(changed, dict):
            return
        type_ = schema.types.get(resource.type_name)
        conform(changed, type_)
        apply_defaults(changed, resource)


class ValidatingAdmissionWebhook(_Webhooks):
    name = "ValidatingAdmissionWebhook"
    source = resources.VALIDATINGWEBHOOKCONFIGURATIONS

    async def validate(self, attrs: Attributes) -> None:
        if self._idle:
            return
        hooks = list(self._concerned(attrs))
        if not hooks:
            return
        answers = await asyncio.gather(*(self._verdict(hook, attrs) for hook in hooks), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
