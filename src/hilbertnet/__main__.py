"""``python -m hilbertnet``."""

from hilbertnet.cli import main

if __name__ == "__main__":
    main()
