"""`python -m peercli`."""

from peercli.cli.run import main

if __name__ == "__main__":
    main()
