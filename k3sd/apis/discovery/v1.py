"""Types of discovery/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Endpoint
  addresses! 1 []string set
  conditions 2 EndpointConditions
  hostname 3 *string
  targetRef 4 *core.ObjectReference
  deprecatedTopology 5 {}string
  nodeName 6 *string
  zone 7 *string
  hints 8 *EndpointHints
EndpointConditions
  ready 1 *bool
  serving 2 *bool
  terminating 3 *bool
EndpointHints
  forZones 1 []ForZone atomic
  forNodes 2 []ForNode atomic
EndpointPort atomic
  name 1 *string
  protocol 2 *string
  port 3 *int32
  appProtocol 4 *string
EndpointSlice kind # Some of the addresses behind a service.
  metadata 1 ObjectMeta
  endpoints 2 []Endpoint always atomic
  ports 3 []EndpointPort always atomic
  addressType! 4 string
EndpointSliceList kind
  metadata 1 ListMeta
  items! 2 []EndpointSlice
ForNode
  name! 1 string
ForZone
  name! 1 string
"""
