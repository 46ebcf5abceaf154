"""Types of apps/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
ControllerRevision kind # A recorded state of a controller, to go back to.
  metadata 1 ObjectMeta
  data 2 RawExtension
  revision! 3 int64
ControllerRevisionList kind
  metadata 1 ListMeta
  items! 2 []ControllerRevision
DaemonSet kind # Runs one pod on each node that matches.
  metadata 1 ObjectMeta
  spec 2 DaemonSetSpec
  status 3 DaemonSetStatus
DaemonSetCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
DaemonSetList kind
  metadata 1 ListMeta
  items! 2 []DaemonSet
DaemonSetSpec
  selector! 1 *LabelSelector # Labels of the pods that belong to it. Cannot be changed.
  template! 2 core.PodTemplateSpec # What the pods look like.
  updateStrategy 3 DaemonSetUpdateStrategy # How pods are replaced by new ones.
  minReadySeconds 4 int32 # Seconds a pod must be ready before it counts as available.
  revisionHistoryLimit 6 *int32 # How many old revisions are kept.
DaemonSetStatus
  currentNumberScheduled! 1 int32
  numberMisscheduled! 2 int32
  desiredNumberScheduled! 3 int32
  numberReady! 4 int32
  observedGeneration 5 int64
  updatedNumberScheduled 6 int32
  numberAvailable 7 int32
  numberUnavailable 8 int32
  collisionCount 9 *int32
  conditions 10 []DaemonSetCondition map=type merge=type
DaemonSetUpdateStrategy
  type 1 string
  rollingUpdate 2 *RollingUpdateDaemonSet
Deployment kind # Keeps a number of equal pods running and rolls changes out.
  metadata 1 ObjectMeta
  spec 2 DeploymentSpec
  status 3 DeploymentStatus
DeploymentCondition
  type! 1 string
  status! 2 string
  reason 4 string
  message 5 string
  lastUpdateTime 6 Time
  lastTransitionTime 7 Time
DeploymentList kind
  metadata 1 ListMeta
  items! 2 []Deployment
DeploymentSpec # What is to run, how often, and how it is changed.
  replicas 1 *int32 # How many pods are wanted. 1 by default.
  selector! 2 *LabelSelector # Labels of the pods that belong to it. Cannot be changed.
  template! 3 core.PodTemplateSpec # What the pods look like.
  strategy 4 DeploymentStrategy retainKeys # How pods are replaced by new ones.
  minReadySeconds 5 int32 # Seconds a pod must be ready before it counts as available.
  revisionHistoryLimit 6 *int32 # How many old ReplicaSets are kept to go back to. 10 by default.
  paused 7 bool # Changes are not rolled out.
  progressDeadlineSeconds 9 *int32 # Seconds without progress after which a rollout counts as failed.
DeploymentStatus
  observedGeneration 1 int64
  replicas 2 int32 # Pods in all.
  updatedReplicas 3 int32 # Pods made from the current template.
  availableReplicas 4 int32 # Pods that have been ready for minReadySeconds.
  unavailableReplicas 5 int32
  conditions 6 []DeploymentCondition map=type merge=type
  readyReplicas 7 int32 # Pods that are ready.
  collisionCount 8 *int32
  terminatingReplicas 9 *int32
DeploymentStrategy # How pods are replaced by new ones.
  type 1 string # RollingUpdate: bit by bit. Recreate: all old pods end before new ones start.
  rollingUpdate 2 *RollingUpdateDeployment # Settings of RollingUpdate.
ReplicaSet kind # Keeps a number of equal pods running.
  metadata 1 ObjectMeta
  spec 2 ReplicaSetSpec
  status 3 ReplicaSetStatus
ReplicaSetCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
ReplicaSetList kind
  metadata 1 ListMeta
  items! 2 []ReplicaSet
ReplicaSetSpec
  replicas 1 *int32 # How many pods are wanted. 1 by default.
  selector! 2 *LabelSelector # Labels of the pods that belong to it. Cannot be changed.
  template 3 core.PodTemplateSpec # What the pods look like.
  minReadySeconds 4 int32
ReplicaSetStatus
  replicas! 1 int32
  fullyLabeledReplicas 2 int32
  observedGeneration 3 int64
  readyReplicas 4 int32
  availableReplicas 5 int32
  conditions 6 []ReplicaSetCondition map=type merge=type
  terminatingReplicas 7 *int32
RollingUpdateDaemonSet
  maxUnavailable 1 *IntOrString
  maxSurge 2 *IntOrString
RollingUpdateDeployment # Settings of a rolling update.
  maxUnavailable 1 *IntOrString # How many pods, or what share, may be missing.
  maxSurge 2 *IntOrString # How many pods, or what share, may exist beyond the wanted number.
RollingUpdateStatefulSetStrategy
  partition 1 *int32
  maxUnavailable 2 *IntOrString
StatefulSet kind # Runs numbered pods with names and storage that stay.
  metadata 1 ObjectMeta
  spec 2 StatefulSetSpec
  status 3 StatefulSetStatus
StatefulSetCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
StatefulSetList kind
  metadata 1 ListMeta
  items! 2 []StatefulSet
StatefulSetOrdinals
  start 1 int32 always
StatefulSetPersistentVolumeClaimRetentionPolicy
  whenDeleted 1 string
  whenScaled 2 string
StatefulSetSpec
  replicas 1 *int32 # How many pods are wanted. 1 by default.
  selector! 2 *LabelSelector # Labels of the pods that belong to it. Cannot be changed.
  template! 3 core.PodTemplateSpec # What the pods look like.
  volumeClaimTemplates 4 []core.PersistentVolumeClaim atomic # Claims made for each pod.
  serviceName 5 string always # The headless service that gives the pods their names.
  podManagementPolicy 6 string # OrderedReady: one after the other. Parallel: all at once.
  updateStrategy 7 StatefulSetUpdateStrategy # How pods are replaced by new ones.
  revisionHistoryLimit 8 *int32 # How many old revisions are kept.
  minReadySeconds 9 int32 # Seconds a pod must be ready before it counts as available.
  persistentVolumeClaimRetentionPolicy 10 *StatefulSetPersistentVolumeClaimRetentionPolicy # What becomes of claims.
  ordinals 11 *StatefulSetOrdinals # The number of its first pod.
StatefulSetStatus
  observedGeneration 1 int64
  replicas! 2 int32
  readyReplicas 3 int32
  currentReplicas 4 int32
  updatedReplicas 5 int32
  currentRevision 6 string
  updateRevision 7 string
  collisionCount 9 *int32
  conditions 10 []StatefulSetCondition map=type merge=type
  availableReplicas 11 int32 always
StatefulSetUpdateStrategy
  type 1 string
  rollingUpdate 2 *RollingUpdateStatefulSetStrategy
"""
