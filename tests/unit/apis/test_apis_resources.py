"""The resource rows against upstream's discovery facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3sd.apis import resources

TABLE = Path(__file__).parents[4] / "shared/reference/upstream/api-resources.tsv"


def test_lookups() -> None:
    assert resources.find("apps", "v1", "deployments") is resources.DEPLOYMENTS
    assert resources.by_kind("v1", "Pod") is resources.PODS
    assert resources.by_kind("autoscaling/v1", "HorizontalPodAutoscaler") is resources.HORIZONTALPODAUTOSCALERS_V1
    assert resources.find("", "v1", "nothing") is None
    assert resources.PODS.type_name == "io.k8s.api.core.v1.Pod"
    assert resources.CLUSTERROLES.type_name == "io.k8s.api.rbac.v1.ClusterRole"


def test_subresource_kinds() -> None:
    subs = {s.name: s for s in resources.PODS.subresources}
    assert (subs["eviction"].group, subs["eviction"].kind) == ("policy", "Eviction")
    scale = next(s for s in resources.DEPLOYMENTS.subresources if s.name == "scale")
    assert scale.type_name == "io.k8s.api.autoscaling.v1.Scale"
    token = resources.SERVICEACCOUNTS.subresources[0]
    assert token.type_name == "io.k8s.api.authentication.v1.TokenRequest"


@pytest.mark.skipif(not TABLE.exists(), reason="upstream reference tables are not beside the repository")
def test_rows_equal_upstream() -> None:
    ours: dict[tuple[str, str, str], tuple[str, ...]] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    for r in resources.ALL:
        scope = "Namespaced" if r.namespaced else "Cluster"
        names = (r.singular, ",".join(r.short_names), ",".join(r.categories))
        ours[r.group, r.version, r.plural] = (r.kind, scope, ",".join(r.verbs), *names)
        for s in r.subresources:
            key = (r.group, r.version, f"{r.plural}/{s.name}")
            ours[key] = (s.kind, scope, ",".join(s.verbs), "", "", "")
            kinds[key] = f"{s.group}/{s.version}"
    theirs = {}
    for line in TABLE.read_text().splitlines()[2:]:
        cells = (line + "\t" * 10).split("\t")
        if cells[1] not in ("v1", "v2"):
            continue
        key = (cells[0], cells[1], cells[2])
        theirs[key] = tuple(cells[3:9])
        if cells[9]:
            assert kinds[key] == cells[9]
    assert ours == theirs
