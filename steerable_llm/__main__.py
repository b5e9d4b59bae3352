"""``python -m steerable_llm`` is the command ``steerable``."""

from steerable_llm.cli.command import main

if __name__ == "__main__":
    main()
