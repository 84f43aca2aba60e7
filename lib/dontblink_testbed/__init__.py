"""The model organism: small vision-language models of known making, on which the instrument is checked.

Three benchmarks are generated from a seed: questions about a 6x6 grid of sprites, with gold reasoning steps and the
exact box of every cell that a step needs. Three models of the real Qwen3-VL and GLM-4V classes, small enough for a CPU,
are trained from scratch to answer them with a chain of thought. Nothing in their training sees an attention map or an
evidence box, so whatever the instrument finds in them was not put there. `scenes` draws the pictures, `questions` asks
and answers, `benchmark` makes Items of both and scores, `vocabulary` tokenizes, `architectures` builds the models,
`lessons` makes training batches, `train` trains, `calibrate` fixes the difficulty, `publish` brings weights and cards
to models/testbed, and `misreads` counts which of the finished responses went wrong in the text. `stand_in` makes small
checkpoints of the real families' shape, without meaning, and `dry_run` takes a real study through them (`make extract
DRY=1`).
"""

import dontblink  # noqa: F401  what it says of Ctrl-C holds here, too
