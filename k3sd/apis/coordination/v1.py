"""Types of coordination/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Lease kind # Says who holds something, and until when.
  metadata 1 ObjectMeta
  spec 2 LeaseSpec
LeaseList kind
  metadata 1 ListMeta
  items! 2 []Lease
LeaseSpec
  holderIdentity 1 *string # Who holds it.
  leaseDurationSeconds 2 *int32 # How long it counts after a renewal.
  acquireTime 3 *MicroTime # When the holder got it.
  renewTime 4 *MicroTime # When the holder renewed it last.
  leaseTransitions 5 *int32 # How often the holder changed.
  strategy 6 *string
  preferredHolder 7 *string
"""
