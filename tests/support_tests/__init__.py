"""What is in tests/support does what tests believe of it, without any proxy of ours involved."""
