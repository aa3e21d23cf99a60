"""`python -m mergenet`, and so `torchrun -m mergenet`."""

from mergenet.cli import main

if __name__ == "__main__":
    main()
