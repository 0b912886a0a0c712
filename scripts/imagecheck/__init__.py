"""What `make image-check` checks: files, image, and the 68 checkpoints of docs/container.md.

A check is a function of a `Subject` that returns the problems it found, a line each; none is a
pass. `checkpoints` says which checks hold which checkpoint.
"""
