"""Types of apiregistration/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
APIService kind # A group and version of the API, served here or by another server.
  metadata 1 ObjectMeta
  spec 2 APIServiceSpec
  status 3 APIServiceStatus
APIServiceCondition
  type! 1 string
  status! 2 string
  lastTransitionTime 3 Time
  reason 4 string
  message 5 string
APIServiceList kind
  metadata 1 ListMeta
  items! 2 []APIService
APIServiceSpec
  service 1 *ServiceReference
  group 2 string
  version 3 string
  insecureSkipTLSVerify 4 bool
  caBundle 5 bytes atomic
  groupPriorityMinimum! 7 int32
  versionPriority! 8 int32
APIServiceStatus
  conditions 1 []APIServiceCondition map=type merge=type
ServiceReference
  namespace 1 string
  name 2 string
  port 3 *int32
"""
