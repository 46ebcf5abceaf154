"""Types of scheduling/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
PriorityClass kind # A named priority for pods.
  metadata 1 ObjectMeta
  value 2 int32 always
  globalDefault 3 bool
  description 4 string
  preemptionPolicy 5 *string
PriorityClassList kind
  metadata 1 ListMeta
  items! 2 []PriorityClass
"""
