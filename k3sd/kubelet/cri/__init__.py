"""The container runtime interface: messages, client, and containerd's event stream. Knows nothing of pods."""
