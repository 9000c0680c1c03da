"""What tries to break l2rfast, at length: more than the tests have time for. ``make reliability`` runs every part."""
