"""`flashq demo`: an interactive tour on the engine itself. No network, and nothing is left behind."""
