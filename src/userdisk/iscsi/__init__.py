"""iSCSI (RFC 7143), sans-I/O: PDUs, negotiation, login, and the target side of a connection."""
