"""Types of meta.k8s.io/v1 and the shared scalar types. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
APIGroup kind
  name! 1 string
  versions! 2 []GroupVersionForDiscovery atomic
  preferredVersion 3 GroupVersionForDiscovery
  serverAddressByClientCIDRs 4 []ServerAddressByClientCIDR atomic
APIGroupList kind
  groups! 1 []APIGroup atomic
APIResource
  name! 1 string
  namespaced! 2 bool
  kind! 3 string
  verbs! 4 []string wrap
  shortNames 5 []string atomic
  singularName! 6 string
  categories 7 []string atomic
  group 8 string
  version 9 string
  storageVersionHash 10 string
APIResourceList kind
  groupVersion! 1 string
  resources! 2 []APIResource atomic
APIVersions kind
  versions! 1 []string atomic
  serverAddressByClientCIDRs! 2 []ServerAddressByClientCIDR atomic
Condition # One aspect of an object's state.
  type! 1 string
  status! 2 string
  observedGeneration 3 int64
  lastTransitionTime! 4 Time
  reason! 5 string
  message! 6 string
CreateOptions kind
  dryRun 1 []string
  fieldManager 3 string
  fieldValidation 4 string
DeleteOptions typed # How an object is deleted.
  gracePeriodSeconds 1 *int64
  preconditions 2 *Preconditions
  orphanDependents 3 *bool
  propagationPolicy 4 *string
  dryRun 5 []string atomic
  ignoreStoreReadErrorWithClusterBreakingPotential 6 *bool
FieldSelectorRequirement
  key! 1 string
  operator! 2 string
  values 3 []string atomic
FieldsV1 = object
GetOptions kind
  resourceVersion 1 string
GroupResource
  group! 1 string
  resource! 2 string
GroupVersionForDiscovery
  groupVersion! 1 string
  version! 2 string
Info @io.k8s.apimachinery.pkg.version
  buildDate! - string
  compiler! - string
  emulationMajor - string
  emulationMinor - string
  gitCommit! - string
  gitTreeState! - string
  gitVersion! - string
  goVersion! - string
  major! - string
  minCompatibilityMajor - string
  minCompatibilityMinor - string
  minor! - string
  platform! - string
IntOrString = string:int-or-string @io.k8s.apimachinery.pkg.util.intstr # A number, or text: a percentage or the name of a port.
LabelSelector atomic # Chooses objects by their labels. Empty chooses all.
  matchLabels 1 {}string # Labels the objects must have.
  matchExpressions 2 []LabelSelectorRequirement atomic # Conditions that must all hold.
LabelSelectorRequirement
  key! 1 string
  operator! 2 string
  values 3 []string atomic
List kind
  metadata 1 ListMeta
  items 2 []RawExtension
ListMeta # Metadata of lists.
  selfLink 1 string
  resourceVersion 2 string
  continue 3 string
  remainingItemCount 4 *int64
  shardInfo 5 *ShardInfo
ListOptions kind
  labelSelector 1 string
  fieldSelector 2 string
  watch 3 bool
  resourceVersion 4 string
  timeoutSeconds 5 *int64
  limit 7 int64
  continue 8 string
  allowWatchBookmarks 9 bool
  resourceVersionMatch 10 string
  sendInitialEvents 11 *bool
  shardSelector 15 string
ManagedFieldsEntry # Fields that somebody set.
  manager 1 string
  operation 2 string
  apiVersion 3 string
  time 4 *Time
  fieldsType 6 string
  fieldsV1 7 *FieldsV1
  subresource 8 string
MicroTime = string:date-time # A time in RFC 3339 form, to the microsecond.
ObjectMeta # Metadata that every object has.
  name 1 string # Name of the object, unique in its namespace.
  generateName 2 string # Beginning of a name that the system completes.
  namespace 3 string # Namespace the object is in.
  selfLink 4 string
  uid 5 string # Identifies the object for ever.
  resourceVersion 6 string # Changes with each write. Opaque.
  generation 7 int64 # Counts changes of what is wanted.
  creationTimestamp 8 Time omitzero # CreationTimestamp is a timestamp: when the object was created.
  deletionTimestamp 9 *Time # When the object is to be gone. Set when it is deleted.
  deletionGracePeriodSeconds 10 *int64 # Seconds the object is given to end.
  labels 11 {}string # Facts by key, for selecting.
  annotations 12 {}string # Further facts by key, not for selecting.
  ownerReferences 13 []OwnerReference map=uid merge=uid # Objects this one depends on; it goes when they are gone.
  finalizers 14 []string set merge # What must be done, and taken off this list, before the object is removed.
  managedFields 17 []ManagedFieldsEntry atomic # Who set which fields.
OwnerReference atomic # An object that another depends on.
  kind! 1 string # Kind of the owner.
  name! 3 string # Name of the owner.
  uid! 4 string # Identity of the owner.
  apiVersion! 5 string # API version of the owner.
  controller 6 *bool # Whether the owner manages the object; only one does.
  blockOwnerDeletion 7 *bool # Whether a foreground deletion of the owner waits for the object.
PartialObjectMetadata kind
  metadata 1 ObjectMeta
PartialObjectMetadataList kind
  metadata 1 ListMeta
  items 2 []PartialObjectMetadata
Patch = object
PatchOptions kind
  dryRun 1 []string
  force 2 *bool
  fieldManager 3 string
  fieldValidation 4 string
Preconditions
  uid 1 *string
  resourceVersion 2 *string
Quantity = string @io.k8s.apimachinery.pkg.api.resource # An amount such as 100m, 1.5Gi or 2e3.
RawExtension = object @io.k8s.apimachinery.pkg.runtime
ServerAddressByClientCIDR
  clientCIDR! 1 string
  serverAddress! 2 string
ShardInfo
  selector! 1 string
Status kind # The outcome of a request.
  metadata 1 ListMeta
  status 2 string
  message 3 string
  reason 4 string
  details 5 *StatusDetails
  code 6 int32
StatusCause
  reason 1 string
  message 2 string
  field 3 string
StatusDetails
  name 1 string
  group 2 string
  kind 3 string
  causes 4 []StatusCause atomic
  retryAfterSeconds 5 int32
  uid 6 string
Time = string:date-time # A time in RFC 3339 form, to the second.
UpdateOptions kind
  dryRun 1 []string
  fieldManager 2 string
  fieldValidation 3 string
WatchEvent
  type! 1 string
  object! 2 RawExtension
"""
