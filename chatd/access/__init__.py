"""Access control: origins, invitations, trusted proxies and limits."""
