"""Types of certificates/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
CertificateSigningRequest kind # Asks for a certificate.
  metadata 1 ObjectMeta
  spec! 2 CertificateSigningRequestSpec
  status 3 CertificateSigningRequestStatus
CertificateSigningRequestCondition
  type! 1 string
  reason 2 string
  message 3 string
  lastUpdateTime 4 Time
  lastTransitionTime 5 Time
  status! 6 string
CertificateSigningRequestList kind
  metadata 1 ListMeta
  items! 2 []CertificateSigningRequest
CertificateSigningRequestSpec
  request! 1 bytes
  username 2 string
  uid 3 string
  groups 4 []string atomic
  usages 5 []string atomic
  extra 6 {}[]string wrap
  signerName! 7 string
  expirationSeconds 8 *int32
CertificateSigningRequestStatus
  conditions 1 []CertificateSigningRequestCondition map=type
  certificate 2 bytes
"""
