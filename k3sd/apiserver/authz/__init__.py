"""Authorization: Node, then RBAC; ``system:masters`` passes. K3s's ``--authorization-mode=Node,RBAC``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import StatusError, forbidden
from k3sd.apiserver.authz.node import NodeAuthorizer, NodeGraph
from k3sd.apiserver.authz.rbac import RuleIndex
from k3sd.apiserver.authz.rules import Query
from k3sd.apiserver.request import Decision, RequestContext, UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.authz.aggregation import RoleAggregator
    from k3sd.apiserver.registry import Registry
    from k3sd.config.settings import Settings

MASTERS = "system:masters"


class ChainAuthorizer:
    """``Authorizer`` over the Node and RBAC authorizers. No I/O; exact with the last answered write."""

    def __init__(self, rbac: RuleIndex, node: NodeAuthorizer) -> None:
        self.rbac = rbac
        self.node = node
        self.aggregator: RoleAggregator | None = None

    def authorize(self, ctx: RequestContext) -> Decision:
        if ctx.privileged or MASTERS in ctx.user.groups:
            return Decision(True)
        return self.check(ctx.user, query_of(ctx), ctx.field_selector)

    def check(self, user: UserInfo, query: Query, field_selector: str = "") -> Decision:
        """Ask for any user, as access reviews and impersonation do."""
        if MASTERS in user.groups:
            return Decision(True)
        first = self.node.check(user, query, field_selector)
        if first.allowed:
            return first
        second = self.rbac.check(user, query)
        if second.allowed or not first.reason:
            return second
        return Decision(False, "\n".join(r for r in (first.reason, second.reason) if r))


def query_of(ctx: RequestContext) -> Query:
    """What authorization looks at in a request."""
    resource = ctx.resource
    if resource is None:
        return Query(ctx.verb, path=ctx.path)
    return Query(ctx.verb, resource.group, resource.plural, ctx.subresource, ctx.namespace, ctx.name)


def refusal_text(user: str, query: Query) -> str:
    """``forbiddenMessage`` of ``endpoints/handlers/responsewriters/errors.go``."""
    if query.path:
        return f'User "{user}" cannot {query.verb} path "{query.path}"'
    resource = f"{query.resource}/{query.subresource}" if query.subresource else query.resource
    where = f'in the namespace "{query.namespace}"' if query.namespace else "at the cluster scope"
    return f'User "{user}" cannot {query.verb} resource "{resource}" in API group "{query.group}" {where}'


def refuse(user: UserInfo, query: Query, reason: str = "") -> StatusError:
    """The 403 for a denied query."""
    text = refusal_text(user.name, query)
    return forbidden(query.group, query.resource, query.name, f"{text}: {reason}" if reason else text)


def forbidden_error(ctx: RequestContext, decision: Decision) -> StatusError:
    """The 403 for a denied request."""
    return refuse(ctx.user, query_of(ctx), decision.reason)


def build_authorizer(settings: Settings, registry: Registry) -> ChainAuthorizer:
    """Index the cache and follow it. The result is ``registry.authorizer`` too, for escalation checks and reviews."""
    from k3sd.apiserver.authz.aggregation import RoleAggregator
    from k3sd.apiserver.authz.bootstrap import parse_roles
    from k3sd.apiserver.authz.bootstrap_policy import CLUSTER_ROLES
    from k3sd.apiserver.authz.rules import Rule

    rbac = RuleIndex()
    rbac.attach(registry)
    graph = NodeGraph()
    graph.attach(registry)
    node_role = next(r for r in parse_roles(CLUSTER_ROLES) if r["metadata"]["name"] == "system:node")
    authorizer = ChainAuthorizer(rbac, NodeAuthorizer(graph, tuple(Rule.of(r) for r in node_role["rules"])))
    registry.authorizer = authorizer
    authorizer.aggregator = RoleAggregator(registry)
    authorizer.aggregator.attach()
    return authorizer
