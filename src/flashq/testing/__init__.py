"""What tests of FlashQ, and of programs on it, need: a clock to turn, a disk that fails, a server to talk to.

Deliberately absent: pytest (`flashq.pytest_plugin` makes fixtures of what is here), and anything the engine uses.
"""
