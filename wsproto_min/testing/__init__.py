"""Test material for any RFC 6455 parser: violations, raw frames and Hypothesis strategies."""
