"""Types of discovery/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
Endpoint
  addresses! 1 []string set # Addresses of the endpoint.
  conditions 2 EndpointConditions # Whether it is ready, serving or terminating.
  hostname 3 *string # Its name below the service's.
  targetRef 4 *core.ObjectReference # The pod behind it.
  deprecatedTopology 5 {}string
  nodeName 6 *string # Node it is on.
  zone 7 *string # Zone it is in.
  hints 8 *EndpointHints
EndpointConditions
  ready 1 *bool
  serving 2 *bool
  terminating 3 *bool
EndpointHints
  forZones 1 []ForZone atomic
  forNodes 2 []ForNode atomic
EndpointPort atomic
  name 1 *string # Name of the service's port.
  protocol 2 *string # TCP, UDP or SCTP.
  port 3 *int32 # Number of the port.
  appProtocol 4 *string
EndpointSlice kind # Some of the addresses behind a service.
  metadata 1 ObjectMeta
  endpoints 2 []Endpoint always atomic # Where the service's traffic can go.
  ports 3 []EndpointPort always atomic # Ports of all its endpoints.
  addressType! 4 string # IPv4, IPv6 or FQDN. It cannot be changed.
EndpointSliceList kind
  metadata 1 ListMeta
  items! 2 []EndpointSlice
ForNode
  name! 1 string
ForZone
  name! 1 string
"""
