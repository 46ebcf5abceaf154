"""Types of node/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Overhead
  podFixed 1 {}Quantity
RuntimeClass kind # A way to run the containers of pods.
  metadata 1 ObjectMeta
  handler! 2 string
  overhead 3 *Overhead
  scheduling 4 *Scheduling
RuntimeClassList kind
  metadata 1 ListMeta
  items! 2 []RuntimeClass
Scheduling
  nodeSelector 1 {}string atomic
  tolerations 2 []core.Toleration atomic
"""
