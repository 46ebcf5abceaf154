"""Types of rbac/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
AggregationRule
  clusterRoleSelectors 1 []LabelSelector atomic
ClusterRole kind
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic
  aggregationRule 3 *AggregationRule
ClusterRoleBinding kind
  metadata 1 ObjectMeta
  subjects 2 []Subject atomic
  roleRef! 3 RoleRef
ClusterRoleBindingList kind
  metadata 1 ListMeta
  items! 2 []ClusterRoleBinding
ClusterRoleList kind
  metadata 1 ListMeta
  items! 2 []ClusterRole
PolicyRule
  verbs! 1 []string atomic
  apiGroups 2 []string atomic
  resources 3 []string atomic
  resourceNames 4 []string atomic
  nonResourceURLs 5 []string atomic
Role kind
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic
RoleBinding kind
  metadata 1 ObjectMeta
  subjects 2 []Subject atomic
  roleRef! 3 RoleRef
RoleBindingList kind
  metadata 1 ListMeta
  items! 2 []RoleBinding
RoleList kind
  metadata 1 ListMeta
  items! 2 []Role
RoleRef atomic
  apiGroup 1 string always
  kind! 2 string
  name! 3 string
Subject atomic
  kind! 1 string
  apiGroup 2 string
  name! 3 string
  namespace 4 string
"""
