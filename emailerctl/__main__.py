"""`python -m emailerctl` is `emailerctl`."""

from emailerctl.cli.main import main

if __name__ == "__main__":
    main()
