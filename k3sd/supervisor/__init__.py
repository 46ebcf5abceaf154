"""K3s's own business on a server: its HTTP routes beside the API (``routes``) and the marks on its own node (``noderoles``)."""
