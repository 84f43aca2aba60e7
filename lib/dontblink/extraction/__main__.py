"""The command of the extraction: `python -m dontblink.extraction`."""

from dontblink.extraction.run import main

if __name__ == "__main__":
    main()
