"""K3s's tokens and node credentials: ``join`` (formats and CA hash), ``passwd`` (the server's password file)."""
