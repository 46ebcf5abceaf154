"""K3s's certificates: the inventory (``inventory``), making and renewing them (``authority``), kubeconfigs (``kubeconfig``)."""
