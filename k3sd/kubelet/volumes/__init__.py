"""Volumes of pods: one module a plugin, ``manager`` keeps them; the layout below the kubelet's root is upstream's.

``<root>/pods/<uid>/volumes/<plugin>/<name>`` holds a volume, ``volume-subpaths/<volume>/<container>/<index>`` a bound subPath.
Mirrors Kubernetes 1.36, ``pkg/volume`` and ``pkg/kubelet/volumemanager``.
"""
