"""What tests of several tiers share, besides fakes."""
