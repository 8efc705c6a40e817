"""What is run under each contender."""
