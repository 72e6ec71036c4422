"""Side by side with peers and with the limits of this machine, as ratios within one run."""
