"""Types of core/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Affinity
  nodeAffinity 1 *NodeAffinity # Which nodes the pod wants, by their labels.
  podAffinity 2 *PodAffinity # Which pods it wants to be near.
  podAntiAffinity 3 *PodAntiAffinity # Which pods it wants to be away from.
AppArmorProfile
  type! 1 string
  localhostProfile 2 *string
AttachedVolume
  name! 1 string
  devicePath! 2 string
AWSElasticBlockStoreVolumeSource
  volumeID! 1 string
  fsType 2 string
  partition 3 int32
  readOnly 4 bool
AzureDiskVolumeSource
  diskName! 1 string
  diskURI! 2 string
  cachingMode 3 *string
  fsType 4 *string
  readOnly 5 *bool
  kind 6 *string
AzureFilePersistentVolumeSource
  secretName! 1 string
  shareName! 2 string
  readOnly 3 bool
  secretNamespace 4 *string
AzureFileVolumeSource
  secretName! 1 string
  shareName! 2 string
  readOnly 3 bool
Binding kind # Ties a pod to a node.
  metadata 1 ObjectMeta
  target! 2 ObjectReference
Capabilities
  add 1 []string atomic # Linux capabilities to give.
  drop 2 []string atomic # Linux capabilities to take away.
CephFSPersistentVolumeSource
  monitors! 1 []string atomic
  path 2 string
  user 3 string
  secretFile 4 string
  secretRef 5 *SecretReference
  readOnly 6 bool
CephFSVolumeSource
  monitors! 1 []string atomic
  path 2 string
  user 3 string
  secretFile 4 string
  secretRef 5 *LocalObjectReference
  readOnly 6 bool
CinderPersistentVolumeSource
  volumeID! 1 string
  fsType 2 string
  readOnly 3 bool
  secretRef 4 *SecretReference
CinderVolumeSource
  volumeID! 1 string
  fsType 2 string
  readOnly 3 bool
  secretRef 4 *LocalObjectReference
ClientIPConfig
  timeoutSeconds 1 *int32
ClusterTrustBundleProjection
  name 1 *string
  signerName 2 *string
  labelSelector 3 *LabelSelector
  path! 4 string
  optional 5 *bool
ComponentCondition
  type! 1 string
  status! 2 string
  message 3 string
  error 4 string
ComponentStatus kind # Health of a control plane part. Deprecated.
  metadata 1 ObjectMeta
  conditions 2 []ComponentCondition map=type merge=type
ComponentStatusList kind
  metadata 1 ListMeta
  items! 2 []ComponentStatus
ConfigMap kind # Configuration for pods, as keys and values.
  metadata 1 ObjectMeta
  data 2 {}string # Text by key. Keys consist of letters, digits, -, _ and dots.
  binaryData 3 {}bytes # Bytes by key, base64 encoded.
  immutable 4 *bool # If true, the data cannot be changed any more.
ConfigMapEnvSource
  name 1.1 string
  optional 2 *bool
ConfigMapKeySelector atomic
  name 1.1 string # Name of the ConfigMap.
  key! 2 string # Key whose value is taken.
  optional 3 *bool # Whether map or key may be missing.
ConfigMapList kind
  metadata 1 ListMeta
  items! 2 []ConfigMap
ConfigMapNodeConfigSource
  namespace! 1 string
  name! 2 string
  uid 3 string
  resourceVersion 4 string
  kubeletConfigKey! 5 string
ConfigMapProjection
  name 1.1 string
  items 2 []KeyToPath atomic
  optional 4 *bool
ConfigMapVolumeSource
  name 1.1 string # Name of the ConfigMap.
  items 2 []KeyToPath atomic # Keys to show, and as which files; all by default.
  defaultMode 3 *int32 # Mode of the files, 0644 by default.
  optional 4 *bool # Whether the map may be missing.
Container # One container of a pod.
  name! 1 string # Name of the container, unique in the pod.
  image 2 string # Container image, with registry, name and tag or digest.
  command 3 []string atomic # Entry point, instead of the image's. Not run in a shell.
  args 4 []string atomic # Arguments of the entry point. $(NAME) is replaced by the variable's value; $$ is a $.
  workingDir 5 string # Working directory, instead of the image's.
  ports 6 []ContainerPort map=containerPort,protocol merge=containerPort # Ports the container listens on.
  env 7 []EnvVar map=name merge=name # Environment variables.
  resources 8 ResourceRequirements # What the container needs and may use at most.
  volumeMounts 9 []VolumeMount map=mountPath merge=mountPath # Volumes of the pod mounted in the container.
  livenessProbe 10 *Probe # Checked while the container runs; the container is restarted when it fails.
  readinessProbe 11 *Probe # Checked while the container runs; services leave the pod out while it fails.
  lifecycle 12 *Lifecycle # What runs after the container starts and before it stops.
  terminationMessagePath 13 string # File whose content is shown as the reason of termination.
  imagePullPolicy 14 string # When the image is pulled: Always, IfNotPresent or Never. Always by default for the tag latest.
  securityContext 15 *SecurityContext # Privileges, user and capabilities of the container.
  stdin 16 bool # Keep standard input open.
  stdinOnce 17 bool
  tty 18 bool # Give the container a terminal.
  envFrom 19 []EnvFromSource atomic # Sources whose every key becomes an environment variable.
  terminationMessagePolicy 20 string
  volumeDevices 21 []VolumeDevice map=devicePath merge=devicePath # Block devices of the pod used in the container.
  startupProbe 22 *Probe # Checked first; the other probes wait until it succeeds.
  resizePolicy 23 []ContainerResizePolicy atomic # Whether a change of a resource restarts the container.
  restartPolicy 24 *string # Always makes an init container a sidecar.
  restartPolicyRules 25 []ContainerRestartRule atomic
ContainerExtendedResourceRequest
  containerName! 1 string
  resourceName! 2 string
  requestName! 3 string
ContainerImage
  names 1 []string always atomic
  sizeBytes 2 int64
ContainerPort # A port of a container.
  name 1 string # Name that services may use instead of the number.
  hostPort 2 int32 # Port of the node that leads to this one.
  containerPort! 3 int32 # Number of the port, 1 to 65535.
  protocol 4 string default=TCP # TCP, UDP or SCTP. TCP by default.
  hostIP 5 string # Address of the node the host port is bound to.
ContainerResizePolicy
  resourceName! 1 string
  restartPolicy! 2 string
ContainerRestartRule
  action! 1 string omit
  exitCodes 2 *ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes
  operator! 1 string omit
  values 2 []int32 set
ContainerState # What a container does now: waits, runs or has ended.
  waiting 1 *ContainerStateWaiting
  running 2 *ContainerStateRunning
  terminated 3 *ContainerStateTerminated
ContainerStateRunning
  startedAt 1 Time
ContainerStateTerminated
  exitCode! 1 int32
  signal 2 int32
  reason 3 string
  message 4 string
  startedAt 5 Time
  finishedAt 6 Time
  containerID 7 string
ContainerStateWaiting
  reason 1 string
  message 2 string
ContainerStatus # State of one container.
  name! 1 string # Name of the container.
  state 2 ContainerState # What it is doing: waiting, running or terminated.
  lastState 3 ContainerState # How its last instance ended.
  ready! 4 bool # Whether it passes its readiness probe.
  restartCount! 5 int32 # How often it was started again.
  image! 6 string # Image it runs.
  imageID! 7 string # Digest of that image.
  containerID 8 string # The runtime's name for it.
  started 9 *bool # Whether it passed its startup probe.
  allocatedResources 10 {}Quantity
  resources 11 *ResourceRequirements # Requests and limits in force.
  volumeMounts 12 []VolumeMountStatus map=mountPath merge=mountPath
  user 13 *ContainerUser
  allocatedResourcesStatus 14 []ResourceStatus map=name merge=name
  stopSignal 15 *string
ContainerUser
  linux 1 *LinuxContainerUser
CSIPersistentVolumeSource
  driver! 1 string
  volumeHandle! 2 string
  readOnly 3 bool
  fsType 4 string
  volumeAttributes 5 {}string
  controllerPublishSecretRef 6 *SecretReference
  nodeStageSecretRef 7 *SecretReference
  nodePublishSecretRef 8 *SecretReference
  controllerExpandSecretRef 9 *SecretReference
  nodeExpandSecretRef 10 *SecretReference
CSIVolumeSource
  driver! 1 string
  readOnly 2 *bool
  fsType 3 *string
  volumeAttributes 4 {}string
  nodePublishSecretRef 5 *LocalObjectReference
DaemonEndpoint
  Port! 1 int32
DownwardAPIProjection
  items 1 []DownwardAPIVolumeFile atomic
DownwardAPIVolumeFile
  path! 1 string
  fieldRef 2 *ObjectFieldSelector
  resourceFieldRef 3 *ResourceFieldSelector
  mode 4 *int32
DownwardAPIVolumeSource
  items 1 []DownwardAPIVolumeFile atomic
  defaultMode 2 *int32
EmptyDirVolumeSource # An empty directory that lives as long as the pod.
  medium 1 string # Empty for the node's disk, Memory for memory.
  sizeLimit 2 *Quantity # How much it may hold.
EndpointAddress atomic
  ip! 1 string
  targetRef 2 *ObjectReference
  hostname 3 string
  nodeName 4 *string
EndpointPort atomic
  name 1 string
  port! 2 int32
  protocol 3 string
  appProtocol 4 *string
Endpoints kind # Addresses behind a service. Use EndpointSlice instead.
  metadata 1 ObjectMeta
  subsets 2 []EndpointSubset atomic
EndpointsList kind
  metadata 1 ListMeta
  items! 2 []Endpoints
EndpointSubset
  addresses 1 []EndpointAddress atomic
  notReadyAddresses 2 []EndpointAddress atomic
  ports 3 []EndpointPort atomic
EnvFromSource
  prefix 1 string
  configMapRef 2 *ConfigMapEnvSource
  secretRef 3 *SecretEnvSource
EnvVar # One environment variable.
  name! 1 string # Name of the variable.
  value 2 string # Its value. $(NAME) is replaced by an earlier variable's value.
  valueFrom 3 *EnvVarSource # Where the value comes from.
EnvVarSource
  fieldRef 1 *ObjectFieldSelector # A field of the pod.
  resourceFieldRef 2 *ResourceFieldSelector # A request or limit of a container.
  configMapKeyRef 3 *ConfigMapKeySelector # A value of a ConfigMap.
  secretKeyRef 4 *SecretKeySelector # A value of a Secret.
  fileKeyRef 5 *FileKeySelector
EphemeralContainer # A container added to a running pod for debugging.
  name! 1.1 string
  image 1.2 string
  command 1.3 []string atomic
  args 1.4 []string atomic
  workingDir 1.5 string
  ports 1.6 []ContainerPort map=containerPort,protocol merge=containerPort
  env 1.7 []EnvVar map=name merge=name
  resources 1.8 ResourceRequirements
  volumeMounts 1.9 []VolumeMount map=mountPath merge=mountPath
  livenessProbe 1.10 *Probe
  readinessProbe 1.11 *Probe
  lifecycle 1.12 *Lifecycle
  terminationMessagePath 1.13 string
  imagePullPolicy 1.14 string
  securityContext 1.15 *SecurityContext
  stdin 1.16 bool
  stdinOnce 1.17 bool
  tty 1.18 bool
  envFrom 1.19 []EnvFromSource atomic
  terminationMessagePolicy 1.20 string
  volumeDevices 1.21 []VolumeDevice map=devicePath merge=devicePath
  startupProbe 1.22 *Probe
  resizePolicy 1.23 []ContainerResizePolicy atomic
  restartPolicy 1.24 *string
  restartPolicyRules 1.25 []ContainerRestartRule atomic
  targetContainerName 2 string
EphemeralVolumeSource
  volumeClaimTemplate 1 *PersistentVolumeClaimTemplate
Event kind # Something that happened to an object.
  metadata! 1 ObjectMeta
  involvedObject! 2 ObjectReference # The object it happened to.
  reason 3 string # What happened, for machines: one CamelCase word.
  message 4 string # What happened, for people.
  source 5 EventSource
  firstTimestamp 6 Time
  lastTimestamp 7 Time
  count 8 int32 # How often it happened.
  type 9 string # Normal or Warning.
  eventTime 10 MicroTime
  series 11 *EventSeries
  action 12 string
  related 13 *ObjectReference
  reportingComponent 14 string always
  reportingInstance 15 string always
EventList kind
  metadata 1 ListMeta
  items! 2 []Event
EventSeries
  count 1 int32
  lastObservedTime 2 MicroTime
EventSource
  component 1 string
  host 2 string
ExecAction
  command 1 []string atomic # Program and arguments, run in the container without a shell.
FCVolumeSource
  targetWWNs 1 []string atomic
  lun 2 *int32
  fsType 3 string
  readOnly 4 bool
  wwids 5 []string atomic
FileKeySelector atomic
  volumeName! 1 string
  path! 2 string
  key! 3 string
  optional 4 *bool
FlexPersistentVolumeSource
  driver! 1 string
  fsType 2 string
  secretRef 3 *SecretReference
  readOnly 4 bool
  options 5 {}string
FlexVolumeSource
  driver! 1 string
  fsType 2 string
  secretRef 3 *LocalObjectReference
  readOnly 4 bool
  options 5 {}string
FlockerVolumeSource
  datasetName 1 string
  datasetUUID 2 string
GCEPersistentDiskVolumeSource
  pdName! 1 string
  fsType 2 string
  partition 3 int32
  readOnly 4 bool
GitRepoVolumeSource
  repository! 1 string
  revision 2 string
  directory 3 string
GlusterfsPersistentVolumeSource
  endpoints! 1 string
  path! 2 string
  readOnly 3 bool
  endpointsNamespace 4 *string
GlusterfsVolumeSource
  endpoints! 1 string
  path! 2 string
  readOnly 3 bool
GRPCAction
  port! 1 int32
  service 2 *string
HostAlias
  ip! 1 string
  hostnames 2 []string atomic
HostIP
  ip! 1 string
HostPathVolumeSource
  path! 1 string # Path on the node.
  type 2 *string # What has to be there, such as Directory or FileOrCreate; empty for no check.
HTTPGetAction # An HTTP request; any status from 200 to 399 is a success.
  path 1 string # Path to ask for.
  port! 2 IntOrString # Number or name of the port.
  host 3 string # Host to connect to; the pod's address by default.
  scheme 4 string # HTTP or HTTPS.
  httpHeaders 5 []HTTPHeader atomic # Headers to send.
HTTPHeader
  name! 1 string
  value! 2 string
ImageVolumeSource
  reference 1 string
  pullPolicy 2 string
ImageVolumeStatus
  imageRef! 1 string omit
ISCSIPersistentVolumeSource
  targetPortal! 1 string
  iqn! 2 string
  lun! 3 int32
  iscsiInterface 4 string
  fsType 5 string
  readOnly 6 bool
  portals 7 []string atomic
  chapAuthDiscovery 8 bool
  secretRef 10 *SecretReference
  chapAuthSession 11 bool
  initiatorName 12 *string
ISCSIVolumeSource
  targetPortal! 1 string
  iqn! 2 string
  lun! 3 int32
  iscsiInterface 4 string
  fsType 5 string
  readOnly 6 bool
  portals 7 []string atomic
  chapAuthDiscovery 8 bool
  secretRef 10 *LocalObjectReference
  chapAuthSession 11 bool
  initiatorName 12 *string
KeyToPath
  key! 1 string # Key to show.
  path! 2 string # Relative path of its file.
  mode 3 *int32 # Mode of its file.
Lifecycle
  postStart 1 *LifecycleHandler # Done right after the container was started; it is killed if this fails.
  preStop 2 *LifecycleHandler # Done before the container is stopped, within its grace period.
  stopSignal 3 *string
LifecycleHandler
  exec 1 *ExecAction
  httpGet 2 *HTTPGetAction
  tcpSocket 3 *TCPSocketAction
  sleep 4 *SleepAction
LimitRange kind # Minimum, maximum and default amounts for the pods and claims of a namespace.
  metadata 1 ObjectMeta
  spec 2 LimitRangeSpec
LimitRangeItem
  type! 1 string
  max 2 {}Quantity
  min 3 {}Quantity
  default 4 {}Quantity
  defaultRequest 5 {}Quantity
  maxLimitRequestRatio 6 {}Quantity
LimitRangeList kind
  metadata 1 ListMeta
  items! 2 []LimitRange
LimitRangeSpec
  limits! 1 []LimitRangeItem atomic
LinuxContainerUser
  uid! 1 int64
  gid! 2 int64
  supplementalGroups 3 []int64 atomic
LoadBalancerIngress
  ip 1 string
  hostname 2 string
  ipMode 3 *string
  ports 4 []PortStatus atomic
LoadBalancerStatus
  ingress 1 []LoadBalancerIngress atomic
LocalObjectReference atomic # The name of an object in the same namespace.
  name 1 string # Name of the object.
LocalVolumeSource
  path! 1 string
  fsType 2 *string
ModifyVolumeStatus
  targetVolumeAttributesClassName 1 string
  status! 2 string
Namespace kind # A scope for names.
  metadata 1 ObjectMeta
  spec 2 NamespaceSpec
  status 3 NamespaceStatus
NamespaceCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 4 Time
  reason 5 string
  message 6 string
NamespaceList kind
  metadata 1 ListMeta
  items! 2 []Namespace
NamespaceSpec
  finalizers 1 []string atomic
NamespaceStatus
  phase 1 string
  conditions 2 []NamespaceCondition map=type merge=type
NFSVolumeSource
  server! 1 string
  path! 2 string
  readOnly 3 bool
Node kind # A machine pods run on.
  metadata 1 ObjectMeta
  spec 2 NodeSpec
  status 3 NodeStatus
NodeAddress
  type! 1 string
  address! 2 string
NodeAffinity
  requiredDuringSchedulingIgnoredDuringExecution 1 *NodeSelector # What a node must have to be chosen.
  preferredDuringSchedulingIgnoredDuringExecution 2 []PreferredSchedulingTerm atomic # What makes a node better, with weights.
NodeAllocatableResourceClaimStatus
  resourceClaimName! 1 string
  containers 2 []string set
  resources! 3 {}Quantity
NodeCondition
  type! 1 string
  status! 2 string
  lastHeartbeatTime 3 Time
  lastTransitionTime 4 Time
  reason 5 string
  message 6 string
NodeConfigSource
  configMap 2 *ConfigMapNodeConfigSource
NodeConfigStatus
  assigned 1 *NodeConfigSource
  active 2 *NodeConfigSource
  lastKnownGood 3 *NodeConfigSource
  error 4 string
NodeDaemonEndpoints
  kubeletEndpoint 1 DaemonEndpoint
NodeFeatures
  supplementalGroupsPolicy 1 *bool
NodeList kind
  metadata 1 ListMeta
  items! 2 []Node
NodeProxyOptions kind
  path 1 string
NodeRuntimeHandler
  name 1 string always
  features 2 *NodeRuntimeHandlerFeatures
NodeRuntimeHandlerFeatures
  recursiveReadOnlyMounts 1 *bool
  userNamespaces 2 *bool
NodeSelector atomic
  nodeSelectorTerms! 1 []NodeSelectorTerm atomic
NodeSelectorRequirement
  key! 1 string # Key of the label.
  operator! 2 string # In, NotIn, Exists, DoesNotExist, Gt or Lt.
  values 3 []string atomic # Values for In and NotIn; one number for Gt and Lt.
NodeSelectorTerm atomic
  matchExpressions 1 []NodeSelectorRequirement atomic # What has to be true of the node's labels.
  matchFields 2 []NodeSelectorRequirement atomic # What has to be true of the node's fields.
NodeSpec
  podCIDR 1 string # Address range of the node's pods.
  externalID 2 string
  providerID 3 string # What the cloud calls this machine.
  unschedulable 4 bool # No new pods are placed here.
  taints 5 []Taint atomic # What keeps pods away that do not tolerate it.
  configSource 6 *NodeConfigSource
  podCIDRs 7 []string set merge # Networks of the node's pods, one a family.
NodeStatus
  capacity 1 {}Quantity # What the machine has.
  allocatable 2 {}Quantity # What pods may use.
  phase 3 string
  conditions 4 []NodeCondition map=type merge=type # Current state, such as Ready.
  addresses 5 []NodeAddress map=type merge=type # Addresses of the machine.
  daemonEndpoints 6 NodeDaemonEndpoints
  nodeInfo 7 NodeSystemInfo # Versions and identifiers of the machine.
  images 8 []ContainerImage atomic # Images present on the machine.
  volumesInUse 9 []string atomic
  volumesAttached 10 []AttachedVolume atomic
  config 11 *NodeConfigStatus
  runtimeHandlers 12 []NodeRuntimeHandler atomic
  features 13 *NodeFeatures
  declaredFeatures 14 []string atomic
NodeSwapStatus
  capacity 1 *int64
NodeSystemInfo
  machineID! 1 string
  systemUUID! 2 string
  bootID! 3 string
  kernelVersion! 4 string
  osImage! 5 string
  containerRuntimeVersion! 6 string
  kubeletVersion! 7 string
  kubeProxyVersion! 8 string
  operatingSystem! 9 string
  architecture! 10 string
  swap 11 *NodeSwapStatus
ObjectFieldSelector atomic
  apiVersion 1 string
  fieldPath! 2 string # Path of the field, such as metadata.name or status.podIP.
ObjectReference atomic # Names an object anywhere.
  kind 1 string
  namespace 2 string
  name 3 string
  uid 4 string
  apiVersion 5 string
  resourceVersion 6 string
  fieldPath 7 string
PersistentVolume kind # A piece of storage of the cluster.
  metadata 1 ObjectMeta
  spec 2 PersistentVolumeSpec
  status 3 PersistentVolumeStatus
PersistentVolumeClaim kind # A request for storage.
  metadata 1 ObjectMeta
  spec 2 PersistentVolumeClaimSpec
  status 3 PersistentVolumeClaimStatus
PersistentVolumeClaimCondition
  type! 1 string
  status! 2 string
  lastProbeTime 3 Time
  lastTransitionTime 4 Time
  reason 5 string
  message 6 string
PersistentVolumeClaimList kind
  metadata 1 ListMeta
  items! 2 []PersistentVolumeClaim
PersistentVolumeClaimSpec
  accessModes 1 []string atomic # How the volume is to be mounted.
  resources 2 VolumeResourceRequirements # How much is wanted.
  volumeName 3 string # The volume this claim is bound to.
  selector 4 *LabelSelector # Labels of the volumes it may be bound to.
  storageClassName 5 *string # The storage class that makes the volume.
  volumeMode 6 *string # Filesystem or Block.
  dataSource 7 *TypedLocalObjectReference # What the volume is filled from: a snapshot or another claim.
  dataSourceRef 8 *TypedObjectReference
  volumeAttributesClassName 9 *string
PersistentVolumeClaimStatus
  phase 1 string
  accessModes 2 []string atomic
  capacity 3 {}Quantity
  conditions 4 []PersistentVolumeClaimCondition map=type merge=type
  allocatedResources 5 {}Quantity
  allocatedResourceStatuses 7 {}string granular
  currentVolumeAttributesClassName 8 *string
  modifyVolumeStatus 9 *ModifyVolumeStatus
PersistentVolumeClaimTemplate
  metadata 1 ObjectMeta
  spec! 2 PersistentVolumeClaimSpec
PersistentVolumeClaimVolumeSource
  claimName! 1 string
  readOnly 2 bool
PersistentVolumeList kind
  metadata 1 ListMeta
  items! 2 []PersistentVolume
PersistentVolumeSpec
  capacity 1 {}Quantity # How large it is.
  gcePersistentDisk 2.1 *GCEPersistentDiskVolumeSource
  awsElasticBlockStore 2.2 *AWSElasticBlockStoreVolumeSource
  hostPath 2.3 *HostPathVolumeSource # A directory of the node.
  glusterfs 2.4 *GlusterfsPersistentVolumeSource
  nfs 2.5 *NFSVolumeSource # An NFS share.
  rbd 2.6 *RBDPersistentVolumeSource
  iscsi 2.7 *ISCSIPersistentVolumeSource
  cinder 2.8 *CinderPersistentVolumeSource
  cephfs 2.9 *CephFSPersistentVolumeSource
  fc 2.10 *FCVolumeSource
  flocker 2.11 *FlockerVolumeSource
  flexVolume 2.12 *FlexPersistentVolumeSource
  azureFile 2.13 *AzureFilePersistentVolumeSource
  vsphereVolume 2.14 *VsphereVirtualDiskVolumeSource
  quobyte 2.15 *QuobyteVolumeSource
  azureDisk 2.16 *AzureDiskVolumeSource
  photonPersistentDisk 2.17 *PhotonPersistentDiskVolumeSource
  portworxVolume 2.18 *PortworxVolumeSource
  scaleIO 2.19 *ScaleIOPersistentVolumeSource
  local 2.20 *LocalVolumeSource # A disk or directory of one node.
  storageos 2.21 *StorageOSPersistentVolumeSource
  csi 2.22 *CSIPersistentVolumeSource # A volume of a CSI driver.
  accessModes 3 []string atomic # How it can be mounted, such as ReadWriteOnce.
  claimRef 4 *ObjectReference granular # The claim it is bound to.
  persistentVolumeReclaimPolicy 5 string # What becomes of it when the claim goes: Retain or Delete.
  storageClassName 6 string # Class it belongs to.
  mountOptions 7 []string atomic # Options for mount.
  volumeMode 8 *string # Filesystem or Block.
  nodeAffinity 9 *VolumeNodeAffinity # Nodes that can reach it.
  volumeAttributesClassName 10 *string
PersistentVolumeStatus
  phase 1 string
  message 2 string
  reason 3 string
  lastPhaseTransitionTime 4 *Time
PhotonPersistentDiskVolumeSource
  pdID! 1 string
  fsType 2 string
Pod kind # Containers that run together on one node and share network and volumes.
  metadata 1 ObjectMeta
  spec 2 PodSpec
  status 3 PodStatus
PodAffinity
  requiredDuringSchedulingIgnoredDuringExecution 1 []PodAffinityTerm atomic # Pods that must be near.
  preferredDuringSchedulingIgnoredDuringExecution 2 []WeightedPodAffinityTerm atomic # Pods that should be near, with weights.
PodAffinityTerm
  labelSelector 1 *LabelSelector # Labels of the pods meant.
  namespaces 2 []string atomic # Namespaces of the pods meant; the pod's own by default.
  topologyKey! 3 string # Label of nodes; nodes with the same value are near each other.
  namespaceSelector 4 *LabelSelector # Labels of the namespaces meant.
  matchLabelKeys 5 []string atomic
  mismatchLabelKeys 6 []string atomic
PodAntiAffinity
  requiredDuringSchedulingIgnoredDuringExecution 1 []PodAffinityTerm atomic # Pods that must not be near.
  preferredDuringSchedulingIgnoredDuringExecution 2 []WeightedPodAffinityTerm atomic # Pods that should not be near, weighted.
PodAttachOptions kind
  stdin 1 bool
  stdout 2 bool
  stderr 3 bool
  tty 4 bool
  container 5 string
PodCertificateProjection
  signerName! 1 string omit
  keyType! 2 string omit
  maxExpirationSeconds 3 *int32
  credentialBundlePath 4 string
  keyPath 5 string
  certificateChainPath 6 string
  userAnnotations 7 {}string
PodCondition
  type! 1 string
  status! 2 string
  lastProbeTime 3 Time
  lastTransitionTime 4 Time
  reason 5 string
  message 6 string
  observedGeneration 7 int64
PodDNSConfig
  nameservers 1 []string atomic
  searches 2 []string atomic
  options 3 []PodDNSConfigOption atomic
PodDNSConfigOption
  name 1 string
  value 2 *string
PodExecOptions kind
  stdin 1 bool
  stdout 2 bool
  stderr 3 bool
  tty 4 bool
  container 5 string
  command 6 []string
PodExtendedResourceClaimStatus
  requestMappings! 1 []ContainerExtendedResourceRequest atomic
  resourceClaimName! 2 string
PodIP
  ip! 1 string
PodList kind
  metadata 1 ListMeta
  items! 2 []Pod
PodLogOptions kind
  container 1 string
  follow 2 bool
  previous 3 bool
  sinceSeconds 4 *int64
  sinceTime 5 *Time
  timestamps 6 bool
  tailLines 7 *int64
  limitBytes 8 *int64
  insecureSkipTLSVerifyBackend 9 bool
  stream 10 *string
PodOS
  name! 1 string
PodPortForwardOptions kind
  ports 1 []int32
PodProxyOptions kind
  path 1 string
PodReadinessGate
  conditionType! 1 string
PodResourceClaim
  name! 1 string
  resourceClaimName 3 *string
  resourceClaimTemplateName 4 *string
PodResourceClaimStatus
  name! 1 string
  resourceClaimName 2 *string
PodSchedulingGate
  name! 1 string
PodSchedulingGroup
  podGroupName 1 *string
PodSecurityContext
  seLinuxOptions 1 *SELinuxOptions # SELinux label of the containers.
  runAsUser 2 *int64 # Number of the user that processes run as.
  runAsNonRoot 3 *bool # Refuse to run as root.
  supplementalGroups 4 []int64 atomic # Further groups of the processes.
  fsGroup 5 *int64 # Group that volumes belong to.
  runAsGroup 6 *int64 # Number of the group that processes run as.
  sysctls 7 []Sysctl atomic # Kernel settings of the pod's namespaces.
  windowsOptions 8 *WindowsSecurityContextOptions # For Windows nodes.
  fsGroupChangePolicy 9 *string # Whether owners are set at each mount: Always or OnRootMismatch.
  seccompProfile 10 *SeccompProfile # Which system calls are allowed.
  appArmorProfile 11 *AppArmorProfile # AppArmor profile of the containers.
  supplementalGroupsPolicy 12 *string # Whether groups of the image count: Merge or Strict.
  seLinuxChangePolicy 13 *string
PodSpec # How a pod is to run.
  volumes 1 []Volume map=name merge=name retainKeys # Volumes the containers can mount.
  containers! 2 []Container map=name merge=name # The containers; at least one.
  restartPolicy 3 string # Which ended containers are restarted: Always, OnFailure or Never.
  terminationGracePeriodSeconds 4 *int64 # Seconds between asking the containers to stop and killing them.
  activeDeadlineSeconds 5 *int64 # Seconds after which the pod is ended.
  dnsPolicy 6 string # Where names are resolved: ClusterFirst, ClusterFirstWithHostNet, Default or None.
  nodeSelector 7 {}string atomic # Labels the node must have.
  serviceAccountName 8 string # The service account the pod acts as.
  serviceAccount 9 string # Old name of serviceAccountName.
  nodeName 10 string # The node the pod runs on.
  hostNetwork 11 bool # Use the node's network.
  hostPID 12 bool # Use the node's process namespace.
  hostIPC 13 bool # Use the node's IPC namespace.
  securityContext 14 *PodSecurityContext # Users, groups and other settings for all containers.
  imagePullSecrets 15 []LocalObjectReference map=name merge=name # Secrets with credentials for registries.
  hostname 16 string # Name of the pod's host, instead of the pod's name.
  subdomain 17 string # With hostname: the pod's name in DNS, below this service.
  affinity 18 *Affinity # Rules for choosing the node.
  schedulerName 19 string # The scheduler that places the pod.
  initContainers 20 []Container map=name merge=name # Containers that run one after the other before the others start.
  automountServiceAccountToken 21 *bool # Whether the service account's token is mounted.
  tolerations 22 []Toleration atomic # Taints of nodes the pod accepts.
  hostAliases 23 []HostAlias map=ip merge=ip # Extra lines of /etc/hosts.
  priorityClassName 24 string # Class that gives the priority.
  priority 25 *int32 # Priority; higher is more important.
  dnsConfig 26 *PodDNSConfig # Name servers, search domains and options, in addition to the policy's.
  shareProcessNamespace 27 *bool # The containers see each other's processes.
  readinessGates 28 []PodReadinessGate atomic # Conditions that must be true before the pod is ready.
  runtimeClassName 29 *string # The runtime that runs the pod.
  enableServiceLinks 30 *bool # Whether services appear as environment variables.
  preemptionPolicy 31 *string # Whether pods of lower priority may be removed for this one.
  overhead 32 {}Quantity # What running it costs besides its containers.
  topologySpreadConstraints 33 []TopologySpreadConstraint map=topologyKey,whenUnsatisfiable merge=topologyKey
  ephemeralContainers 34 []EphemeralContainer map=name merge=name # Containers added for debugging.
  setHostnameAsFQDN 35 *bool # Whether its host name is the whole domain name.
  os 36 *PodOS # The operating system it is for.
  hostUsers 37 *bool # Whether it shares the node's user namespace.
  schedulingGates 38 []PodSchedulingGate map=name merge=name # It is not scheduled while there is one.
  resourceClaims 39 []PodResourceClaim map=name merge=name retainKeys
  resources 40 *ResourceRequirements
  hostnameOverride 41 *string
  schedulingGroup 43 *PodSchedulingGroup
PodStatus # State of a pod.
  phase 1 string # Pending, Running, Succeeded, Failed or Unknown.
  conditions 2 []PodCondition map=type merge=type # Conditions such as Ready and PodScheduled.
  message 3 string # Why it is in this state.
  reason 4 string # The same as one word, such as Evicted.
  hostIP 5 string # Address of the node.
  podIP 6 string # Address of the pod.
  startTime 7 *Time # When the kubelet took the pod over.
  containerStatuses 8 []ContainerStatus atomic # State of each container.
  qosClass 9 string # Guaranteed, Burstable or BestEffort.
  initContainerStatuses 10 []ContainerStatus atomic # State of each init container.
  nominatedNodeName 11 string # Node on which room is made for it.
  podIPs 12 []PodIP map=ip merge=ip # Its addresses, one a family.
  ephemeralContainerStatuses 13 []ContainerStatus atomic # State of each ephemeral container.
  resize 14 string
  resourceClaimStatuses 15 []PodResourceClaimStatus map=name merge=name retainKeys
  hostIPs 16 []HostIP atomic merge=ip # Addresses of its node.
  observedGeneration 17 int64 # Generation of the spec this status is of.
  extendedResourceClaimStatus 18 *PodExtendedResourceClaimStatus
  allocatedResources 19 {}Quantity
  resources 20 *ResourceRequirements
  nodeAllocatableResourceClaimStatuses 21 []NodeAllocatableResourceClaimStatus atomic
PodTemplate kind # A template for pods.
  metadata 1 ObjectMeta
  template 2 PodTemplateSpec
PodTemplateList kind
  metadata 1 ListMeta
  items! 2 []PodTemplate
PodTemplateSpec # What pods made from a template look like.
  metadata 1 ObjectMeta
  spec 2 PodSpec
PortStatus
  port! 1 int32
  protocol! 2 string
  error 3 *string
PortworxVolumeSource
  volumeID! 1 string
  fsType 2 string
  readOnly 3 bool
PreferredSchedulingTerm
  weight! 1 int32
  preference! 2 NodeSelectorTerm
Probe # A check of a container.
  exec 1.1 *ExecAction # Run a command in the container; exit code 0 is a success.
  httpGet 1.2 *HTTPGetAction # Make an HTTP request.
  tcpSocket 1.3 *TCPSocketAction # Open a TCP connection.
  grpc 1.4 *GRPCAction # Ask the gRPC health service.
  initialDelaySeconds 2 int32 # Seconds after the start before the first check.
  timeoutSeconds 3 int32 # Seconds after which a check fails.
  periodSeconds 4 int32 # Seconds between checks.
  successThreshold 5 int32 # Successes in a row that make it succeeded.
  failureThreshold 6 int32 # Failures in a row that make it failed.
  terminationGracePeriodSeconds 7 *int64 # Grace period after this probe failed.
ProjectedVolumeSource
  sources 1 []VolumeProjection always atomic # What is shown in one directory.
  defaultMode 2 *int32 # Mode of the files, 0644 by default.
QuobyteVolumeSource
  registry! 1 string
  volume! 2 string
  readOnly 3 bool
  user 4 string
  group 5 string
  tenant 6 string
RBDPersistentVolumeSource
  monitors! 1 []string atomic
  image! 2 string
  fsType 3 string
  pool 4 string
  user 5 string
  keyring 6 string
  secretRef 7 *SecretReference
  readOnly 8 bool
RBDVolumeSource
  monitors! 1 []string atomic
  image! 2 string
  fsType 3 string
  pool 4 string
  user 5 string
  keyring 6 string
  secretRef 7 *LocalObjectReference
  readOnly 8 bool
ReplicationController kind # Keeps a number of pods running. Use Deployment instead.
  metadata 1 ObjectMeta
  spec 2 ReplicationControllerSpec
  status 3 ReplicationControllerStatus
ReplicationControllerCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
ReplicationControllerList kind
  metadata 1 ListMeta
  items! 2 []ReplicationController
ReplicationControllerSpec
  replicas 1 *int32
  selector 2 {}string atomic
  template 3 *PodTemplateSpec
  minReadySeconds 4 int32
ReplicationControllerStatus
  replicas! 1 int32
  fullyLabeledReplicas 2 int32
  observedGeneration 3 int64
  readyReplicas 4 int32
  availableReplicas 5 int32
  conditions 6 []ReplicationControllerCondition map=type merge=type
ResourceClaim
  name! 1 string
  request 2 string
ResourceFieldSelector atomic
  containerName 1 string
  resource! 2 string
  divisor 3 Quantity
ResourceHealth
  resourceID! 1 string
  health 2 string
  message 6 *string
ResourceQuota kind # Upper bounds for what a namespace uses.
  metadata 1 ObjectMeta
  spec 2 ResourceQuotaSpec
  status 3 ResourceQuotaStatus
ResourceQuotaList kind
  metadata 1 ListMeta
  items! 2 []ResourceQuota
ResourceQuotaSpec
  hard 1 {}Quantity # What a namespace may use, by resource.
  scopes 2 []string atomic # Kinds of pods it counts, such as BestEffort.
  scopeSelector 3 *ScopeSelector
ResourceQuotaStatus
  hard 1 {}Quantity
  used 2 {}Quantity
ResourceRequirements # What a container needs and may use at most.
  limits 1 {}Quantity # Most it may use, by resource.
  requests 2 {}Quantity # What is reserved for it, by resource.
  claims 3 []ResourceClaim map=name
ResourceStatus
  name! 1 string
  resources 2 []ResourceHealth map=resourceID
ScaleIOPersistentVolumeSource
  gateway! 1 string
  system! 2 string
  secretRef! 3 *SecretReference
  sslEnabled 4 bool
  protectionDomain 5 string
  storagePool 6 string
  storageMode 7 string
  volumeName 8 string
  fsType 9 string
  readOnly 10 bool
ScaleIOVolumeSource
  gateway! 1 string
  system! 2 string
  secretRef! 3 *LocalObjectReference
  sslEnabled 4 bool
  protectionDomain 5 string
  storagePool 6 string
  storageMode 7 string
  volumeName 8 string
  fsType 9 string
  readOnly 10 bool
ScopedResourceSelectorRequirement
  scopeName! 1 string
  operator! 2 string
  values 3 []string atomic
ScopeSelector atomic
  matchExpressions 1 []ScopedResourceSelectorRequirement atomic
SeccompProfile
  type! 1 string
  localhostProfile 2 *string
Secret kind # Small confidential data.
  metadata 1 ObjectMeta
  data 2 {}bytes # Bytes by key, base64 encoded.
  type 3 string # What the secret is for; decides which keys it must have.
  stringData 4 {}string # Text by key, written into data. Never returned.
  immutable 5 *bool # If true, the data cannot be changed any more.
SecretEnvSource
  name 1.1 string
  optional 2 *bool
SecretKeySelector atomic
  name 1.1 string # Name of the Secret.
  key! 2 string # Key whose value is taken.
  optional 3 *bool # Whether Secret or key may be missing.
SecretList kind
  metadata 1 ListMeta
  items! 2 []Secret
SecretProjection
  name 1.1 string
  items 2 []KeyToPath atomic
  optional 4 *bool
SecretReference atomic
  name 1 string
  namespace 2 string
SecretVolumeSource
  secretName 1 string # Name of the Secret.
  items 2 []KeyToPath atomic # Keys to show, and as which files; all by default.
  defaultMode 3 *int32 # Mode of the files, 0644 by default.
  optional 4 *bool # Whether the Secret may be missing.
SecurityContext # Privileges of a container.
  capabilities 1 *Capabilities # Linux capabilities to add and drop.
  privileged 2 *bool # Whether it may do everything on the node.
  seLinuxOptions 3 *SELinuxOptions # SELinux label of the container.
  runAsUser 4 *int64 # Number of the user that processes run as.
  runAsNonRoot 5 *bool # Refuse to run as root.
  readOnlyRootFilesystem 6 *bool # Whether its root cannot be written.
  allowPrivilegeEscalation 7 *bool # Whether a process may gain more rights than its parent.
  runAsGroup 8 *int64 # Number of the group that processes run as.
  procMount 9 *string # How /proc is mounted: Default or Unmasked.
  windowsOptions 10 *WindowsSecurityContextOptions # For Windows nodes.
  seccompProfile 11 *SeccompProfile # Which system calls are allowed.
  appArmorProfile 12 *AppArmorProfile # AppArmor profile of the container.
SELinuxOptions
  user 1 string
  role 2 string
  type 3 string
  level 4 string
Service kind # A name and address for a set of pods.
  metadata 1 ObjectMeta
  spec 2 ServiceSpec
  status 3 ServiceStatus
ServiceAccount kind # An identity for the processes in pods.
  metadata 1 ObjectMeta
  secrets 2 []ObjectReference map=name merge=name # Secrets its pods may use.
  imagePullSecrets 3 []LocalObjectReference atomic # Credentials for the images of its pods.
  automountServiceAccountToken 4 *bool # Whether its pods get a token.
ServiceAccountList kind
  metadata 1 ListMeta
  items! 2 []ServiceAccount
ServiceAccountTokenProjection
  audience 1 string
  expirationSeconds 2 *int64
  path! 3 string
ServiceList kind
  metadata 1 ListMeta
  items! 2 []Service
ServicePort # A port of a service.
  name 1 string # Name of the port; needed where there are several.
  protocol 2 string default=TCP # TCP, UDP or SCTP. TCP by default.
  port! 3 int32 # Port of the service.
  targetPort 4 IntOrString # Port of the pods, by number or name.
  nodePort 5 int32 # Port of every node that leads to the service.
  appProtocol 6 *string # Protocol above TCP, such as kubernetes.io/h2c.
ServiceProxyOptions kind
  path 1 string
ServiceSpec # How a service is reached, and which pods are behind it.
  ports 1 []ServicePort map=port,protocol merge=port # Ports of the service.
  selector 2 {}string atomic # Labels of the pods behind the service.
  clusterIP 3 string # Address of the service inside the cluster; None makes it headless.
  type 4 string # ClusterIP, NodePort, LoadBalancer or ExternalName.
  externalIPs 5 []string atomic # Other addresses for which nodes accept traffic to the service.
  sessionAffinity 7 string # ClientIP leads a client to the same pod each time; None does not.
  loadBalancerIP 8 string
  loadBalancerSourceRanges 9 []string atomic # Networks that may use the load balancer.
  externalName 10 string # The name this one is an alias of, for the type ExternalName.
  externalTrafficPolicy 11 string # Cluster: a node forwards to any pod. Local: only to its own, keeping the client address.
  healthCheckNodePort 12 int32 # Port where nodes say whether they have an endpoint.
  publishNotReadyAddresses 13 bool # Pods are included before they are ready.
  sessionAffinityConfig 14 *SessionAffinityConfig # How long a client is remembered.
  ipFamilyPolicy 17 *string # SingleStack, PreferDualStack or RequireDualStack.
  clusterIPs 18 []string atomic # All addresses inside the cluster, one for each IP family.
  ipFamilies 19 []string atomic # IP families of the service.
  allocateLoadBalancerNodePorts 20 *bool
  loadBalancerClass 21 *string # Who makes the load balancer.
  internalTrafficPolicy 22 *string # Cluster: any pod. Local: only pods of the client's node.
  trafficDistribution 23 *string # Whether near endpoints are preferred, such as PreferSameZone.
ServiceStatus
  loadBalancer 1 LoadBalancerStatus
  conditions 2 []Condition map=type merge=type
SessionAffinityConfig
  clientIP 1 *ClientIPConfig
SleepAction
  seconds! 1 int64
StorageOSPersistentVolumeSource
  volumeName 1 string
  volumeNamespace 2 string
  fsType 3 string
  readOnly 4 bool
  secretRef 5 *ObjectReference
StorageOSVolumeSource
  volumeName 1 string
  volumeNamespace 2 string
  fsType 3 string
  readOnly 4 bool
  secretRef 5 *LocalObjectReference
Sysctl
  name! 1 string
  value! 2 string
Taint # Keeps pods away from a node.
  key! 1 string # Key of the taint.
  value 2 string # Value of the taint.
  effect! 3 string # NoSchedule, PreferNoSchedule or NoExecute.
  timeAdded 4 *Time # When it was added.
TCPSocketAction
  port! 1 IntOrString # Number or name of the port.
  host 2 string # Host to connect to; the pod's address by default.
Toleration # Lets a pod accept a taint.
  key 1 string # Key of the taint; empty for all.
  operator 2 string # Exists or Equal.
  value 3 string # Value of the taint, for Equal.
  effect 4 string # Effect of the taint; empty for all.
  tolerationSeconds 5 *int64 # How long NoExecute is tolerated; for ever by default.
TopologySelectorLabelRequirement
  key! 1 string
  values! 2 []string atomic
TopologySelectorTerm atomic
  matchLabelExpressions 1 []TopologySelectorLabelRequirement atomic
TopologySpreadConstraint
  maxSkew! 1 int32 # How much more pods one place may have than another.
  topologyKey! 2 string # Label of nodes; nodes with the same value are one place.
  whenUnsatisfiable! 3 string # DoNotSchedule or ScheduleAnyway.
  labelSelector 4 *LabelSelector # Labels of the pods that are counted.
  minDomains 5 *int32 # How many places there have to be.
  nodeAffinityPolicy 6 *string
  nodeTaintsPolicy 7 *string
  matchLabelKeys 8 []string atomic
TypedLocalObjectReference atomic
  apiGroup 1 *string
  kind! 2 string
  name! 3 string
TypedObjectReference
  apiGroup 1 *string
  kind! 2 string
  name! 3 string
  namespace 4 *string
Volume # A directory that the containers of a pod can mount.
  name! 1 string # Name of the volume, unique in the pod.
  hostPath 2.1 *HostPathVolumeSource # A file or directory of the node.
  emptyDir 2.2 *EmptyDirVolumeSource # An empty directory that lives as long as the pod.
  gcePersistentDisk 2.3 *GCEPersistentDiskVolumeSource
  awsElasticBlockStore 2.4 *AWSElasticBlockStoreVolumeSource
  gitRepo 2.5 *GitRepoVolumeSource
  secret 2.6 *SecretVolumeSource # Files from a Secret.
  nfs 2.7 *NFSVolumeSource # A directory of an NFS server.
  iscsi 2.8 *ISCSIVolumeSource
  glusterfs 2.9 *GlusterfsVolumeSource
  persistentVolumeClaim 2.10 *PersistentVolumeClaimVolumeSource # The volume bound to a claim.
  rbd 2.11 *RBDVolumeSource
  flexVolume 2.12 *FlexVolumeSource
  cinder 2.13 *CinderVolumeSource
  cephfs 2.14 *CephFSVolumeSource
  flocker 2.15 *FlockerVolumeSource
  downwardAPI 2.16 *DownwardAPIVolumeSource # Files with facts about the pod.
  fc 2.17 *FCVolumeSource
  azureFile 2.18 *AzureFileVolumeSource
  configMap 2.19 *ConfigMapVolumeSource # Files from a ConfigMap.
  vsphereVolume 2.20 *VsphereVirtualDiskVolumeSource
  quobyte 2.21 *QuobyteVolumeSource
  azureDisk 2.22 *AzureDiskVolumeSource
  photonPersistentDisk 2.23 *PhotonPersistentDiskVolumeSource
  portworxVolume 2.24 *PortworxVolumeSource
  scaleIO 2.25 *ScaleIOVolumeSource
  projected 2.26 *ProjectedVolumeSource # Files from several sources in one directory.
  storageos 2.27 *StorageOSVolumeSource
  csi 2.28 *CSIVolumeSource # Storage made by a CSI driver for this pod.
  ephemeral 2.29 *EphemeralVolumeSource # A claim made for the pod, which goes with it.
  image 2.30 *ImageVolumeSource # The files of an image.
VolumeDevice
  name! 1 string
  devicePath! 2 string
VolumeMount # Where a volume is mounted in a container.
  name! 1 string # Name of the volume.
  readOnly 2 bool # Mount without the right to write.
  mountPath! 3 string # Path in the container.
  subPath 4 string # Path inside the volume that is mounted, instead of its root.
  mountPropagation 5 *string # Whether mounts show on the other side: None, HostToContainer or Bidirectional.
  subPathExpr 6 string # Like subPath, with $(VARIABLE) replaced.
  recursiveReadOnly 7 *string # Whether mounts below are read-only too.
VolumeMountStatus
  name! 1 string
  mountPath! 2 string
  readOnly 3 bool
  recursiveReadOnly 4 *string
  volumeStatus 5 *VolumeStatus
VolumeNodeAffinity
  required 1 *NodeSelector
VolumeProjection
  secret 1 *SecretProjection
  downwardAPI 2 *DownwardAPIProjection
  configMap 3 *ConfigMapProjection
  serviceAccountToken 4 *ServiceAccountTokenProjection
  clusterTrustBundle 5 *ClusterTrustBundleProjection
  podCertificate 6 *PodCertificateProjection
VolumeResourceRequirements
  limits 1 {}Quantity
  requests 2 {}Quantity
VolumeStatus
  image 1 *ImageVolumeStatus
VsphereVirtualDiskVolumeSource
  volumePath! 1 string
  fsType 2 string
  storagePolicyName 3 string
  storagePolicyID 4 string
WeightedPodAffinityTerm
  weight! 1 int32
  podAffinityTerm! 2 PodAffinityTerm
WindowsSecurityContextOptions
  gmsaCredentialSpecName 1 *string
  gmsaCredentialSpec 2 *string
  runAsUserName 3 *string
  hostProcess 4 *bool
"""
