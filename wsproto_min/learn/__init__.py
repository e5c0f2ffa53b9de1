"""The path from the accept key to the conformance suite, with a checker for each step."""
