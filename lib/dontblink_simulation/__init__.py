
import dontblink  # noqa: F401  what it says of Ctrl-C holds here, too
