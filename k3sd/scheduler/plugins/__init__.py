"""Filters and scores, one module each, under kube-scheduler's names; ``default_plugins`` is the default profile in its
order."""

from __future__ import annotations

from k3sd.scheduler.framework import Plugin


def default_plugins() -> list[Plugin]:
    """Cheap filters first, as upstream orders them; weights are the default profile's."""
    from k3sd.scheduler.plugins.interpodaffinity import InterPodAffinity
    from k3sd.scheduler.plugins.node import ImageLocality, NodeAffinity, NodeName, NodePorts, NodeUnschedulable, TaintToleration
    from k3sd.scheduler.plugins.podtopologyspread import PodTopologySpread
    from k3sd.scheduler.plugins.resources import BalancedAllocation, ResourcesFit

    return [
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        ResourcesFit(),
        PodTopologySpread(),
        InterPodAffinity(),
        BalancedAllocation(),
        ImageLocality(),
    ]
