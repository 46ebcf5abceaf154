"""Types of authorization/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
FieldSelectorAttributes
  rawSelector 1 string
  requirements 2 []FieldSelectorRequirement atomic
LabelSelectorAttributes
  rawSelector 1 string
  requirements 2 []LabelSelectorRequirement atomic
LocalSubjectAccessReview kind # May a user do something in a namespace?
  metadata 1 ObjectMeta
  spec! 2 SubjectAccessReviewSpec
  status 3 SubjectAccessReviewStatus
NonResourceAttributes
  path 1 string
  verb 2 string
NonResourceRule
  verbs! 1 []string atomic
  nonResourceURLs 2 []string atomic
ResourceAttributes
  namespace 1 string
  verb 2 string
  group 3 string
  version 4 string
  resource 5 string
  subresource 6 string
  name 7 string
  fieldSelector 8 *FieldSelectorAttributes
  labelSelector 9 *LabelSelectorAttributes
ResourceRule
  verbs! 1 []string atomic
  apiGroups 2 []string atomic
  resources 3 []string atomic
  resourceNames 4 []string atomic
SelfSubjectAccessReview kind # May I do something?
  metadata 1 ObjectMeta
  spec! 2 SelfSubjectAccessReviewSpec
  status 3 SubjectAccessReviewStatus
SelfSubjectAccessReviewSpec
  resourceAttributes 1 *ResourceAttributes
  nonResourceAttributes 2 *NonResourceAttributes
SelfSubjectRulesReview kind # What may I do in a namespace?
  metadata 1 ObjectMeta
  spec! 2 SelfSubjectRulesReviewSpec
  status 3 SubjectRulesReviewStatus
SelfSubjectRulesReviewSpec
  namespace 1 string
SubjectAccessReview kind # May a user do something?
  metadata 1 ObjectMeta
  spec! 2 SubjectAccessReviewSpec
  status 3 SubjectAccessReviewStatus
SubjectAccessReviewSpec
  resourceAttributes 1 *ResourceAttributes
  nonResourceAttributes 2 *NonResourceAttributes
  user 3 string
  groups 4 []string atomic
  extra 5 {}[]string wrap
  uid 6 string
SubjectAccessReviewStatus
  allowed! 1 bool
  reason 2 string
  evaluationError 3 string
  denied 4 bool
SubjectRulesReviewStatus
  resourceRules! 1 []ResourceRule atomic
  nonResourceRules! 2 []NonResourceRule atomic
  incomplete! 3 bool
  evaluationError 4 string
"""
