"""`python -m compress`, for machines where an old Unix program has the same name."""

from compress.cli import main

if __name__ == "__main__":
    main()
