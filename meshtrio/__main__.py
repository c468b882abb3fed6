"""`python -m meshtrio`"""

from meshtrio.cli import main

if __name__ == "__main__":
    main()
