"""Types of storage/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
CSIDriver kind # What a CSI driver can do.
  metadata 1 ObjectMeta
  spec! 2 CSIDriverSpec
CSIDriverList kind
  metadata 1 ListMeta
  items! 2 []CSIDriver
CSIDriverSpec
  attachRequired 1 *bool
  podInfoOnMount 2 *bool
  volumeLifecycleModes 3 []string set
  storageCapacity 4 *bool
  fsGroupPolicy 5 *string
  tokenRequests 6 []TokenRequest atomic
  requiresRepublish 7 *bool
  seLinuxMount 8 *bool
  nodeAllocatableUpdatePeriodSeconds 9 *int64
  serviceAccountTokenInSecrets 10 *bool
  preventPodSchedulingIfMissing 11 *bool
CSINode kind # CSI drivers installed on a node.
  metadata 1 ObjectMeta
  spec! 2 CSINodeSpec
CSINodeDriver
  name! 1 string
  nodeID! 2 string
  topologyKeys 3 []string always atomic
  allocatable 4 *VolumeNodeResources
CSINodeList kind
  metadata 1 ListMeta
  items! 2 []CSINode
CSINodeSpec
  drivers! 1 []CSINodeDriver map=name merge=name
CSIStorageCapacity kind # Storage left for a class, by topology.
  metadata 1 ObjectMeta
  nodeTopology 2 *LabelSelector
  storageClassName! 3 string
  capacity 4 *Quantity
  maximumVolumeSize 5 *Quantity
CSIStorageCapacityList kind
  metadata 1 ListMeta
  items! 2 []CSIStorageCapacity
StorageClass kind # A kind of storage that claims can ask for.
  metadata 1 ObjectMeta
  provisioner! 2 string # Who makes the volumes.
  parameters 3 {}string # What the provisioner is told.
  reclaimPolicy 4 *string # What becomes of volumes when their claims go: Delete or Retain.
  mountOptions 5 []string atomic # Options for mount.
  allowVolumeExpansion 6 *bool # Whether claims may grow.
  volumeBindingMode 7 *string # Immediate, or WaitForFirstConsumer for a volume near the first pod.
  allowedTopologies 8 []core.TopologySelectorTerm atomic # Where volumes may be made.
StorageClassList kind
  metadata 1 ListMeta
  items! 2 []StorageClass
TokenRequest
  audience! 1 string
  expirationSeconds 2 *int64
VolumeAttachment kind # Attaches a volume to a node.
  metadata 1 ObjectMeta
  spec! 2 VolumeAttachmentSpec
  status 3 VolumeAttachmentStatus
VolumeAttachmentList kind
  metadata 1 ListMeta
  items! 2 []VolumeAttachment
VolumeAttachmentSource
  persistentVolumeName 1 *string
  inlineVolumeSpec 2 *core.PersistentVolumeSpec
VolumeAttachmentSpec
  attacher! 1 string
  source! 2 VolumeAttachmentSource
  nodeName! 3 string
VolumeAttachmentStatus
  attached! 1 bool
  attachmentMetadata 2 {}string
  attachError 3 *VolumeError
  detachError 4 *VolumeError
VolumeAttributesClass kind # Volume settings that can be changed later.
  metadata 1 ObjectMeta
  driverName! 2 string
  parameters 3 {}string
VolumeAttributesClassList kind
  metadata 1 ListMeta
  items! 2 []VolumeAttributesClass
VolumeError
  time 1 Time
  message 2 string
  errorCode 3 *int32
VolumeNodeResources
  count 1 *int32
"""
