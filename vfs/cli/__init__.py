"""The command line. Works on stores through the engine, and on mounted paths through the mount itself, so that the
kernel checks who may do what (docs/adr). Nothing but click and the standard library is imported until it is needed:
`vfs --help` answers in 100 ms.
"""
