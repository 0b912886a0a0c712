"""Load and soak tests: what a server answers under load, and what it does when something breaks.

    make load [QUICK=1]        docs/loadtest.md says what each number means

`mix` decides what is asked, `plain` and `locustfile` ask it, `llm` plays the LLM, `target` starts
a server of the test's own, `faults` breaks things meanwhile, `records`, `knee` and `report` make
sense of it. Nothing here is part of the package or of the image.
"""
