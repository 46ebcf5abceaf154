"""Processes: ``parent`` (the loop that owns sockets and children), ``child`` (one supervised process), ``inherit`` (the
child's side: settings, sockets, readiness), ``run`` (the one door for short-lived commands)."""
