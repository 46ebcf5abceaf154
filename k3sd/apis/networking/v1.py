"""Types of networking/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
HTTPIngressPath
  path 1 string # Path, or its beginning.
  backend! 2 IngressBackend # Where requests go.
  pathType! 3 *string # Exact, Prefix or ImplementationSpecific.
HTTPIngressRuleValue
  paths! 1 []HTTPIngressPath atomic
Ingress kind # Rules for HTTP traffic from outside to services.
  metadata 1 ObjectMeta
  spec 2 IngressSpec
  status 3 IngressStatus
IngressBackend
  resource 3 *core.TypedLocalObjectReference # An object instead of a service.
  service 4 *IngressServiceBackend # The service and its port.
IngressClass kind # Names the controller that carries out ingresses.
  metadata 1 ObjectMeta
  spec 2 IngressClassSpec
IngressClassList kind
  metadata 1 ListMeta
  items! 2 []IngressClass
IngressClassParametersReference
  apiGroup 1 *string
  kind! 2 string
  name! 3 string
  scope 4 *string
  namespace 5 *string
IngressClassSpec
  controller 1 string
  parameters 2 *IngressClassParametersReference
IngressList kind
  metadata 1 ListMeta
  items! 2 []Ingress
IngressLoadBalancerIngress
  ip 1 string
  hostname 2 string
  ports 4 []IngressPortStatus atomic
IngressLoadBalancerStatus
  ingress 1 []IngressLoadBalancerIngress atomic
IngressPortStatus
  port! 1 int32
  protocol! 2 string
  error 3 *string
IngressRule
  host 1 string # Host name of the requests; all by default.
  http 2.1 *HTTPIngressRuleValue
IngressServiceBackend
  name! 1 string # Name of the service.
  port 2 ServiceBackendPort # Number or name of its port.
IngressSpec
  defaultBackend 1 *IngressBackend # Where requests go that match no rule.
  tls 2 []IngressTLS atomic # Certificates by host.
  rules 3 []IngressRule atomic # Hosts and paths, and the services behind them.
  ingressClassName 4 *string # The class that carries this ingress out.
IngressStatus
  loadBalancer 1 IngressLoadBalancerStatus
IngressTLS
  hosts 1 []string atomic # Names in the certificate.
  secretName 2 string # Secret with certificate and key.
IPAddress kind # An address in use by an object.
  metadata 1 ObjectMeta
  spec! 2 IPAddressSpec omit
IPAddressList kind
  metadata 1 ListMeta
  items! 2 []IPAddress
IPAddressSpec
  parentRef! 1 *ParentReference
IPBlock
  cidr! 1 string
  except 2 []string atomic
NetworkPolicy kind # Which traffic pods may receive and send.
  metadata 1 ObjectMeta
  spec 2 NetworkPolicySpec
NetworkPolicyEgressRule
  ports 1 []NetworkPolicyPort atomic # Ports that may be reached; all by default.
  to 2 []NetworkPolicyPeer atomic # Who may be reached; everybody by default.
NetworkPolicyIngressRule
  ports 1 []NetworkPolicyPort atomic # Ports that may be reached; all by default.
  from 2 []NetworkPolicyPeer atomic # Who may connect; everybody by default.
NetworkPolicyList kind
  metadata 1 ListMeta
  items! 2 []NetworkPolicy
NetworkPolicyPeer
  podSelector 1 *LabelSelector # Labels of the pods.
  namespaceSelector 2 *LabelSelector # Labels of the namespaces.
  ipBlock 3 *IPBlock # Addresses.
NetworkPolicyPort
  protocol 1 *string # TCP, UDP or SCTP. TCP by default.
  port 2 *IntOrString # Number or name of the port; all by default.
  endPort 3 *int32 # Last port of a range.
NetworkPolicySpec
  podSelector 1 LabelSelector always # The pods it holds for.
  ingress 2 []NetworkPolicyIngressRule atomic # Traffic the pods may receive.
  egress 3 []NetworkPolicyEgressRule atomic # Traffic the pods may send.
  policyTypes 4 []string atomic # Which directions it restricts: Ingress, Egress.
ParentReference
  group 1 string
  resource! 2 string omit
  namespace 3 string
  name! 4 string omit
ServiceBackendPort atomic
  name 1 string
  number 2 int32
ServiceCIDR kind # A range for the addresses of services.
  metadata 1 ObjectMeta
  spec 2 ServiceCIDRSpec
  status 3 ServiceCIDRStatus
ServiceCIDRList kind
  metadata 1 ListMeta
  items! 2 []ServiceCIDR
ServiceCIDRSpec
  cidrs 1 []string atomic
ServiceCIDRStatus
  conditions 1 []Condition map=type merge=type
"""
