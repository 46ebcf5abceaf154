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
  minAvailable 1 *IntOrString # How many pods, or what share, must stay.
  selector 2 *LabelSelector replace # Labels of the pods it protects.
  maxUnavailable 3 *IntOrString # How many pods, or what share, may be missing.
  unhealthyPodEvictionPolicy 4 *string # Whether pods that are not ready may go: IfHealthyBudget or AlwaysAllow.
PodDisruptionBudgetStatus
  observedGeneration 1 int64
  disruptedPods 2 {}Time
  disruptionsAllowed 3 int32 always # How many pods may be evicted now.
  currentHealthy 4 int32 always # How many pods are ready.
  desiredHealthy 5 int32 always # How many pods have to be ready.
  expectedPods 6 int32 always # How many pods it protects.
  conditions 7 []Condition map=type merge=type
"""
