"""Types of autoscaling/v2. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
ContainerResourceMetricSource
  name! 1 string
  target! 2 MetricTarget
  container! 3 string
ContainerResourceMetricStatus
  name! 1 string
  current! 2 MetricValueStatus
  container! 3 string
CrossVersionObjectReference
  kind! 1 string
  name! 2 string
  apiVersion 3 string
ExternalMetricSource
  metric! 1 MetricIdentifier
  target! 2 MetricTarget
ExternalMetricStatus
  metric! 1 MetricIdentifier
  current! 2 MetricValueStatus
HorizontalPodAutoscaler kind # Changes the number of pods with their load.
  metadata 1 ObjectMeta
  spec! 2 HorizontalPodAutoscalerSpec omit
  status 3 HorizontalPodAutoscalerStatus
HorizontalPodAutoscalerBehavior
  scaleUp 1 *HPAScalingRules
  scaleDown 2 *HPAScalingRules
HorizontalPodAutoscalerCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
HorizontalPodAutoscalerList kind
  metadata 1 ListMeta
  items! 2 []HorizontalPodAutoscaler
HorizontalPodAutoscalerSpec
  scaleTargetRef! 1 CrossVersionObjectReference # What is scaled.
  minReplicas 2 *int32 # Fewest pods. 1 by default.
  maxReplicas! 3 int32 # Most pods.
  metrics 4 []MetricSpec atomic # What the number of pods depends on.
  behavior 5 *HorizontalPodAutoscalerBehavior # How fast it scales up and down.
HorizontalPodAutoscalerStatus
  observedGeneration 1 *int64
  lastScaleTime 2 *Time
  currentReplicas 3 int32
  desiredReplicas! 4 int32
  currentMetrics 5 []MetricStatus always atomic
  conditions 6 []HorizontalPodAutoscalerCondition map=type merge=type
HPAScalingPolicy
  type! 1 string
  value! 2 int32
  periodSeconds! 3 int32
HPAScalingRules
  selectPolicy 1 *string
  policies 2 []HPAScalingPolicy atomic
  stabilizationWindowSeconds 3 *int32
  tolerance 4 *Quantity
MetricIdentifier
  name! 1 string
  selector 2 *LabelSelector
MetricSpec
  type! 1 string
  object 2 *ObjectMetricSource
  pods 3 *PodsMetricSource
  resource 4 *ResourceMetricSource
  external 5 *ExternalMetricSource
  containerResource 7 *ContainerResourceMetricSource
MetricStatus
  type! 1 string
  object 2 *ObjectMetricStatus
  pods 3 *PodsMetricStatus
  resource 4 *ResourceMetricStatus
  external 5 *ExternalMetricStatus
  containerResource 7 *ContainerResourceMetricStatus
MetricTarget
  type! 1 string
  value 2 *Quantity
  averageValue 3 *Quantity
  averageUtilization 4 *int32
MetricValueStatus
  value 1 *Quantity
  averageValue 2 *Quantity
  averageUtilization 3 *int32
ObjectMetricSource
  describedObject! 1 CrossVersionObjectReference
  target! 2 MetricTarget
  metric! 3 MetricIdentifier
ObjectMetricStatus
  metric! 1 MetricIdentifier
  current! 2 MetricValueStatus
  describedObject! 3 CrossVersionObjectReference
PodsMetricSource
  metric! 1 MetricIdentifier
  target! 2 MetricTarget
PodsMetricStatus
  metric! 1 MetricIdentifier
  current! 2 MetricValueStatus
ResourceMetricSource
  name! 1 string
  target! 2 MetricTarget
ResourceMetricStatus
  name! 1 string
  current! 2 MetricValueStatus
"""
