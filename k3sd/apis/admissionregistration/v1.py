"""Types of admissionregistration/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
ApplyConfiguration
  expression 1 string
AuditAnnotation
  key! 1 string
  valueExpression! 2 string
ExpressionWarning
  fieldRef! 2 string
  warning! 3 string
JSONPatch
  expression 1 string
MatchCondition
  name! 1 string
  expression! 2 string
MatchResources atomic
  namespaceSelector 1 *LabelSelector
  objectSelector 2 *LabelSelector
  resourceRules 3 []NamedRuleWithOperations atomic
  excludeResourceRules 4 []NamedRuleWithOperations atomic
  matchPolicy 7 *string
MutatingAdmissionPolicy kind # Changes objects on their way in, by CEL expressions.
  metadata 1 ObjectMeta
  spec 2 MutatingAdmissionPolicySpec
MutatingAdmissionPolicyBinding kind # Puts a mutating policy into force.
  metadata 1 ObjectMeta
  spec 2 MutatingAdmissionPolicyBindingSpec
MutatingAdmissionPolicyBindingList kind
  metadata 1 ListMeta
  items! 2 []MutatingAdmissionPolicyBinding
MutatingAdmissionPolicyBindingSpec
  policyName 1 string
  paramRef 2 *ParamRef
  matchResources 3 *MatchResources
MutatingAdmissionPolicyList kind
  metadata 1 ListMeta
  items! 2 []MutatingAdmissionPolicy
MutatingAdmissionPolicySpec
  paramKind 1 *ParamKind
  matchConstraints 2 *MatchResources
  variables 3 []Variable atomic
  mutations 4 []Mutation atomic
  failurePolicy 5 *string
  matchConditions 6 []MatchCondition map=name merge=name
  reinvocationPolicy 7 string
MutatingWebhook
  name! 1 string
  clientConfig! 2 WebhookClientConfig
  rules 3 []RuleWithOperations atomic
  failurePolicy 4 *string
  namespaceSelector 5 *LabelSelector
  sideEffects! 6 *string
  timeoutSeconds 7 *int32
  admissionReviewVersions! 8 []string atomic
  matchPolicy 9 *string
  reinvocationPolicy 10 *string
  objectSelector 11 *LabelSelector
  matchConditions 12 []MatchCondition map=name merge=name
MutatingWebhookConfiguration kind # Webhooks that may change objects on their way in.
  metadata 1 ObjectMeta
  webhooks 2 []MutatingWebhook map=name merge=name
MutatingWebhookConfigurationList kind
  metadata 1 ListMeta
  items! 2 []MutatingWebhookConfiguration
Mutation
  patchType! 2 string
  applyConfiguration 3 *ApplyConfiguration
  jsonPatch 4 *JSONPatch
NamedRuleWithOperations atomic
  resourceNames 1 []string atomic
  operations 2.1 []string atomic
  apiGroups 2.2.1 []string atomic
  apiVersions 2.2.2 []string atomic
  resources 2.2.3 []string atomic
  scope 2.2.4 *string
ParamKind atomic
  apiVersion 1 string
  kind 2 string
ParamRef atomic
  name 1 string
  namespace 2 string
  selector 3 *LabelSelector
  parameterNotFoundAction 4 *string
RuleWithOperations
  operations 1 []string atomic
  apiGroups 2.1 []string atomic
  apiVersions 2.2 []string atomic
  resources 2.3 []string atomic
  scope 2.4 *string
ServiceReference
  namespace! 1 string
  name! 2 string
  path 3 *string
  port 4 *int32
TypeChecking
  expressionWarnings 1 []ExpressionWarning atomic
ValidatingAdmissionPolicy kind # Accepts or refuses objects, by CEL expressions.
  metadata 1 ObjectMeta
  spec 2 ValidatingAdmissionPolicySpec
  status 3 ValidatingAdmissionPolicyStatus
ValidatingAdmissionPolicyBinding kind # Puts a validating policy into force.
  metadata 1 ObjectMeta
  spec! 2 ValidatingAdmissionPolicyBindingSpec omit
ValidatingAdmissionPolicyBindingList kind
  metadata 1 ListMeta
  items! 2 []ValidatingAdmissionPolicyBinding
ValidatingAdmissionPolicyBindingSpec
  policyName! 1 string omit
  paramRef 2 *ParamRef
  matchResources 3 *MatchResources
  validationActions! 4 []string omit set
ValidatingAdmissionPolicyList kind
  metadata 1 ListMeta
  items! 2 []ValidatingAdmissionPolicy
ValidatingAdmissionPolicySpec
  paramKind 1 *ParamKind
  matchConstraints 2 *MatchResources
  validations 3 []Validation atomic
  failurePolicy 4 *string
  auditAnnotations 5 []AuditAnnotation atomic
  matchConditions 6 []MatchCondition map=name merge=name
  variables 7 []Variable map=name merge=name
ValidatingAdmissionPolicyStatus
  observedGeneration 1 int64
  typeChecking 2 *TypeChecking
  conditions 3 []Condition map=type
ValidatingWebhook
  name! 1 string
  clientConfig! 2 WebhookClientConfig
  rules 3 []RuleWithOperations atomic
  failurePolicy 4 *string
  namespaceSelector 5 *LabelSelector
  sideEffects! 6 *string
  timeoutSeconds 7 *int32
  admissionReviewVersions! 8 []string atomic
  matchPolicy 9 *string
  objectSelector 10 *LabelSelector
  matchConditions 11 []MatchCondition map=name merge=name
ValidatingWebhookConfiguration kind # Webhooks that accept or refuse objects.
  metadata 1 ObjectMeta
  webhooks 2 []ValidatingWebhook map=name merge=name
ValidatingWebhookConfigurationList kind
  metadata 1 ListMeta
  items! 2 []ValidatingWebhookConfiguration
Validation
  expression! 1 string
  message 2 string
  reason 3 *string
  messageExpression 4 string
Variable atomic
  name! 1 string
  expression! 2 string
WebhookClientConfig
  service 1 *ServiceReference
  caBundle 2 bytes
  url 3 *string
"""
