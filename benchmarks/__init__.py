"""Side by side with the limits of this machine: `make bench` prints ratios, never bare rates to be believed."""
