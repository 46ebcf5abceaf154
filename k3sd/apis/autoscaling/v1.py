"""Types of autoscaling/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
CrossVersionObjectReference atomic
  kind! 1 string
  name! 2 string
  apiVersion 3 string
HorizontalPodAutoscaler kind # Changes the number of pods with their CPU use.
  metadata 1 ObjectMeta
  spec! 2 HorizontalPodAutoscalerSpec omit
  status 3 HorizontalPodAutoscalerStatus
HorizontalPodAutoscalerList kind
  metadata 1 ListMeta
  items! 2 []HorizontalPodAutoscaler
HorizontalPodAutoscalerSpec
  scaleTargetRef! 1 CrossVersionObjectReference
  minReplicas 2 *int32
  maxReplicas! 3 int32
  targetCPUUtilizationPercentage 4 *int32
HorizontalPodAutoscalerStatus
  observedGeneration 1 *int64
  lastScaleTime 2 *Time
  currentReplicas! 3 int32
  desiredReplicas! 4 int32
  currentCPUUtilizationPercentage 5 *int32
Scale kind # The wanted and current number of pods of a workload.
  metadata 1 ObjectMeta
  spec 2 ScaleSpec
  status 3 ScaleStatus
ScaleSpec
  replicas 1 int32
ScaleStatus
  replicas! 1 int32
  selector 2 string
"""
