"""One command per claim: each measures what a document says, and its test."""
