"""Types of rbac/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
AggregationRule
  clusterRoleSelectors 1 []LabelSelector atomic
ClusterRole kind # Permissions, in the whole cluster or for use in role bindings.
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic # What the role allows.
  aggregationRule 3 *AggregationRule # Labels of the roles whose rules it takes over.
ClusterRoleBinding kind # Gives a cluster role to users, groups and service accounts.
  metadata 1 ObjectMeta
  subjects 2 []Subject atomic # Who gets the role.
  roleRef! 3 RoleRef # The role. It cannot be changed.
ClusterRoleBindingList kind
  metadata 1 ListMeta
  items! 2 []ClusterRoleBinding
ClusterRoleList kind
  metadata 1 ListMeta
  items! 2 []ClusterRole
PolicyRule # Verbs allowed on resources or URLs.
  verbs! 1 []string atomic # Verbs that are allowed, such as get; * for all.
  apiGroups 2 []string atomic # API groups; "" is the core group.
  resources 3 []string atomic # Resources such as pods or pods/log; * for all.
  resourceNames 4 []string atomic # Names of objects; all by default.
  nonResourceURLs 5 []string atomic # Paths outside of resources, such as /healthz.
Role kind # Permissions inside a namespace.
  metadata 1 ObjectMeta
  rules 2 []PolicyRule always atomic # What the role allows.
RoleBinding kind # Gives a role to users, groups and service accounts inside a namespace.
  metadata 1 ObjectMeta
  subjects 2 []Subject atomic # Who gets the role.
  roleRef! 3 RoleRef # The role. It cannot be changed.
RoleBindingList kind
  metadata 1 ListMeta
  items! 2 []RoleBinding
RoleList kind
  metadata 1 ListMeta
  items! 2 []Role
RoleRef atomic
  apiGroup 1 string always
  kind! 2 string # Role or ClusterRole.
  name! 3 string # Name of the role.
Subject atomic
  kind! 1 string # User, Group or ServiceAccount.
  apiGroup 2 string
  name! 3 string # Name of the subject.
  namespace 4 string # Namespace of a ServiceAccount.
"""
