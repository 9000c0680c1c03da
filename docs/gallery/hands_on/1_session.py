"""
Register two scans
==================

What one command does.
"""

import l2rfast

print(l2rfast.__name__)
