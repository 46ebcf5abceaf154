"""Types of authentication/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
BoundObjectReference
  kind 1 string
  apiVersion 2 string
  name 3 string
  uid 4 string
SelfSubjectReview kind # Who am I?
  metadata 1 ObjectMeta
  status 2 SelfSubjectReviewStatus
SelfSubjectReviewStatus
  userInfo 1 UserInfo
TokenRequest kind # Asks for a token of a service account.
  metadata 1 ObjectMeta
  spec 2 TokenRequestSpec always
  status 3 TokenRequestStatus
TokenRequestSpec
  audiences 1 []string always atomic
  boundObjectRef 3 *BoundObjectReference
  expirationSeconds 4 *int64
TokenRequestStatus
  token 1 string always
  expirationTimestamp 2 Time always
TokenReview kind # Whom does this token belong to?
  metadata 1 ObjectMeta
  spec! 2 TokenReviewSpec
  status 3 TokenReviewStatus
TokenReviewSpec
  token! 1 string omit
  audiences 2 []string atomic
TokenReviewStatus
  authenticated 1 bool
  user 2 UserInfo
  error 3 string
  audiences 4 []string atomic
UserInfo
  username 1 string
  uid 2 string
  groups 3 []string atomic
  extra 4 {}[]string wrap
"""
