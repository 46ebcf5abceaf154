"""k3sd: K3s, the lightweight Kubernetes, as a systemd-integrated daemon in Python.

The version lives here only; packaging, ``/version`` and ``--version`` read it.
"""

__version__ = "0.1.0"
KUBERNETES_VERSION = "v1.36.2"
"""The Kubernetes release whose API this server serves; ``/version`` answers ``<this>+k3sd<n>``."""
