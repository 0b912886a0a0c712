"""`python -m ragdock` is the command line."""

from ragdock.cli.main import main

if __name__ == "__main__":
    main()
