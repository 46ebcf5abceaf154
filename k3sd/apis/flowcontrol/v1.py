"""Types of flowcontrol/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
ExemptPriorityLevelConfiguration
  nominalConcurrencyShares 1 *int32
  lendablePercent 2 *int32
FlowDistinguisherMethod
  type! 1 string
FlowSchema kind # Sorts requests into priority levels.
  metadata 1 ObjectMeta
  spec 2 FlowSchemaSpec
  status 3 FlowSchemaStatus
FlowSchemaCondition
  type 1 string
  status 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
FlowSchemaList kind
  metadata 1 ListMeta
  items! 2 []FlowSchema
FlowSchemaSpec
  priorityLevelConfiguration! 1 PriorityLevelConfigurationReference
  matchingPrecedence 2 int32 always
  distinguisherMethod 3 *FlowDistinguisherMethod
  rules 4 []PolicyRulesWithSubjects atomic
FlowSchemaStatus
  conditions 1 []FlowSchemaCondition map=type merge=type
GroupSubject
  name! 1 string
LimitedPriorityLevelConfiguration
  nominalConcurrencyShares 1 *int32
  limitResponse 2 LimitResponse
  lendablePercent 3 *int32
  borrowingLimitPercent 4 *int32
LimitResponse
  type! 1 string
  queuing 2 *QueuingConfiguration
NonResourcePolicyRule
  verbs! 1 []string set
  nonResourceURLs! 6 []string set
PolicyRulesWithSubjects
  subjects! 1 []Subject atomic
  resourceRules 2 []ResourcePolicyRule atomic
  nonResourceRules 3 []NonResourcePolicyRule atomic
PriorityLevelConfiguration kind # How many requests of a priority level run at once.
  metadata 1 ObjectMeta
  spec 2 PriorityLevelConfigurationSpec
  status 3 PriorityLevelConfigurationStatus
PriorityLevelConfigurationCondition
  type 1 string
  status 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
PriorityLevelConfigurationList kind
  metadata 1 ListMeta
  items! 2 []PriorityLevelConfiguration
PriorityLevelConfigurationReference
  name! 1 string
PriorityLevelConfigurationSpec
  type! 1 string
  limited 2 *LimitedPriorityLevelConfiguration
  exempt 3 *ExemptPriorityLevelConfiguration
PriorityLevelConfigurationStatus
  conditions 1 []PriorityLevelConfigurationCondition map=type merge=type
QueuingConfiguration
  queues 1 int32 always
  handSize 2 int32 always
  queueLengthLimit 3 int32 always
ResourcePolicyRule
  verbs! 1 []string set
  apiGroups! 2 []string set
  resources! 3 []string set
  clusterScope 4 bool
  namespaces 5 []string always set
ServiceAccountSubject
  namespace! 1 string
  name! 2 string
Subject
  kind! 1 string
  user 2 *UserSubject
  group 3 *GroupSubject
  serviceAccount 4 *ServiceAccountSubject
UserSubject
  name! 1 string
"""
