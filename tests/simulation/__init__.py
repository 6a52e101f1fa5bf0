"""Histories of a writer, its producer, its node and its disk, played in simulated time.

    PYTHONHASHSEED=0 python -m simulation.play SEED...      (from the tests folder)

plays histories by their seeds; `--help` says how to play many. One seed makes one history: the plan
(`plan`), the chain and its views (`world`), what the stream, the node (`node`), the sources of values
(`sources`) and the disk do to the writer, and every moment at which anything runs (`clock`). `play`
puts them together and says what must hold.
"""
