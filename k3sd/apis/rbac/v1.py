"""Types of rbac/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
AggregationRule
  clusterRoleSelectors 1 []LabelSelector atomic
ClusterRole kind # Permissions, in the whole cluster or for use in role bindings.
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic
  aggregationRule 3 *AggregationRule
ClusterRoleBinding kind # Gives a cluster role to users, groups and service accounts.
  metadata 1 ObjectMeta
  subjects 2 []Subject atomic
  roleRef! 3 RoleRef
ClusterRoleBindingList kind
  metadata 1 ListMeta
  items! 2 []ClusterRoleBinding
ClusterRoleList kind
  metadata 1 ListMeta
  items! 2 []ClusterRole
PolicyRule # Verbs allowed on resources or URLs.
  verbs! 1 []string atomic
  apiGroups 2 []string atomic
  resources 3 []string atomic
  resourceNames 4 []string atomic
  nonResourceURLs 5 []string atomic
Role kind # Permissions inside a namespace.
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic
RoleBinding kind # Gives a role to users, groups and service accounts inside a namespace.
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
