"""Types of policy/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Eviction kind # Asks for a pod to be removed if its disruption budget allows.
  metadata 1 ObjectMeta
  deleteOptions 2 *DeleteOptions
PodDisruptionBudget kind # How many pods may be missing at once on purpose.
  metadata 1 ObjectMeta
  spec 2 PodDisruptionBudgetSpec
  status 3 PodDisruptionBudgetStatus
PodDisruptionBudgetList kind
  metadata 1 ListMeta
  items! 2 []PodDisruptionBudget
PodDisruptionBudgetSpec
  minAvailable 1 *IntOrString
  selector 2 *LabelSelector replace
  maxUnavailable 3 *IntOrString
  unhealthyPodEvictionPolicy 4 *string
PodDisruptionBudgetStatus
  observedGeneration 1 int64
  disruptedPods 2 {}Time
  disruptionsAllowed 3 int32 always
  currentHealthy 4 int32 always
  desiredHealthy 5 int32 always
  expectedPods 6 int32 always
  conditions 7 []Condition map=type merge=type
"""
