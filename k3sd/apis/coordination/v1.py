"""Types of coordination/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Lease kind # Says who holds something, and until when.
  metadata 1 ObjectMeta
  spec 2 LeaseSpec
LeaseList kind
  metadata 1 ListMeta
  items! 2 []Lease
LeaseSpec
  holderIdentity 1 *string
  leaseDurationSeconds 2 *int32
  acquireTime 3 *MicroTime
  renewTime 4 *MicroTime
  leaseTransitions 5 *int32
  strategy 6 *string
  preferredHolder 7 *string
"""
