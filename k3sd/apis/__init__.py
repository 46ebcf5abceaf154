"""The Kubernetes 1.36 API as data: types (one module a group and version), resources, defaults, printer columns."""
