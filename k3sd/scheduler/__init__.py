"""Binds pods to nodes. ``scheduler`` runs the loop; a cycle (``framework``) is a pure function of a pod and a snapshot.

Mirrors kube-scheduler: ``queue`` (priorities, backoff, cluster events), ``nodeinfo`` (cache with assumed pods), ``plugins``
(filters and scores under upstream's names), ``preemption``.
"""
