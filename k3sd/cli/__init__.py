"""The subcommands: parse, call, print, exit code (0 done, 1 failed, 2 wrong usage or configuration). ``main`` has the table."""
