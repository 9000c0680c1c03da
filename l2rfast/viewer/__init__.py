"""Results to look at: pages that need no network, with the scans in them, and a server of one result."""
