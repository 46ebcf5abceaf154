"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: ask servers outside about a request.

Configurations are followed, so a change is in force with its write; a request that no webhook concerns costs a few look-ups.
Mutating webhooks run one after the other, sorted by configuration, validating ones in parallel. Source:
``apiserver/pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go``.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver

from k3sd.apimachinery import codec, schema
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.errors import Obj, StatusError, internal
from k3sd.apimachinery.patch import json_patch
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver import serviceresolver
from k3sd.apiserver.admission import webhookrules
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.admission.webhookrules import CallFailed, Hook, Verdict
from k3sd.apiserver.follow import follow
from k3sd.apiserver.kinds.reviews import user_obj
from k3sd.apiserver.request import Attributes
from k3sd.lib.cel import EvaluationError

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


class _Resolver(AbstractResolver):
    """Names of Services become one of their endpoints; other names are the system's to resolve."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._others = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict[str, Any]]:
        name, _, rest = host.partition(".")
        namespace, _, suffix = rest.partition(".")
        if suffix != "svc":
            found: list[dict[str, Any]] = await self._others.resolve(host, port, family)
            return found
        address, number = serviceresolver.resolve(self._registry, namespace, name, str(port))
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [{"hostname": host, "host": address, "port": number, "family": kind, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self) -> None:
        await self._others.close()


class WebhookCaller:
    """Sends AdmissionReviews. One connection pool for all webhooks; made when first needed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    def _context(self, bundle: str) -> ssl.SSLContext:
        """Trusts ``caBundle`` alone, or the system where there is none."""
        context = self._contexts.get(bundle)
        if context is None:
            if len(self._contexts) >= 64:
                self._contexts.clear()
            context = ssl.create_default_context()
            if bundle:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(cadata=base64.b64decode(bundle).decode())
            self._contexts[bundle] = context
        return context

    def _url(self, client: Obj) -> str:
        """A Service is asked by its name, which the resolver turns into an endpoint and TLS into the expected certificate."""
        service = client.get("service")
        if service is None:
            return str(client.get("url", ""))
        return f"https://{service['name']}.{service['namespace']}.svc:{service.get('port') or 443}{service.get('path') or ''}"

    async def ask(self, hook: Hook, attrs: Attributes, *, mutating: bool) -> Verdict:
        """Raises CallFailed."""
        question = webhookrules.build_question(attrs, user_obj(attrs.ctx.user))
        url = self._url(hook.client)
        url = f"{url}{'&' if '?' in url else '?'}timeout={hook.timeout_seconds}s"
        if self._session is None:
            # No connection is kept: a pod that has gone since must not fail a request.
            connector = aiohttp.TCPConnector(resolver=_Resolver(self._registry), use_dns_cache=False, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        try:
            async with (
                asyncio.timeout(hook.timeout_seconds),
                self._session.post(
                    url,
                    data=codec.encode(question.review),
                    headers={"Content-Type": "application/json", "Accept": "application/json"},
                    ssl=self._context(hook.client.get("caBundle") or ""),
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.content.read(MAX_ANSWER_BYTES)
                if answer.status != 200:
                    text = body[:200].decode(errors="replace")
                    raise CallFailed(f'Post "{url}": the server answered {answer.status}: {text}')
        except TimeoutError as error:
            raise CallFailed(f'Post "{url}": context deadline exceeded') from error
        except StatusError as error:
            raise CallFailed(f'Post "{url}": {error.message}') from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'Post "{url}": {error}') from error
        return webhookrules.parse_answer(body, question.uid, mutating=mutating)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class _Webhooks(Plugin):
    """The hooks of one kind of configuration."""

    source: Resource
    mutating = False

    def __init__(self, registry: Registry, caller: WebhookCaller) -> None:
        self._registry = registry
        self._caller = caller
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

    async def close(self) -> None:
        await self._caller.close()

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
        try:
            verdict = await self._caller.ask(hook, attrs, mutating=self.mutating)
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

    async def admit(self, attrs: Attributes) -> None:
        if self._idle:
            return
        asked: list[tuple[Hook, Obj | None]] = []
        for hook in list(self._concerned(attrs)):
            await self._ask(hook, attrs)
            asked.append((hook, codec.loads(codec.encode(attrs.obj)) if attrs.obj is not None and hook.reinvokes else None))
        # Once more for those who want to see what the hooks after them have changed.
        for hook, seen in asked:
            if seen is not None and seen != attrs.obj:
                await self._ask(hook, attrs)

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
