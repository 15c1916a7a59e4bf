"""Every reach into what another library keeps to itself, one file a library.

Each says which public hook is missing, and a test fails when upstream changes. What is replaced in
a library is put back when the command ends.
"""
