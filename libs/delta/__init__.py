"""Chunking and the delta object: what needs compiled packages, and still no input or output.

The formats themselves are in `libs.contracts` (`chunks`, `recipe`).
"""
