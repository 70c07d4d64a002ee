"""`python -m stadapter` is `stadapter`."""

from stadapter.cli import main

if __name__ == "__main__":
    main()
